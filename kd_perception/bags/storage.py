"""A rosbag2 as its messages in order: sqlite3 or mcap, one file or many, plain or zstd, with or without metadata.yaml.

Whatever a damaged bag holds ends in messages or in a `BagError`, never in another exception.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kd_perception.bags import mcap_file, sqlite_file
from kd_perception.bags.message_types import types
from kd_perception.bags.metadata import METADATA, Topic, add_topic, full_name, read_metadata
from kd_perception.bags.packed import unpack_file, unpack_message
from kd_perception.errors import BagError

STORAGE_SUFFIXES = (mcap_file.SUFFIX, sqlite_file.SUFFIX)
PACKED_SUFFIX = '.zstd'


@dataclass(frozen=True)
class Message:
    """A message as it lies in the bag.

    Attributes:
        topic: its name.
        type: full type name.
        received_ns: when the recorder got it.
        raw: the serialized message (CDR).
    """

    topic: str
    type: str
    received_ns: int
    raw: memoryview

    def decode(self) -> Any:
        """The message object; its arrays are read-only views of `raw`.

        Raises:
            BagError: the bytes are no such message.
        """
        with bag_errors(f'a message of {self.topic} at {self.received_ns} ns is damaged or no {self.type}'):
            return types().deserialize_cdr(self.raw, self.type)


class BagStorage:
    """The topics and messages of one bag. Files are opened one after another, so splits cost neither memory nor handles.

    Attributes:
        path: the bag's folder, or its only file.
        files: the storage files in order.
        topics: by name.
    """

    def __init__(self, path: Path) -> None:
        """Find the files and topics.

        Args:
            path: folder of a bag, its metadata.yaml, or a single .mcap or .db3 file (also .zstd compressed).

        Raises:
            BagError: nothing there is a readable bag.
        """
        self.path = path.parent if path.name == METADATA else path
        with bag_errors(f'{self.path} cannot be read'):
            if not self.path.exists():
                raise BagError(f'{self.path}: no such file or folder')
            if (self.path / METADATA).is_file():
                self.files, self.topics = _from_metadata(self.path)
            else:
                self.files = _storage_files(self.path)
                self.topics = _scan_topics(self.files)
            _refuse_copies(self.files)

    def messages(self, topics: Collection[str]) -> Iterator[Message]:
        """The messages of some topics in the order in which they were recorded.

        Raises:
            BagError: a file is damaged, or there are other messages than the bag states: after the last of them.
        """
        found = Counter[str]()
        for file in self.files:
            with _plain(file) as plain, bag_errors(f'{file} is damaged'):
                for topic, type_name, received_ns, raw in _reader(plain).messages(plain, topics):
                    found[topic] += 1
                    yield Message(topic, full_name(type_name), received_ns, unpack_message(raw))
        for topic in topics:
            stated = self.topics[topic].count if topic in self.topics else 0
            if found[topic] != stated:
                cure = f'. Without {METADATA}, what its files hold is read' if (self.path / METADATA).is_file() else ''
                raise BagError(
                    f'{self.path}: {found[topic]} messages of {topic} are there, but the bag states {stated}: '
                    f'it was recorded or copied in part, or it is damaged{cure}'
                )


def salvage(path: Path, report: Callable[[str], object]) -> Iterator[Message]:
    """What can be read of a bag that is damaged or was never finished: of each file all messages before the first damage.

    Args:
        path: its folder, or one file.
        report: is given a line for every file that is not whole.

    Raises:
        BagError: there is nothing like a bag.
    """
    folder = path.parent if path.name == METADATA else path
    with bag_errors(f'{path} cannot be read'):
        files = _storage_files(folder)
    for file in files:
        try:
            with _plain(file, whole=False) as plain, bag_errors(f'{file} is damaged'):
                for topic, type_name, received_ns, raw in _reader(plain).messages(plain, None):
                    yield Message(topic, full_name(type_name), received_ns, unpack_message(raw))
                _check_ends(plain)
        except BagError as error:
            report(str(error))


@contextmanager
def bag_errors(what: str) -> Iterator[None]:
    """Turn whatever fails inside into a BagError that begins with `what`.

    The library's parsers are made for healthy bags: by the damage they raise ReaderError, struct.error, TypeError,
    OverflowError, MemoryError, AssertionError and more.
    """
    try:
        yield
    except BagError:
        raise
    except Exception as error:
        raise BagError(f'{what}: {str(error) or type(error).__name__}') from error


def _from_metadata(folder: Path) -> tuple[list[Path], dict[str, Topic]]:
    place = folder / METADATA
    with bag_errors(f'{place} is damaged (without it, the bag is read from its storage files alone)'):
        stated = read_metadata(place)
    files = [folder / name for name in stated.files]
    if not files:
        raise BagError(f'{place} names no storage file; without it, the bag is read from its storage files alone')
    twice = sorted(name for name, count in Counter(stated.files).items() if count > 1)
    if twice:
        raise BagError(f'{place} names files twice: {", ".join(twice)}')
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise BagError(f'{folder}: {METADATA} names files that are not there: {", ".join(missing)}')
    unknown = [file.name for file in files if not is_storage(file)]
    if unknown:
        raise BagError(f'{folder}: {", ".join(unknown)}: only mcap and sqlite3 (.db3) bags, plain or zstd, are read')
    unlisted = sorted({file.name for file in folder.iterdir() if is_storage(file) and file.is_file()} - {*stated.files})
    if unlisted:
        raise BagError(
            f'{folder}: {METADATA} does not name {", ".join(unlisted)}: write it anew (ros2 bag reindex), or move the file away'
        )
    return files, stated.topics


def _refuse_copies(files: list[Path]) -> None:
    """A file that was copied to another's place would give its messages twice, and hide that the other's are gone."""
    seen: dict[tuple[int, bytes], Path] = {}
    for file in files if len(files) > 1 else ():
        other = seen.setdefault(_outline(file), file)
        if other is not file and filecmp.cmp(file, other, shallow=False):
            raise BagError(f'{file.parent}: {other.name} and {file.name} are the same file twice')


def _outline(file: Path) -> tuple[int, bytes]:
    """Size and ends: different for files that are different, nearly always."""
    with file.open('rb') as stream:
        head = stream.read(1 << 14)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - (1 << 14)))
        return size, hashlib.sha256(head + stream.read()).digest()


def _storage_files(path: Path) -> list[Path]:
    """The storage files of a folder without metadata, or the file itself."""
    if not path.is_dir():
        if not path.is_file() or not is_storage(path):
            raise BagError(f'{path}: not a rosbag2: neither .mcap nor .db3 nor a folder of such files')
        return [path]
    files = [file for file in path.iterdir() if file.is_file() and is_storage(file)]
    if not files:
        raise BagError(f'{path}: not a rosbag2: it holds neither {METADATA} nor a .mcap or .db3 file')
    if len({_plain_name(file).suffix for file in files}) > 1:
        names = ', '.join(file.name for file in files)
        raise BagError(f'{path}: without {METADATA} it is unclear which of {names} to read; name one')
    return sorted(files, key=_split_number)


def _split_number(file: Path) -> tuple[str | int, ...]:
    """Sorts drive_2 before drive_10."""
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r'(\d+)', file.name))


def is_storage(file: Path) -> bool:
    """Whether a file bears the name of a storage file, packed or not."""
    return _plain_name(file).suffix in STORAGE_SUFFIXES


def _plain_name(file: Path) -> Path:
    return file.with_suffix('') if file.suffix == PACKED_SUFFIX else file


def _scan_topics(files: list[Path]) -> dict[str, Topic]:
    topics: dict[str, Topic] = {}
    for file in files:
        with _plain(file) as plain, bag_errors(f'{file} is damaged'):
            for topic in _reader(plain).topics(plain).values():
                for type_name in (topic.type, *topic.other_types):
                    add_topic(topics, topic.name, type_name, topic.count if type_name == topic.type else 0)
    return topics


def _reader(file: Path) -> Any:
    """The module that reads a storage file."""
    return mcap_file if file.suffix == mcap_file.SUFFIX else sqlite_file


@contextmanager
def _plain(file: Path, whole: bool = True) -> Iterator[Path]:
    """A storage file, with both its ends if it must be `whole`, unpacked in a temporary folder where need be."""
    with TemporaryDirectory(prefix='kd_perception_bag_') as folder:
        with bag_errors(f'{file} cannot be read'):
            plain = file
            if file.suffix == PACKED_SUFFIX:
                plain = Path(folder) / _plain_name(file).name
                unpack_file(file, plain)
            if whole:
                _check_ends(plain)
        yield plain


def _check_ends(file: Path) -> None:
    """Refuse a file whose end is missing, in terms of what happened to it and not of records."""
    with file.open('rb') as stream:
        head = stream.read(100)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - len(mcap_file.MAGIC)))
        end = stream.read()
    if file.suffix == mcap_file.SUFFIX:
        if not head.startswith(mcap_file.MAGIC):
            raise BagError(f'{file}: not an mcap file')
        whole, cure = end == mcap_file.MAGIC, f'kd_perception bag recover {file.name} --out recovered'
    elif sqlite_file.journals(file):
        return  # sqlite puts it in order
    else:
        if not head.startswith(sqlite_file.MAGIC) or len(head) < 100:
            raise BagError(f'{file}: not an sqlite3 file')
        page_size = int.from_bytes(head[16:18], 'big')
        pages = int.from_bytes(head[28:32], 'big')
        # Page size 1 means 65536.
        whole, cure = size >= pages * (page_size if page_size > 1 else 65536), f'sqlite3 {file.name} .recover'
    if not whole:
        raise BagError(f'{file}: truncated: the recording or the copy was cut off. To save what is there: {cure}')
