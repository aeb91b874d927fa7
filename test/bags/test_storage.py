"""Bags of strangers: every message that is stated is read, or the bag is refused; and what it becomes is bounded."""

import random
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bag_files import IMAGES, count_images, small_bag

from kd_perception.bags import packed
from kd_perception.bags.metadata import read_metadata
from kd_perception.bags.writer import BagWriter, is_bag_folder
from kd_perception.errors import BagError
from kd_perception.plain_yaml import MAX_NODES, plain_yaml

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FORMS = [
    ('mcap', 'none'),
    ('mcap', 'storage'),
    ('mcap', 'message'),
    ('mcap', 'file'),
    ('sqlite3', 'none'),
    ('sqlite3', 'file'),
]


def file_of(bag: Path) -> Path:
    (file,) = (file for file in bag.iterdir() if file.name != 'metadata.yaml')
    return file


# One wrong bit


@pytest.mark.parametrize('alone', [False, True], ids=['with metadata', 'file alone'])
@pytest.mark.parametrize(('storage', 'compression'), FORMS)
def test_one_wrong_bit_loses_no_image_without_a_word(
    storage: str, compression: str, alone: bool, tmp_path: Path
) -> None:
    bag = small_bag(tmp_path / 'bag', storage, compression)
    if alone:
        (bag / 'metadata.yaml').unlink()
    for file in bag.iterdir():
        content = bytearray(file.read_bytes())
        for bit in random.Random(0).sample(range(8 * len(content)), 60):
            content[bit // 8] ^= 1 << bit % 8
            file.write_bytes(content)
            content[bit // 8] ^= 1 << bit % 8
            try:
                assert count_images(bag) == IMAGES, f'bit {bit} of {file.name}'
            except BagError:
                continue
        file.write_bytes(content)
    assert count_images(bag) == IMAGES


@pytest.mark.parametrize('share', [0.0, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize(('storage', 'compression'), FORMS)
def test_a_file_that_was_cut_off_is_refused(storage: str, compression: str, share: float, tmp_path: Path) -> None:
    bag = small_bag(tmp_path / 'bag', storage, compression)
    file = file_of(bag)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(BagError):
        count_images(bag)


# Which files


def test_files_that_metadata_names_must_be_there_once_and_be_others(tmp_path: Path) -> None:
    bag, metadata = small_bag(tmp_path / 'bag'), tmp_path / 'bag/metadata.yaml'
    text = metadata.read_text()
    for names, message in (
        ('- bag.mcap\n  - bag_1.mcap', r'not there: bag_1\.mcap'),
        ('- bag.mcap\n  - bag.mcap', r'names files twice: bag\.mcap'),
    ):
        metadata.write_text(text.replace('relative_file_paths:\n  - bag.mcap', f'relative_file_paths:\n  {names}'))
        with pytest.raises(BagError, match=message):
            count_images(bag)
    metadata.write_text(text)
    shutil.copy(bag / 'bag.mcap', bag / 'bag_1.mcap')
    with pytest.raises(BagError, match=r'does not name bag_1\.mcap'):
        count_images(bag)
    metadata.unlink()
    with pytest.raises(BagError, match=r'bag\.mcap and bag_1\.mcap are the same file twice'):
        count_images(bag)


@pytest.mark.parametrize('stated', [IMAGES - 1, IMAGES + 1, 0, 10**6])
def test_another_count_than_the_metadata_states_is_refused_with_both(stated: int, tmp_path: Path) -> None:
    bag = small_bag(tmp_path / 'bag')
    text = (bag / 'metadata.yaml').read_text()
    (bag / 'metadata.yaml').write_text(text.replace(f'message_count: {IMAGES}', f'message_count: {stated}'))
    with pytest.raises(
        BagError, match=f'{IMAGES} messages of /image are there, but the bag states {stated}|no message'
    ):
        count_images(bag)


# Packed files


@pytest.mark.parametrize('name', ['a.mcap.zstd', 'a.db3.zstd'])
def test_a_packed_file_that_unpacks_without_end_fills_no_disk(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, '_ALWAYS_ALLOWED', 8 << 20)
    written: list[int] = []
    disk_usage = shutil.disk_usage
    monkeypatch.setattr(packed.shutil, 'disk_usage', lambda place: written.append(1) or disk_usage(place))
    (tmp_path / name).write_bytes(zstd.compress(bytes(64 << 20)) * 64)
    with pytest.raises(BagError, match=f'{name}: .* bytes unpack to more than'):
        count_images(tmp_path / name)
    assert len(written) < 20


# metadata.yaml


def bombs() -> Iterator[tuple[str, str]]:
    yield 'a: &x [1]\nb: *x', 'alias'
    yield 'a: {<<: {b: 1}}', 'merges keys'
    yield 'a: 1\na: 2', 'twice'
    yield 'a: ' + '[' * 200_000, 'too deeply'
    yield 'a: ' + '{a: ' * 200_000, 'too deeply'
    yield '- ' * 200_000, 'too deeply'
    yield 'a: [' + '1,' * MAX_NODES + ']', 'more than'
    yield '%TAG !a! x\n' * 50_000, 'directive'
    yield '{[1]: 2}', 'no text'


@pytest.mark.parametrize(('content', 'reason'), list(bombs()))
def test_metadata_that_take_for_ever_are_refused(content: str, reason: str, tmp_path: Path) -> None:
    bag = small_bag(tmp_path / 'bag')
    (bag / 'metadata.yaml').write_text(content)
    with pytest.raises(BagError, match=f'metadata.yaml is damaged.*{reason}'):
        count_images(bag)


def test_ordinary_yaml_is_read_as_texts() -> None:
    found = plain_yaml('a: 1\nb: [yes, null, "null", 0x1f]\nc: |\n  two\n  lines\nd:\n')
    assert found == {'a': '1', 'b': ['yes', None, 'null', '0x1f'], 'c': 'two\nlines\n', 'd': None}


# sqlite3


def test_a_killed_recorder_leaves_all_that_it_committed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In WAL mode, half of it in the -wal file; and in the usual mode, an unfinished write is taken back."""
    rows = (
        sqlite3.connect(file_of(small_bag(tmp_path / 'whole', 'sqlite3'))).execute('SELECT * FROM messages').fetchall()
    )
    for mode in ('wal', 'delete'):
        (tmp_path / mode).mkdir()
        (tmp_path / f'killed_{mode}').mkdir()
        live = tmp_path / mode / 'drive.db3'
        shutil.copy(file_of(tmp_path / 'whole'), live)
        recorder = sqlite3.connect(live, isolation_level=None)
        recorder.execute(f'PRAGMA journal_mode = {mode}')
        recorder.execute('PRAGMA wal_autocheckpoint = 0')
        recorder.execute('PRAGMA cache_size = 1')
        recorder.execute('BEGIN')
        recorder.execute('DELETE FROM messages')
        if mode == 'wal':
            recorder.executemany('INSERT INTO messages VALUES (?, ?, ?, ?)', rows)
            recorder.execute('COMMIT')
        else:
            recorder.executemany('INSERT INTO messages VALUES (?, ?, ?, zeroblob(9000))', [row[:3] for row in rows])
        for file in live.parent.iterdir():
            if not file.name.endswith('-shm'):
                shutil.copy(file, tmp_path / f'killed_{mode}' / file.name)
        recorder.close()
        before = {file.name: file.read_bytes() for file in (tmp_path / f'killed_{mode}').iterdir()}
        assert len(before) == 2
        assert count_images(tmp_path / f'killed_{mode}') == IMAGES
        assert {file.name: file.read_bytes() for file in (tmp_path / f'killed_{mode}').iterdir()} == before
        assert f'drive.db3-{"wal" if mode == "wal" else "journal"}' in caplog.text


@pytest.mark.parametrize(
    ('statements', 'reason'),
    [
        (['UPDATE messages SET topic_id = 99 WHERE id = 3'], '1 of its messages belong to no topic'),
        (['ALTER TABLE messages RENAME TO m', 'CREATE VIEW messages AS SELECT * FROM m'], 'no table messages'),
        (
            [
                'DROP TABLE messages',
                'CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INT, timestamp INT, '
                'data BLOB GENERATED ALWAYS AS (zeroblob(1000000000)))',
                'INSERT INTO messages(topic_id, timestamp) VALUES (2, 1)',
            ],
            'messages is computed',
        ),
        (['DROP TABLE topics'], 'no table topics'),
        (['UPDATE messages SET data = 7'], 'is none'),
    ],
)
def test_what_a_sqlite_file_must_not_hold(statements: list[str], reason: str, tmp_path: Path) -> None:
    file = file_of(small_bag(tmp_path / 'bag', 'sqlite3'))
    (tmp_path / 'bag/metadata.yaml').unlink()
    database = sqlite3.connect(file)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()
    with pytest.raises(BagError, match=reason):
        count_images(tmp_path / 'bag')


# Names, and writing


@pytest.mark.parametrize(
    'sign', ['#', '?', '%', '%25', '%41', ' ', 'ü', '&', ';', '\\', "'", '"', '..', 'file:x?mode=ro']
)
@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_every_sign_is_only_a_letter_of_a_name(storage: str, sign: str, tmp_path: Path) -> None:
    bag = tmp_path / f'a{sign}b' / f'flight {sign}3'
    small_bag(bag, storage)
    assert count_images(bag) == IMAGES
    with BagWriter(bag, storage, overwrite=True) as writer:
        writer.image('/image', 1, np.zeros((4, 6, 3), np.uint8))
    assert count_images(bag) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [f'a{sign}b']
    assert [path.name for path in bag.parent.iterdir()] == [bag.name]


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_bags_are_of_the_version_that_humble_reads(storage: str, tmp_path: Path) -> None:
    content = plain_yaml((small_bag(tmp_path / 'bag', storage) / 'metadata.yaml').read_text())[
        'rosbag2_bagfile_information'
    ]
    assert content['version'] == '8'
    assert [topic['topic_metadata']['offered_qos_profiles'] for topic in content['topics_with_message_count']] == [
        '',
        '',
    ]
    assert read_metadata(tmp_path / 'bag/metadata.yaml').topics['/image'].count == IMAGES


def test_a_bag_that_reads_otherwise_than_it_was_written_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = small_bag(tmp_path / 'bag')
    writer = BagWriter(bag, overwrite=True)

    def lossy() -> None:
        with writer:
            writer.image('/image', 1, np.zeros((4, 6, 3), np.uint8))
            monkeypatch.setattr(writer._writer, 'write', lambda *_: None)
            writer.image('/image', 2, np.zeros((4, 6, 3), np.uint8))

    with pytest.raises(BagError, match='reads otherwise'):
        lossy()
    assert count_images(bag) == IMAGES
    assert [path.name for path in tmp_path.iterdir()] == ['bag']


def test_a_folder_that_holds_more_than_a_bag_is_not_replaced(tmp_path: Path) -> None:
    bag = small_bag(tmp_path / 'bag')
    assert is_bag_folder(bag)
    (bag / 'notes.txt').write_text('of the flight')
    with pytest.raises(BagError, match='not only a bag'):
        BagWriter(bag, overwrite=True)
