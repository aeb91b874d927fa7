"""The messages of one mcap file, record by record as they lie there.

The index at the file's end is not needed: one wrong bit in it would hide messages. What it counts is compared with what was
read. Every length is compared with the file before it is believed, and chunks are unpacked within limits.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from kd_perception.bags.metadata import Topic, add_topic
from kd_perception.bags.packed import MAX_UNPACKED_BYTES, unpack_chunk

MAGIC = b'\x89MCAP0\r\n'
SUFFIX = '.mcap'

_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 0x02, 0x03, 0x04, 0x05, 0x06
_STATISTICS, _DATA_END = 0x0B, 0x0F
_HEADER, _MESSAGE_INDEX, _ATTACHMENT, _METADATA = 0x01, 0x07, 0x09, 0x0C
_MESSAGE_HEAD = struct.Struct('<HIQQ')  # channel, sequence, log time, publish time
_CHUNK_HEAD = struct.Struct('<QQQI')  # first and last log time, unpacked size, CRC
_FOOTER_BYTES = 9 + 20 + len(MAGIC)

StoredMessage = tuple[str, str, int, memoryview]
"""Topic, type, when it was recorded in ns, serialized message."""


@dataclass
class _Channels:
    """Topic and type by the channel's number."""

    schemas: dict[int, str] = field(default_factory=dict)
    found: dict[int, tuple[str, str]] = field(default_factory=dict)

    def add(self, opcode: int, content: bytes) -> None:
        """Take in a schema or a channel."""
        if opcode == _SCHEMA:
            name, at = _text(content, 2)
            _refuse_unless_all(content, _skip(content, _skip(content, at)))
            self.schemas[struct.unpack_from('<H', content)[0]] = name
            return
        number, schema = struct.unpack_from('<HH', content)
        topic, at = _text(content, 4)
        encoding, at = _text(content, at)
        _refuse_unless_all(content, _skip(content, at))
        type_name = self.schemas.get(schema, 'of no schema')
        # Other encodings than ROS 2's are other types, whatever they are called.
        described = (topic, type_name if encoding == 'cdr' else f'{type_name} in {encoding[:40] or "no encoding"}')
        if self.found.setdefault(number, described) != described:
            raise ValueError(f'channel {number} is {" ".join(self.found[number])} and {" ".join(described)}')

    def of(self, number: int) -> tuple[str, str]:
        """Topic and type of a message."""
        if number not in self.found:
            raise ValueError(f'a message belongs to channel {number}, which the file does not describe')
        return self.found[number]


def topics(file: Path) -> dict[str, Topic]:
    """The topics with their numbers of messages: of the statistics at the file's end, else by reading all of it.

    Raises:
        ValueError, struct.error, OSError and errors of unpacking: the file is damaged.
    """
    with file.open('rb') as stream:
        channels, stated = _summary(stream)
        if stated is not None and stated.keys() <= channels.found.keys():
            return _topics(channels, stated)
        channels, counts = _Channels(), Counter[int]()
        for number, _, _ in _walk(stream, channels, None, only_count=True):
            counts[number] += 1
        if stated is not None and counts != stated:
            raise ValueError(f'it holds {counts.total()} messages, but its statistics count {sum(stated.values())}')
        return _topics(channels, counts)


def messages(file: Path, wanted: Collection[str] | None) -> Iterator[StoredMessage]:
    """The messages of some topics, or of all, as they lie in the file; in a chunk, which is written at once, by their time.

    Raises:
        ValueError, struct.error, OSError and errors of unpacking: the file is damaged, after what lies before the damage.
    """
    channels = _Channels()
    with file.open('rb') as stream:
        for number, received_ns, raw in _walk(stream, channels, wanted):
            yield (*channels.of(number), received_ns, raw)


def _summary(stream: BinaryIO) -> tuple[_Channels, dict[int, int] | None]:
    """What the file's end says, as far as it can be read: channels, and the number of messages by channel."""
    channels = _Channels()
    counts: dict[int, int] | None = None
    end = stream.seek(0, 2) - _FOOTER_BYTES
    with suppress(ValueError, struct.error):
        stream.seek(max(0, end))
        opcode, length, summary = struct.unpack_from('<BQQ', stream.read(_FOOTER_BYTES))
        if opcode != _FOOTER or length != 20 or not 0 < summary < end:
            return channels, None
        for opcode, at, length in _records(stream, summary, end):
            if opcode in (_SCHEMA, _CHANNEL):
                channels.add(opcode, _content(stream, at, length))
            elif opcode == _STATISTICS:
                content = _content(stream, at, length)
                found = {number: count for number, count in struct.iter_unpack('<HQ', content[46:]) if count}
                counts = found if struct.unpack_from('<Q', content)[0] == sum(found.values()) else None
    return channels, counts


def _topics(channels: _Channels, counts: dict[int, int]) -> dict[str, Topic]:
    found: dict[str, Topic] = {}
    for number in dict.fromkeys((*channels.found, *counts)):
        topic, type_name = channels.of(number)
        if counts.get(number) or topic not in found:
            add_topic(found, topic, type_name, counts.get(number, 0))
    return found


