"""mcap files of strangers: without an index or chunks, with wrong records, cut off; what lies before the damage is saved."""

import struct
import sys
import zlib
from pathlib import Path

import lz4.frame
import pytest
from bag_files import IMAGES, count_images, small_bag

from kd_perception.bags import packed
from kd_perception.bags.info import describe
from kd_perception.bags.reader import open_bag
from kd_perception.bags.recovery import Recovered, recover
from kd_perception.bags.storage import BagStorage
from kd_perception.errors import BagError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def record(opcode: int, content: bytes) -> bytes:
    return struct.pack('<BQ', opcode, len(content)) + content


def text(value: str) -> bytes:
    return struct.pack('<I', len(value)) + value.encode()


def message(channel: int, stamp: int, content: bytes) -> bytes:
    return record(0x05, struct.pack('<HIQQ', channel, 0, stamp, stamp) + content)


def channel(number: int, topic: str, type_name: str, encoding: str = 'cdr') -> bytes:
    schema = record(0x03, struct.pack('<H', number) + text(type_name) + text('ros2msg') + text(''))
    return schema + record(0x04, struct.pack('<HH', number, number) + text(topic) + text(encoding) + text(''))


def chunk(plain: bytes, compression: str = '', content: bytes | None = None, size: int | None = None) -> bytes:
    content = plain if content is None else content
    head = struct.pack('<QQQI', 0, 1, len(plain) if size is None else size, zlib.crc32(plain) if size is None else 0)
    return record(0x06, head + text(compression) + struct.pack('<Q', len(content)) + content)


def mcap(path: Path, *records: bytes) -> Path:
    """Without a summary, as a recorder leaves it that ends in haste."""
    magic = b'\x89MCAP0\r\n'
    path.write_bytes(
        magic
        + record(1, text('ros2') + text(''))
        + b''.join(records)
        + record(0x0F, bytes(4))
        + record(2, bytes(20))
        + magic
    )
    return path


