"""BMP, TIFF and WebP: sizes are read from the file's own header, and bombs are refused before they are decoded."""

import struct
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_perception.bags.sources import read_image
from kd_perception.detection.picture_files import check_picture_file
from kd_perception.errors import ImageError, ImageTooLargeError, MalformedImageError

PICTURE = cv2.resize(np.random.default_rng(1).integers(0, 255, (4, 6, 3), dtype=np.uint8), (96, 64))
LIMIT = 250_000_000


def encoded(suffix: str, *settings: int, picture: np.ndarray = PICTURE) -> bytes:
    return cv2.imencode(suffix, picture, settings)[1].tobytes()


FILES = {
    'BMP': encoded('.bmp'),
    'grey BMP': encoded('.bmp', picture=PICTURE[..., 0]),
    'TIFF': encoded('.tiff', cv2.IMWRITE_TIFF_COMPRESSION, 1),
    'LZW TIFF': encoded('.tiff', cv2.IMWRITE_TIFF_COMPRESSION, 5),
    'deflated TIFF': encoded('.tiff', cv2.IMWRITE_TIFF_COMPRESSION, 8),
    '16 bit TIFF': encoded('.tiff', picture=PICTURE.astype(np.uint16) * 257),
    'WebP': encoded('.webp', cv2.IMWRITE_WEBP_QUALITY, 90),
    'lossless WebP': encoded('.webp', cv2.IMWRITE_WEBP_QUALITY, 101),
    'WebP with alpha': encoded('.webp', picture=np.dstack([PICTURE, PICTURE[..., 0]])),
}


@pytest.mark.parametrize('name', FILES)
def test_a_picture_is_read_up_to_exactly_its_own_size(name: str, tmp_path: Path) -> None:
    file = tmp_path / 'picture'
    file.write_bytes(FILES[name])
    assert read_image(file).shape == PICTURE.shape
    assert check_picture_file(FILES[name], 96 * 64) == name.split()[0 if name.startswith('WebP') else -1]
    with pytest.raises(ImageTooLargeError, match='96x64'):
        check_picture_file(FILES[name], 96 * 64 - 1)


@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize('name', FILES)
def test_a_file_that_breaks_off_is_refused(name: str, share: float, tmp_path: Path) -> None:
    file = tmp_path / 'picture'
    file.write_bytes(FILES[name][: 12 + int(share * (len(FILES[name]) - 12))])
    with pytest.raises(ImageError):
        read_image(file)


def bmp(width: int, height: int, compression: int = 0) -> bytes:
    return (
        b'BM'
        + struct.pack('<IIIIiiHHIIIIII', 154, 0, 54, 40, width, height, 1, 24, compression, 0, 0, 0, 0, 0)
        + bytes(100)
    )


def tiff(order: str = '<', **tags: int) -> bytes:
    numbers = {'width': 256, 'height': 257, 'compression': 259, 'samples': 277, 'tile_width': 322, 'tile_height': 323}
    entries = sorted((numbers[name], value) for name, value in tags.items())
    rows = b''.join(struct.pack(order + 'HHII', tag, 4, 1, value) for tag, value in entries)
    magic = b'II*\0' if order == '<' else b'MM\0*'
    return magic + struct.pack(order + 'IH', 8, len(entries)) + rows + bytes(100)


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b''.join(
        kind + struct.pack('<I', len(content)) + content + bytes(len(content) % 2) for kind, content in chunks
    )
    return b'RIFF' + struct.pack('<I', 4 + len(body)) + b'WEBP' + body


def canvas(width: int, height: int) -> bytes:
    return bytes([2, 0, 0, 0]) + (width - 1).to_bytes(3, 'little') + (height - 1).to_bytes(3, 'little')


@pytest.mark.parametrize(
    ('stream', 'error', 'message'),
    [
        (bmp(30000, 30000), MalformedImageError, 'truncated'),
        (bmp(30000, -30000, compression=1), ImageTooLargeError, '30000x30000'),
        (bmp(2**31 - 1, 2**31 - 1, compression=1), ImageTooLargeError, '2147483647x2147483647'),
        (bmp(-5, 5), MalformedImageError, '-5x5'),
        (bmp(0, 5), MalformedImageError, '0x5'),
        (tiff(width=60000, height=60000, compression=3), ImageTooLargeError, '60000x60000'),
        (tiff('>', width=60000, height=60000, compression=3), ImageTooLargeError, '60000x60000'),
        (tiff(width=6000, height=6000, compression=8), MalformedImageError, 'cannot hold'),
        (tiff(width=10, height=10, tile_width=1 << 20, tile_height=1 << 20), ImageTooLargeError, '1048576x1048576'),
        (tiff(width=10, height=10, samples=60000), MalformedImageError, 'samples'),
        (tiff(), MalformedImageError, '0x0'),
        (webp((b'VP8X', canvas(16384, 16384))), ImageTooLargeError, '16384x16384'),
        (webp((b'VP8X', canvas(1000, 1000)), *[(b'ANMF', bytes(16))] * 300), ImageTooLargeError, 'each of 300 frames'),
        (webp((b'VP8L', b'\x2f\xff\xff\xff\xff')), ImageTooLargeError, '16384x16384'),
        (webp((b'ICCP', b'')), MalformedImageError, '0x0'),
        (webp((b'VP8X', b'')), MalformedImageError, 'header'),
        (webp((b'VP8L', bytes(9)))[:-4], MalformedImageError, 'states 9 bytes'),
    ],
)
def test_bombs_are_refused_before_decoding(stream: bytes, error: type[ImageError], message: str) -> None:
    with pytest.raises(error, match=message):
        check_picture_file(stream, LIMIT)


@pytest.mark.parametrize('stream', [b'', b'\xff\xd8', b'RIFF0000WAVE', b'GIF89a', b'hello'])
def test_other_formats_are_left_to_others(stream: bytes) -> None:
    assert check_picture_file(stream, LIMIT) is None


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(FILES)),
    edits=st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 60),
)
def test_a_damaged_file_is_an_image_or_an_image_error(name: str, edits: list, cut: int, tmp_path_factory) -> None:
    damaged = bytearray(FILES[name])
    for at, value in edits:
        damaged[at % len(damaged)] = value
    file = tmp_path_factory.getbasetemp() / 'damaged'
    file.write_bytes(damaged[: len(damaged) - cut])
    with suppress(ImageError):
        assert read_image(file).dtype == np.uint8