def _walk(
    stream: BinaryIO, channels: _Channels, wanted: Collection[str] | None, only_count: bool = False
) -> Iterator[tuple[int, int, memoryview]]:
    """Channel, time and content of the messages of the wanted topics, or of all; `only_count` leaves contents out."""
    for opcode, at, length in _records(stream, len(MAGIC), _end(stream)):
        if opcode in (_SCHEMA, _CHANNEL):
            channels.add(opcode, _content(stream, at, length))
        elif opcode == _CHUNK:
            yield from sorted(_chunk(_content(stream, at, length), channels, wanted), key=lambda message: message[1])
        elif opcode == _MESSAGE:
            number, _, received_ns, _ = _MESSAGE_HEAD.unpack(stream.read(_MESSAGE_HEAD.size))
            if only_count:
                yield number, received_ns, memoryview(b'')
            elif wanted is None or channels.of(number)[0] in wanted:
                yield number, received_ns, memoryview(_content(stream, at, length))[_MESSAGE_HEAD.size :]
        elif opcode == _DATA_END:
            _check_crc(stream, at - 9, struct.unpack('<I', _content(stream, at, length))[0])
            return
        else:
            _refuse_hidden(stream, opcode, at, length)
    raise ValueError('its data do not end where they should')


def _end(stream: BinaryIO) -> int:
    """Where the records end: before the magic bytes, or where a recorder was stopped."""
    size = stream.seek(0, 2)
    stream.seek(max(0, size - len(MAGIC)))
    return size - len(MAGIC) if stream.read() == MAGIC else size


def _records(stream: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Opcode, place and length of the records between two places; the stream stands at the content then."""
    at = start
    while at < end:
        stream.seek(at)
        opcode, length = struct.unpack('<BQ', stream.read(9))
        if length > end - at - 9:
            raise ValueError(f'its record at byte {at} states {length} bytes, more than there are')
        yield opcode, at + 9, length
        at += 9 + length


def _content(stream: BinaryIO, at: int, length: int) -> bytes:
    if length > MAX_UNPACKED_BYTES:
        raise ValueError(f'its record at byte {at - 9} has {length} bytes; the limit is {MAX_UNPACKED_BYTES}')
    stream.seek(at)
    return stream.read(length)


def _chunk(
    content: bytes, channels: _Channels, wanted: Collection[str] | None
) -> Iterator[tuple[int, int, memoryview]]:
    _, _, size, crc = _CHUNK_HEAD.unpack_from(content)
    compression, at = _text(content, _CHUNK_HEAD.size)
    (length,) = struct.unpack_from('<Q', content, at)
    if length != len(content) - at - 8:
        raise ValueError('a chunk is of another length than it states')
    plain = memoryview(unpack_chunk(content[at + 8 :], compression, size))
    if crc and zlib.crc32(plain) != crc:
        raise ValueError('the checksum of a chunk is wrong')
    at = 0
    while at < size:
        opcode, length = struct.unpack_from('<BQ', plain, at)
        if length > size - at - 9:
            raise ValueError(f'a record in a chunk states {length} bytes, more than there are')
        record = plain[at + 9 : at + 9 + length]
        if opcode == _MESSAGE:
            number, _, received_ns, _ = _MESSAGE_HEAD.unpack_from(record)
            if wanted is None or channels.of(number)[0] in wanted:
                yield number, received_ns, record[_MESSAGE_HEAD.size :]
        elif opcode in (_SCHEMA, _CHANNEL):
            channels.add(opcode, bytes(record))
        else:
            raise ValueError(f'a record in a chunk is of no kind that may be there ({opcode:#04x})')
        at += 9 + length


def _refuse_hidden(stream: BinaryIO, opcode: int, at: int, length: int) -> None:
    """Of records without messages: whether they are what they seem, for one wrong bit makes such a record of a chunk."""
    if opcode == _HEADER and at == len(MAGIC) + 9:
        end = _skip(content := _content(stream, at, length), _skip(content, 0))
    elif opcode == _MESSAGE_INDEX:
        end = _skip(content := _content(stream, at, length), 2)
    elif opcode == _METADATA:
        end = _skip(content := _content(stream, at, length), _skip(content, 0))
    elif opcode == _ATTACHMENT:
        content = _content(stream, at, length)
        data = _skip(content, _skip(content, 16))
        end = data + 8 + struct.unpack_from('<Q', content, data)[0] + 4
    else:
        raise ValueError(f'its record at byte {at - 9} is of no kind that may be there ({opcode:#04x})')
    _refuse_unless_all(content, end)


def _refuse_unless_all(content: bytes, end: int) -> None:
    if end != len(content):
        raise ValueError('a record is of another length than what it holds')


def _skip(content: bytes, at: int) -> int:
    """Where a length and so many bytes end."""
    return at + 4 + int(struct.unpack_from('<I', content, at)[0])


def _check_crc(stream: BinaryIO, end: int, stated: int) -> None:
    """Of all data, where the recorder left it; most leave 0."""
    if not stated:
        return
    stream.seek(0)
    crc, left = 0, end
    while left:
        block = stream.read(min(left, 1 << 20))
        crc, left = zlib.crc32(block, crc), left - len(block)
    if crc != stated:
        raise ValueError('the checksum of its data is wrong')


def _text(content: bytes, at: int) -> tuple[str, int]:
    """A length and so many bytes; and where they end."""
    end = _skip(content, at)
    if end > len(content):
        raise ValueError('a text in a record is longer than the record')
    return content[at + 4 : end].decode(), end
