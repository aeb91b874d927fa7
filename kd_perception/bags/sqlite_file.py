"""The messages of one sqlite3 storage file (.db3), also where the recorder was killed and left a journal beside it.

The file is a stranger's: only plain tables are read, and the work is bounded by the file's size. It is never written to.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from kd_perception.bags.mcap_file import StoredMessage
from kd_perception.bags.metadata import Topic, add_topic
from kd_perception.bags.packed import MAX_UNPACKED_BYTES
from kd_perception.errors import BagError

MAGIC = b'SQLite format 3\0'
SUFFIX = '.db3'
JOURNALS = ('-wal', '-journal')

_NEEDED = {'topics': {'id', 'name', 'type', 'serialization_format'}, 'messages': {'topic_id', 'timestamp', 'data'}}
_STEPS_A_BYTE = 4
"""Steps of sqlite's machine: a row of 20 bytes and more takes about 20."""
_logger = logging.getLogger(__name__)


def topics(file: Path) -> dict[str, Topic]:
    """The topics with their numbers of messages, after a look at the whole file.

    Raises:
        ValueError, sqlite3.Error, OSError, BagError: damaged, or not of a recorder.
    """
    with _opened(file) as database:
        (verdict,) = database.execute('PRAGMA quick_check(1)').fetchone()
        if verdict != 'ok':
            raise ValueError(f'sqlite says: {str(verdict).splitlines()[-1]}')
        channels = _channels(database)
        # Counted in the table, and read by the index: what one of them lost shows.
        counts = dict(database.execute('SELECT topic_id, count(*) FROM messages NOT INDEXED GROUP BY topic_id'))
        strange = sum(count for number, count in counts.items() if number not in channels)
        if strange:
            raise ValueError(f'{strange} of its messages belong to no topic')
        found: dict[str, Topic] = {}
        for number, (name, type_name) in channels.items():
            add_topic(found, name, type_name, counts.get(number, 0))
        return found


def messages(file: Path, wanted: Collection[str] | None) -> Iterator[StoredMessage]:
    """The messages of some topics, or of all, by their time.

    Raises:
        ValueError, sqlite3.Error, OSError, BagError: damaged, or not of a recorder.
    """
    with _opened(file) as database:
        numbers = {
            number: channel for number, channel in _channels(database).items() if wanted is None or channel[0] in wanted
        }
        rows = database.execute(
            'SELECT topic_id, timestamp, length(data), CASE WHEN length(data) <= ? THEN data END FROM messages '
            f'WHERE topic_id IN ({",".join("?" * len(numbers))}) ORDER BY timestamp',
            (MAX_UNPACKED_BYTES, *numbers),
        )
        for number, received_ns, length, raw in rows:
            if not isinstance(raw, bytes) or not isinstance(received_ns, int):
                raise ValueError(f'a message of {length} bytes is none, or over the limit of {MAX_UNPACKED_BYTES}')
            yield (*numbers[number], received_ns, memoryview(raw))


def journals(file: Path) -> list[Path]:
    """What a recorder that was killed left beside its file: committed messages, or what an unfinished write replaced."""
    beside = (file.with_name(file.name + suffix) for suffix in JOURNALS)
    return [journal for journal in beside if journal.is_file() and journal.stat().st_size]


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """The database for reading. Where a journal lies beside it, both are copied and sqlite puts the copy in order."""
    beside = journals(file)
    with TemporaryDirectory(prefix='kd_perception_bag_') as folder:
        if beside:
            place = Path(folder) / 'recording.db3'
            _report(file, beside[0].name)
            for source in (file, *beside):
                _copy(source, place.with_name(place.name + source.name[len(file.name) :]))
            address = place.as_uri()
        else:
            address = f'{file.absolute().as_uri()}?mode=ro&immutable=1'
        with closing(sqlite3.connect(address, uri=True)) as database:
            _check(database, max(source.stat().st_size for source in (file, *beside)))
            yield database


@cache
def _report(file: Path, journal: str) -> None:
    """Once for every file."""
    _logger.warning('%s: its recorder did not end it; what lies in %s is read as well', file, journal)


def _copy(source: Path, target: Path) -> None:
    if shutil.disk_usage(target.parent).free < source.stat().st_size:
        raise BagError(
            f'{source}: {target.parent} has no space for a copy to put in order; set TMPDIR to a larger disk'
        )
    shutil.copyfile(source, target)


def _check(database: sqlite3.Connection, size: int) -> None:
    """Only tables with columns that hold what was written; and an end to the work."""
    budget = 1 + size * _STEPS_A_BYTE // 10_000
    left = iter(range(1000 + budget))
    database.set_progress_handler(lambda: next(left, None) is None, 10_000)
    database.execute('PRAGMA trusted_schema = OFF')
    kinds = dict(database.execute('SELECT name, type || substr(sql, 1, 13) FROM sqlite_master'))
    for table, needed in _NEEDED.items():
        columns = {name: hidden for _, name, _, _, _, _, hidden in database.execute(f'PRAGMA table_xinfo({table})')}
        if kinds.get(table, '').upper() != 'TABLECREATE TABLE ' or not needed <= set(columns):
            raise ValueError(f'it has no table {table} as a recorder makes it')
        if any(columns.values()):
            raise ValueError(f'its table {table} is computed')


def _channels(database: sqlite3.Connection) -> dict[int, tuple[str, str]]:
    found = {}
    for number, name, type_name, encoding in database.execute(
        'SELECT id, name, type, serialization_format FROM topics ORDER BY id'
    ):
        found[int(number)] = str(name), str(type_name) if encoding == 'cdr' else f'{type_name} in {encoding}'
    return found
