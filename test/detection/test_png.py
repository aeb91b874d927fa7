"""PNG: what a chunk declares is compared with the stream before it is believed, and only pixels are unpacked."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from kd_perception.detection.image import decode_compressed
from kd_perception.detection.png import MAX_CHUNKS, read_png
from kd_perception.errors import ImageTooLargeError, MalformedImageError

SIGNATURE = b'\x89PNG\r\n\x1a\n'
PICTURE = np.arange(32 * 24 * 3, dtype=np.uint8).reshape(24, 32, 3)
PLAIN = cv2.imencode('.png', PICTURE)[1].tobytes()
BEHIND_IHDR = 33
LIMIT = 40_000_000


def chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    stated = len(content) if length is None else length
    return struct.pack('>I', stated) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def header(width: int, height: int, depth: int = 8, kind: int = 2) -> bytes:
    return chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, kind, 0, 0, 0))


def with_chunks(*chunks: bytes) -> bytes:
    """The picture with more chunks behind its header."""
    return PLAIN[:BEHIND_IHDR] + b''.join(chunks) + PLAIN[BEHIND_IHDR:]


@pytest.mark.parametrize('kind', [b'tEXt', b'IDAT', b'iCCP', b'zTXt', b'eXIf', b'PLTE', b'xxXx', b'\0\1\2\3'])
@pytest.mark.parametrize('length', [0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF, 100_000])
def test_a_chunk_longer_than_the_stream_is_refused(kind: bytes, length: int) -> None:
    with pytest.raises(MalformedImageError, match=f'at byte 33 states {length} bytes'):
        decode_compressed(with_chunks(chunk(kind, b'a\0b', length)))


@pytest.mark.parametrize(
    'extra',
    [
        chunk(b'tEXt', b'Comment\0hello'),
        chunk(b'zTXt', b'Comment\0\0' + zlib.compress(bytes(64 << 20))),
        chunk(b'iTXt', b'Comment\0\1\0\0\0' + zlib.compress(bytes(64 << 20))),
        chunk(b'iCCP', b'icc\0\0' + zlib.compress(bytes(64 << 20))),
        chunk(b'acTL', struct.pack('>II', 3, 0)),
        chunk(b'eXIf', b'II*\0' + bytes(40)),
    ],
    ids=['text', 'text bomb', 'international text bomb', 'profile bomb', 'animation', 'exif'],
)
def test_what_makes_no_pixels_is_not_handed_on(extra: bytes) -> None:
    assert read_png(with_chunks(extra), LIMIT).stream == PLAIN
    assert np.array_equal(decode_compressed(with_chunks(extra)), PICTURE)


def test_an_animation_becomes_its_still_picture() -> None:
    frame = struct.pack('>IIIIIHHBB', 0, 32, 24, 0, 0, 1, 10, 0, 0)
    more = chunk(b'fcTL', frame[:3] + b'\1' + frame[4:]) + chunk(b'fdAT', b'\0\0\0\2' + zlib.compress(bytes(97 * 24)))
    stream = with_chunks(chunk(b'acTL', struct.pack('>II', 9, 0)), chunk(b'fcTL', frame))
    stream = stream[:-12] + more * 9 + stream[-12:]
    assert np.array_equal(decode_compressed(stream), PICTURE)


def test_transparency_and_palette_are_handed_on() -> None:
    pixels = zlib.compress((b'\0' + bytes(range(8))) * 8)
    parts = header(8, 8, kind=3) + chunk(b'PLTE', bytes(range(24))) + chunk(b'tRNS', bytes(8)) + chunk(b'IDAT', pixels)
    image = decode_compressed(SIGNATURE + parts + chunk(b'IEND', b''))
    assert image[0].tolist() == [[3 * n + 2, 3 * n + 1, 3 * n] for n in range(8)]


@pytest.mark.parametrize(('width', 'height'), [(6000, 6000), (1, 30_000_000), (30_000_000, 1)])
def test_a_size_that_the_bytes_cannot_hold_is_refused_before_decoding(width: int, height: int) -> None:
    stream = SIGNATURE + header(width, height) + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b'')
    with pytest.raises(MalformedImageError, match='cannot hold'):
        decode_compressed(stream)


@pytest.mark.parametrize('rows', [1, 12, 23])
def test_pixels_that_end_early_are_refused_although_every_chunk_is_whole(rows: int) -> None:
    pixels = zlib.compress((b'\0' + bytes(96)) * rows)
    with pytest.raises(MalformedImageError):
        decode_compressed(SIGNATURE + header(32, 24) + chunk(b'IDAT', pixels) + chunk(b'IEND', b''))


def test_millions_of_chunks_are_refused() -> None:
    with pytest.raises(ImageTooLargeError, match='chunks'):
        decode_compressed(with_chunks(chunk(b'tEXt', b'') * MAX_CHUNKS))


def test_a_second_header_is_refused() -> None:
    with pytest.raises(MalformedImageError, match='IHDR'):
        decode_compressed(with_chunks(header(60000, 600)))
