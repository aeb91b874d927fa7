"""A rosbag2 as its messages in order: sqlite3 or mcap, one file or many, plain or zstd, with or without metadata.yaml.

Whatever a damaged bag holds ends in messages or in a `BagError`, never in another exception.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from rosbags.rosbag2 import Reader

from kd_perception.bags.message_types import full_name, types
from kd_perception.errors import BagError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

METADATA = 'metadata.yaml'
STORAGE_SUFFIXES = ('.mcap', '.db3')
MAX_METADATA_BYTES = 64 << 20
MAX_MESSAGE_BYTES = 1 << 30
"""Largest message that is decompressed; an 8K colour image has a tenth of it."""

_COMPRESSED_SUFFIX = '.zstd'
_MCAP_MAGIC = b'\x89MCAP0\r\n'
_SQLITE_MAGIC = b'SQLite format 3\0'
_ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'  # a CDR message begins with a zero byte


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    Attributes:
        name: with its leading slash.
        type: full type name, `package/msg/Name`.
        count: number of messages, by the bag's own account.
    """

    name: str
    type: str
    count: int


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
        if not self.path.exists():
            raise BagError(f'{self.path}: no such file or folder')
        if (self.path / METADATA).is_file():
            self.files, self.topics = _from_metadata(self.path)
        else:
            self.files = _storage_files(self.path)
            self.topics = _scan_topics(self.files)

    def messages(self, topics: Collection[str]) -> Iterator[Message]:
        """The messages of some topics in the order in which they were recorded.

        Raises:
            BagError: a file is damaged.
        """
        for file in self.files:
            with _opened(file) as reader, bag_errors(f'{file} is damaged'):
                connections = [c for c in reader.connections if c.topic in topics]
                if not connections:
                    continue
                for connection, received_ns, raw in reader.messages(connections):
                    yield Message(connection.topic, full_name(connection.msgtype), int(received_ns), _unpacked(raw))


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
        if place.stat().st_size > MAX_METADATA_BYTES:
            raise ValueError(f'it has more than {MAX_METADATA_BYTES} bytes')
        content = yaml.safe_load(place.read_text('utf-8'))['rosbag2_bagfile_information']
        # Old bags name their files with the recorder's folders.
        files = [folder / PurePosixPath(name).name for name in content['relative_file_paths']]
        topics: dict[str, Topic] = {}
        for entry in content['topics_with_message_count']:
            topic = entry['topic_metadata']
            _add(topics, str(topic['name']), str(topic['type']), int(entry['message_count']))
    if not files:
        raise BagError(f'{place} names no storage file; without it, the bag is read from its storage files alone')
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise BagError(f'{folder}: {METADATA} names files that are not there: {", ".join(missing)}')
    unknown = [file.name for file in files if _plain_name(file).suffix not in STORAGE_SUFFIXES]
    if unknown:
        raise BagError(f'{folder}: {", ".join(unknown)}: only mcap and sqlite3 (.db3) bags, plain or zstd, are read')
    return files, topics


def _storage_files(path: Path) -> list[Path]:
    """The storage files of a folder without metadata, or the file itself."""
    if path.is_file():
        if _plain_name(path).suffix not in STORAGE_SUFFIXES:
            raise BagError(f'{path}: not a rosbag2: neither .mcap nor .db3 nor a folder of such files')
        return [path]
    files = [file for file in path.iterdir() if file.is_file() and _plain_name(file).suffix in STORAGE_SUFFIXES]
    if not files:
        raise BagError(f'{path}: not a rosbag2: it holds neither {METADATA} nor a .mcap or .db3 file')
    suffixes = {_plain_name(file).suffix for file in files}
    if len(suffixes) > 1:
        raise BagError(
            f'{path}: without {METADATA} it is unclear which of {", ".join(map(_name, files))} to read; name one'
        )
    return sorted(files, key=_split_number)


def _name(file: Path) -> str:
    return file.name


def _split_number(file: Path) -> tuple[str | int, ...]:
    """Sorts drive_2 before drive_10."""
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r'(\d+)', file.name))


def _plain_name(file: Path) -> Path:
    return file.with_suffix('') if file.suffix == _COMPRESSED_SUFFIX else file


def _scan_topics(files: list[Path]) -> dict[str, Topic]:
    topics: dict[str, Topic] = {}
    for file in files:
        with _opened(file) as reader, bag_errors(f'{file} is damaged'):
            for connection in reader.connections:
                _add(topics, connection.topic, connection.msgtype, connection.msgcount)
    return topics


def _add(topics: dict[str, Topic], name: str, type_name: str, count: int) -> None:
    known = topics.get(name)
    topics[name] = Topic(name, full_name(type_name), count + (known.count if known else 0))


@contextmanager
def _opened(file: Path) -> Iterator[Reader]:
    """The library's reader of one storage file, decompressed beside the system's other temporary files where need be."""
    with TemporaryDirectory(prefix='kd_perception_bag_') as folder:
        with bag_errors(f'{file} cannot be read'):
            if file.suffix == _COMPRESSED_SUFFIX:
                plain = Path(folder) / _plain_name(file).name
                with zstd.open(file, 'rb') as packed, plain.open('wb') as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
            else:
                plain = file
            reader = Reader(plain)
            _check_ends(plain)
            reader.open()
        try:
            yield reader
        finally:
            with bag_errors(f'{file} cannot be closed'):
                reader.close()


def _check_ends(file: Path) -> None:
    """Refuse a file whose end is missing: the library would say so in terms of records, or read a part without a word."""
    with file.open('rb') as stream:
        head = stream.read(100)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - len(_MCAP_MAGIC)))
        end = stream.read()
    if file.suffix == '.mcap':
        if not head.startswith(_MCAP_MAGIC):
            raise BagError(f'{file}: not an mcap file')
        whole, cure = end == _MCAP_MAGIC, f'mcap recover {file.name} -o repaired.mcap'
    else:
        if not head.startswith(_SQLITE_MAGIC) or len(head) < 100:
            raise BagError(f'{file}: not an sqlite3 file')
        page_size = int.from_bytes(head[16:18], 'big')
        pages = int.from_bytes(head[28:32], 'big')
        # Page size 1 means 65536.
        whole, cure = size >= pages * (page_size if page_size > 1 else 65536), f'sqlite3 {file.name} .recover'
    if not whole:
        raise BagError(f'{file}: truncated: the recording or the copy was cut off. To save what is there: {cure}')


def _unpacked(raw: bytes) -> memoryview:
    """The message without its own compression (`compression_mode: message`)."""
    if raw[:4] != _ZSTD_MAGIC:
        return memoryview(raw)
    declared = zstd.get_frame_info(raw).decompressed_size
    if declared is None or declared > MAX_MESSAGE_BYTES:
        raise BagError(f'a message declares {declared} bytes; the limit is {MAX_MESSAGE_BYTES}')
    return memoryview(zstd.decompress(raw))
