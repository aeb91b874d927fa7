"""Compressed frames: JPEG and PNG round-trip, every other or damaged stream is a typed error that names its cause."""

import array
import re

import cv2
import numpy as np
import pytest
from camera_pictures import BGR, GRAY, HEIGHT, WIDTH, mosaic, with_alpha
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_perception.detection.image import decode_compressed
from kd_perception.detection.jpeg import MAX_SCANS
from kd_perception.errors import ImageError, ImageTooLargeError, MalformedImageError, UnsupportedEncodingError


def encoded(picture: np.ndarray, extension: str, *flags: int) -> bytes:
    done, stream = cv2.imencode(extension, picture, flags)
    assert done
    return stream.tobytes()


PROGRESSIVE = encoded(BGR, '.jpg', cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, 95)
BASELINE = encoded(BGR, '.jpg', cv2.IMWRITE_JPEG_QUALITY, 95)
PNG = encoded(BGR, '.png')
COMPRESSED = [
    # name, stream, picture, greatest difference
    ('jpeg', BASELINE, BGR, 8),
    ('progressive', PROGRESSIVE, BGR, 8),
    ('grey jpeg', encoded(GRAY[:, :, 0], '.jpg', cv2.IMWRITE_JPEG_QUALITY, 95), GRAY, 8),
    ('png', PNG, BGR, 0),
    ('grey png', encoded(GRAY[:, :, 0], '.png'), GRAY, 0),
    ('alpha png', encoded(with_alpha(BGR), '.png'), BGR, 0),
    ('16-bit png', encoded(BGR.astype(np.uint16) * 257, '.png'), BGR, 0),
]


@pytest.mark.parametrize(
    ('stream', 'picture', 'tolerance'), [r[1:] for r in COMPRESSED], ids=[r[0] for r in COMPRESSED]
)
def test_compressed_round_trip(stream: bytes, picture: np.ndarray, tolerance: int) -> None:
    image = decode_compressed(array.array('B', stream))
    assert image.dtype == np.uint8
    assert image.shape == picture.shape
    assert np.abs(image.astype(int) - picture).max() <= tolerance


@pytest.mark.parametrize('extra', [b'\0' * 300, b'\xff\xff'], ids=['zeros', 'fill bytes'])
def test_drivers_may_pad_behind_the_end_of_a_jpeg(extra: bytes) -> None:
    assert decode_compressed(BASELINE + extra).shape == BGR.shape


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_does_not_turn_a_sensor_frame(orientation: int) -> None:
    tiff = b'II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0' + bytes([orientation, 0, 0, 0]) + b'\0\0\0\0'
    exif = b'Exif\0\0' + tiff
    segment = b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif
    assert np.array_equal(decode_compressed(BASELINE[:2] + segment + BASELINE[2:]), decode_compressed(BASELINE))


def with_jpeg_size(width: int, height: int) -> bytes:
    """The baseline stream with another size in its frame header."""
    at = BASELINE.index(b'\xff\xc0') + 5
    return BASELINE[:at] + height.to_bytes(2, 'big') + width.to_bytes(2, 'big') + BASELINE[at + 4 :]


def with_png_size(width: int, height: int) -> bytes:
    return PNG[:16] + width.to_bytes(4, 'big') + height.to_bytes(4, 'big') + PNG[24:]