@pytest.fixture(scope='module')
def stored(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Serialized images."""
    bag = small_bag(tmp_path_factory.mktemp('stored') / 'bag')
    return [bytes(found.raw) for found in BagStorage(bag).messages(['/image'])]


IMAGE = channel(1, '/image', 'sensor_msgs/msg/Image')


@pytest.mark.parametrize('compression', ['', 'lz4', 'zstd'])
def test_chunks_without_an_index_are_read(compression: str, stored: list[bytes], tmp_path: Path) -> None:
    pack = {'': bytes, 'lz4': lz4.frame.compress, 'zstd': zstd.compress}[compression]
    plain = [
        IMAGE + b''.join(message(1, 10 - n, raw) for n, raw in enumerate(part)) for part in (stored[:2], stored[2:])
    ]
    path = mcap(tmp_path / 'a.mcap', *(chunk(part, compression, pack(part)) for part in plain))
    assert count_images(path) == IMAGES
    assert [frame.received_ns for frame in open_bag(path)] == [9, 10, 7, 8, 9, 10]


def test_messages_outside_of_chunks_are_read(stored: list[bytes], tmp_path: Path) -> None:
    private = [record(0x0C, text('name') + text('')), record(0x07, struct.pack('<HI', 1, 0))]
    assert (
        count_images(mcap(tmp_path / 'a.mcap', IMAGE, *private, *(message(1, n, raw) for n, raw in enumerate(stored))))
        == IMAGES
    )


@pytest.mark.parametrize(('type_name', 'encoding'), [('std_msgs/msg/String', 'cdr'), ('sensor_msgs/msg/Image', 'json')])
def test_a_channel_of_another_type_beside_the_images_is_named(
    type_name: str, encoding: str, stored: list[bytes], tmp_path: Path
) -> None:
    other = channel(2, '/image', type_name, encoding)
    path = mcap(tmp_path / 'a.mcap', IMAGE, other, *(message(1 + n % 2, n, raw) for n, raw in enumerate(stored)))
    with pytest.raises(BagError, match=f'/image holds {type_name}.*beside'):
        count_images(path)


@pytest.mark.parametrize(
    ('records', 'reason'),
    [
        ([message(7, 1, b'')], 'channel 7, which the file does not describe'),
        ([IMAGE, channel(1, '/other', 'std_msgs/msg/String')], 'channel 1 is'),
        ([record(0x86, b'hidden')], 'of no kind that may be there'),
        ([record(0x07, b'\1\0\xff\0\0\0')], 'another length'),
        ([chunk(b'', 'zstd', zstd.compress(bytes(1 << 20)), size=2 << 30)], 'the limit is'),
        ([chunk(b'', 'zstd', zstd.compress(bytes(64 << 20)), size=100)], 'is of another size'),
        ([chunk(b'', 'lz4', lz4.frame.compress(bytes(64 << 20)), size=100)], 'is of another size'),
        ([chunk(b'', 'lzma', b'')], 'only lz4 and zstd'),
        ([chunk(record(0x55, b''))], 'no kind that may be there'),
        ([chunk(b'\5' + b'\xff' * 8)], 'more than there are'),
        ([struct.pack('<BQ', 0x05, 1 << 62)], 'more than there are'),
    ],
)
def test_what_an_mcap_file_must_not_hold(records: list[bytes], reason: str, tmp_path: Path) -> None:
    with pytest.raises(BagError, match=f'a.mcap is damaged: .*{reason}'):
        describe(mcap(tmp_path / 'a.mcap', *records))


@pytest.mark.parametrize('compression', ['zstd of many frames', 'zstd of one frame'])
def test_a_message_that_unpacks_without_end_is_refused(
    compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, 'MAX_UNPACKED_BYTES', 1 << 20)
    frame = zstd.compress(bytes(4 << 20 if 'one' in compression else 1 << 18))
    path = mcap(tmp_path / 'a.mcap', IMAGE, message(1, 1, frame * (1 if 'one' in compression else 64)))
    with pytest.raises(BagError, match='unpacks to more|damaged'):
        count_images(path)


# Saving what is there


@pytest.mark.parametrize('compression', ['', 'zstd', 'lz4', None])
def test_what_lies_before_the_damage_is_saved(compression: str | None, stored: list[bytes], tmp_path: Path) -> None:
    """A recorder was stopped while it wrote the fifth of six messages, in chunks of one or without chunks (None)."""
    pack = {'': bytes, 'lz4': lz4.frame.compress, 'zstd': zstd.compress, None: bytes}[compression]
    plain = [message(1, number, raw) for number, raw in enumerate(stored)]
    records = plain if compression is None else [chunk(part, compression, pack(part)) for part in plain]
    path = mcap(tmp_path / 'bag.mcap', IMAGE, *records)
    assert recover(path, tmp_path / 'whole') == Recovered(6, (), {})
    at = path.read_bytes().index(records[4])
    content = path.read_bytes()
    for length, saved in ((at, 4), (at + len(records[4]) // 2, 4), (at + len(records[4]), 5)):
        path.write_bytes(content[:length])
        with pytest.raises(BagError, match=r'kd_perception bag recover bag\.mcap'):
            count_images(path)
        found = recover(path, tmp_path / f'saved{length}', 'sqlite3')
        assert found.messages == saved
        assert 'bag.mcap is damaged' in found.damage[0]
        assert count_images(tmp_path / f'saved{length}') == saved


def test_of_nothing_nothing_is_saved(tmp_path: Path) -> None:
    (tmp_path / 'a.mcap').write_bytes(b'\x89MCAP0\r\n')
    with pytest.raises(BagError, match='nothing in it can be saved: .*a.mcap is damaged'):
        recover(tmp_path / 'a.mcap', tmp_path / 'saved')
    assert not (tmp_path / 'saved').exists()