@pytest.mark.parametrize(
    ('stream', 'error', 'message'),
    [
        (b'', MalformedImageError, '0 bytes'),
        (b'\xff\xd8', MalformedImageError, 'truncated'),
        (b'\xff\xd8\xff\xd9', MalformedImageError, 'truncated or damaged'),
        (BASELINE[:2] + BASELINE[BASELINE.index(b'\xff\xda') :], MalformedImageError, 'no frame header'),
        (with_jpeg_size(0, 32), MalformedImageError, 'declares a size of 0x32'),
        (with_jpeg_size(48, 0), MalformedImageError, 'declares a size of 48x0'),
        (with_jpeg_size(65535, 65535), ImageTooLargeError, 'declares 65535x65535 pixels; the limit is 40000000'),
        (BASELINE[:2] + b'\xff\xfe\0\x02' * 2000 + BASELINE[2:], MalformedImageError, 'truncated or damaged'),
        (PROGRESSIVE + PROGRESSIVE[PROGRESSIVE.index(b'\xff\xda') :] * 9, ImageTooLargeError, 'scans'),
        (PNG[:20], MalformedImageError, 'IHDR'),
        (PNG[:8] + PNG[33:], MalformedImageError, 'IHDR'),
        (with_png_size(0, 32), MalformedImageError, 'declares a size of 0x32'),
        (with_png_size(2**31 - 1, 2**31 - 1), ImageTooLargeError, 'declares 2147483647x2147483647'),
        (with_png_size(47, 32), MalformedImageError, 'damaged'),
        (b'GIF89a' + bytes(100), UnsupportedEncodingError, 'GIF'),
        (encoded(BGR, '.bmp'), UnsupportedEncodingError, 'BMP'),
        (encoded(BGR, '.tiff'), UnsupportedEncodingError, 'TIFF'),
        (encoded(BGR, '.webp'), UnsupportedEncodingError, 'WebP'),
        (encoded(BGR, '.ppm'), UnsupportedEncodingError, 'PNM'),
        (bytes(12) + PNG, UnsupportedEncodingError, 'compressedDepth'),
        (b'hello, world', UnsupportedEncodingError, '68 65 6c 6c 6f'),
    ],
)
def test_bad_streams_are_named(stream: bytes, error: type[ImageError], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        decode_compressed(stream)


def test_the_declared_format_tells_depth_images_apart_and_helps_the_message() -> None:
    with pytest.raises(UnsupportedEncodingError, match='depth image'):
        decode_compressed(PNG, declared='16UC1; compressedDepth rvl')
    with pytest.raises(UnsupportedEncodingError, match="declared as 'h264'"):
        decode_compressed(b'\0\0\0\x01' + bytes(40), declared='h264')
    assert decode_compressed(PNG, declared='bgr8; jpeg compressed bgr8').shape == BGR.shape


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_a_compressed_mosaic_is_demosaiced_as_a_raw_one(pattern: str, suffix: str) -> None:
    color = (40, 120, 220)
    cells = encoded(mosaic(np.full((48, 64, 3), color, np.uint8), pattern), suffix, cv2.IMWRITE_JPEG_QUALITY, 100)
    kind = {'.png': 'png', '.jpg': 'jpeg'}[suffix]
    image = decode_compressed(cells, declared=f'bayer_{pattern}8; {kind} compressed ')
    assert np.abs(image.astype(int) - color).max() <= 12
    assert decode_compressed(cells).std() > 30  # a grid, where nothing says what it is


@pytest.mark.parametrize(
    ('declared', 'stream', 'seen'),
    [
        ('bayer_rggb8; png compressed bgr8', PNG, BGR),  # colors already: there is nothing to demosaic
        ('rgb8; png compressed bgr8', PNG, BGR),
        ('rgb8; png compressed rgb8', PNG, BGR[..., ::-1]),
        ('mono8; png compressed ', encoded(GRAY[:, :, 0], '.png'), GRAY),
        ('mono16; png compressed ', encoded(GRAY[:, :, 0].astype(np.uint16) * 257, '.png'), GRAY),
        ('jpeg', PNG, BGR),
        ('', PNG, BGR),
        ('bayer_rggb8', PNG, BGR),
        (';;;', PNG, BGR),
    ],
)
def test_what_the_format_says_of_the_pixels_is_obeyed(declared: str, stream: bytes, seen: np.ndarray) -> None:
    assert np.array_equal(decode_compressed(stream, declared=declared), seen)


@pytest.mark.parametrize(
    ('encoding', 'message'),
    [
        *((name, 'depth image') for name in ('16UC1', '16SC1', '32FC1', '32SC1', '64FC1')),
        *((f'bayer_{name}', 'Bayer mosaic that is not supported') for name in ('rggb16', 'grbg16', 'xxxx8')),
    ],
)
def test_compressed_pixels_that_are_no_colors_are_refused(encoding: str, message: str) -> None:
    gray = encoded(GRAY[:, :, 0].astype(np.uint16), '.png')
    with pytest.raises(UnsupportedEncodingError, match=message):
        decode_compressed(gray, declared=f'{encoding}; png compressed ')


def test_the_limit_of_pixels_is_the_callers() -> None:
    assert decode_compressed(BASELINE, max_pixels=WIDTH * HEIGHT).shape == BGR.shape
    with pytest.raises(ImageTooLargeError):
        decode_compressed(BASELINE, max_pixels=WIDTH * HEIGHT - 1)


def test_the_limit_of_scans_leaves_room_for_real_progressive_streams() -> None:
    assert PROGRESSIVE.count(b'\xff\xda') < MAX_SCANS / 4


@pytest.mark.parametrize('stream', [BASELINE, PROGRESSIVE], ids=['baseline', 'progressive'])
def test_a_jpeg_cut_anywhere_is_refused(stream: bytes) -> None:
    for length in range(len(stream)):
        with pytest.raises(ImageError):
            decode_compressed(stream[:length])


def test_a_png_cut_anywhere_before_its_end_chunk_is_refused() -> None:
    for length in range(PNG.rindex(b'IEND')):
        with pytest.raises(ImageError):
            decode_compressed(PNG[:length])


@settings(max_examples=400, deadline=None)
@given(
    stream=st.sampled_from([row[1] for row in COMPRESSED]),
    edits=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.integers(0, 40),
)
def test_a_damaged_stream_is_an_image_or_an_image_error(stream: bytes, edits: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(stream)
    for at, value in edits:
        damaged[at % len(damaged)] = value
    try:
        image = decode_compressed(damaged[: len(damaged) - cut], max_pixels=1 << 20)
    except ImageError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3


def test_every_odd_file_is_an_image_or_an_image_error(shared_data) -> None:
    outcomes: dict[str, str] = {}
    for path in sorted((shared_data / 'odd_images').rglob('*')):
        if path.is_file():
            try:
                image = decode_compressed(path.read_bytes())
                outcomes[path.name] = f'{image.dtype} {image.shape[1]}x{image.shape[0]}x{image.shape[2]}'
            except ImageError as error:
                outcomes[path.name] = f'{type(error).__name__}: {error}'
    assert len(outcomes) > 150
    expected = {  # the beginning of the outcome
        'hopper_orientation_5.jpg': 'uint8 128x128x3',
        'pil_sample_cmyk.jpg': 'uint8 100x100x3',
        'basn4a16.png': 'uint8 32x32x3',
        'truncated_jpeg.jpg': 'MalformedImageError: JPEG of 6698 bytes is truncated',
        'null_height.jpg': 'MalformedImageError: JPEG declares a size of 0x800',
        'max_size.jpg': 'ImageTooLargeError: JPEG declares 65535x65535 pixels',
        'decompression_bomb.gif': 'UnsupportedEncodingError: compressed image is GIF',
    }
    assert {name: outcomes[name][: len(outcome)] for name, outcome in expected.items()} == expected
