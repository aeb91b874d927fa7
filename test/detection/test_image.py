"""Raw frames: every encoding round-trips, every bad one is a typed error that names its cause."""

import array
import re

import numpy as np
import pytest
from camera_pictures import BGR, GRAY, HEIGHT, WIDTH, mosaic, with_alpha
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.detection.image import RAW_ENCODINGS, decode_raw
from kd_perception.errors import ImageError, MalformedImageError, UnsupportedEncodingError


def yuv(bgr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """BT.601 video range, from the standard's coefficients."""
    b, g, r = np.moveaxis(bgr.astype(float), 2, 0)
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return tuple(np.round(plane).astype(np.uint8) for plane in (y, u, v))


def packed_422(bgr: np.ndarray, order: str) -> np.ndarray:
    """Rows of two pixels in four bytes, in the order of e.g. `UYVY`."""
    y, u, v = yuv(bgr)
    rows = np.empty((bgr.shape[0], bgr.shape[1] * 2), np.uint8)
    luma = iter((y[:, 0::2], y[:, 1::2]))
    for at, name in enumerate(order):
        rows[:, at::4] = next(luma) if name == 'Y' else {'U': u, 'V': v}[name][:, 0::2]
    return rows


def semi_planar_420(bgr: np.ndarray, order: str) -> np.ndarray:
    """The luma plane, below it rows of interleaved chroma at half the resolution."""
    y, u, v = yuv(bgr)
    chroma = np.empty((bgr.shape[0] // 2, bgr.shape[1]), np.uint8)
    for at, name in enumerate(order):
        chroma[:, at::2] = {'U': u, 'V': v}[name][0::2, 0::2]
    return np.vstack([y, chroma])


def flat(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(pixels.shape[0], -1).view(np.uint8)


ROUND_TRIPS = [
    # encoding, rows of bytes as the camera sends them, picture, greatest difference
    ('bgr8', flat(BGR), BGR, 0),
    ('8UC3', flat(BGR), BGR, 0),
    ('rgb8', flat(BGR[:, :, ::-1].copy()), BGR, 0),
    ('bgra8', flat(with_alpha(BGR)), BGR, 0),
    ('rgba8', flat(with_alpha(BGR[:, :, ::-1])), BGR, 0),
    ('mono8', GRAY[:, :, 0], GRAY, 0),
    ('8UC1', GRAY[:, :, 0], GRAY, 0),
    ('mono16', flat(GRAY[:, :, 0].astype('<u2') * 256 + 255), GRAY, 0),
    ('yuv422', packed_422(BGR, 'UYVY'), BGR, 6),
    ('uyvy', packed_422(BGR, 'UYVY'), BGR, 6),
    ('yuv422_yuy2', packed_422(BGR, 'YUYV'), BGR, 6),
    ('yuyv', packed_422(BGR, 'YUYV'), BGR, 6),
    ('nv12', semi_planar_420(BGR, 'UV'), BGR, 10),
    ('nv21', semi_planar_420(BGR, 'VU'), BGR, 10),
    ('bayer_rggb8', mosaic(BGR, 'rggb'), BGR, 6),
    ('bayer_bggr8', mosaic(BGR, 'bggr'), BGR, 6),
    ('bayer_gbrg8', mosaic(BGR, 'gbrg'), BGR, 6),
    ('bayer_grbg8', mosaic(BGR, 'grbg'), BGR, 6),
]


def test_every_encoding_is_covered_here() -> None:
    assert {row[0] for row in ROUND_TRIPS} == set(RAW_ENCODINGS)


@pytest.mark.parametrize('padding', [0, 1, 13])
@pytest.mark.parametrize(('encoding', 'rows', 'picture', 'tolerance'), ROUND_TRIPS, ids=[r[0] for r in ROUND_TRIPS])
def test_round_trip(encoding: str, rows: np.ndarray, picture: np.ndarray, tolerance: int, padding: int) -> None:
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=255)
    image = decode_raw(encoding, WIDTH, HEIGHT, padded.shape[1], array.array('B', padded.tobytes()))
    assert image.dtype == np.uint8
    assert image.shape == (HEIGHT, WIDTH, 3)
    difference = np.abs(image.astype(int) - picture)
    # The demosaic has no neighbors to interpolate from at the frame.
    inner = difference[2:-2, 2:-2] if encoding.startswith('bayer') else difference
    assert inner.max() <= tolerance


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize('size', [(3, 3), (5, 4), (16, 16)])
def test_a_mosaic_of_one_color_comes_out_in_that_color(pattern: str, size: tuple[int, int]) -> None:
    color = (40, 120, 220)
    rows = mosaic(np.full((size[1], size[0], 3), color, np.uint8), pattern)
    image = decode_raw(f'bayer_{pattern}8', *size, size[0], rows.tobytes())
    assert np.all(image == color)


@pytest.mark.parametrize(('is_bigendian', 'data'), [(False, b'\x34\x12'), (True, b'\x12\x34')])
def test_16_bit_gray_keeps_its_upper_byte(is_bigendian: bool, data: bytes) -> None:
    assert decode_raw('mono16', 1, 1, 2, data, is_bigendian).tolist() == [[[0x12] * 3]]


@pytest.mark.parametrize('padding', [0, 5])
def test_bgr_is_a_view_of_the_message(padding: int) -> None:
    data = bytes(HEIGHT * (WIDTH * 3 + padding))
    image = decode_raw('bgr8', WIDTH, HEIGHT, WIDTH * 3 + padding, data)
    assert np.shares_memory(image, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    ('encoding', 'width', 'height', 'step', 'length', 'message'),
    [
        ('bgr8', 0, 4, 12, 48, 'bgr8 image of 0x4: width and height must be 1 to 32767'),
        ('bgr8', 4, 0, 12, 0, 'image of 4x0'),
        ('bgr8', 4, -1, 12, 0, 'image of 4x-1'),
        ('mono8', 1 << 31, 1, 1 << 31, 16, 'image of 2147483648x1'),
        ('bgr8', 4, 4, 11, 44, 'step is 11 but a row has 12 bytes'),
        ('bgr8', 4, 4, 0, 48, 'step is 0 but a row has 12 bytes'),
        ('bgr8', 4, 4, 12, 47, 'data has 47 bytes but step 12 x 4 rows makes 48'),
        ('bgr8', 4, 4, 12, 49, 'data has 49 bytes but step 12 x 4 rows makes 48'),
        ('bgr8', 4, 4, 12, 0, 'data has 0 bytes'),
        ('bgr8', 4, 4, 14, 54, 'data has 54 bytes but step 14 x 4 rows makes 56'),  # no padding after the last row
        ('bgr8', 4, 4, 1 << 40, 48, 'makes 4398046511104'),
        ('mono16', 4, 4, 4, 16, 'step is 4 but a row has 8 bytes'),
        ('yuv422', 5, 4, 10, 40, 'its width must be even'),
        ('yuyv', 5, 4, 10, 40, 'its width must be even'),
        ('nv12', 5, 4, 5, 30, 'its width and height must be even'),
        ('nv21', 4, 5, 4, 30, 'its width and height must be even'),
        ('nv12', 4, 4, 4, 16, 'data has 16 bytes but step 4 x 6 rows makes 24'),
        ('bayer_rggb8', 2, 2, 2, 4, 'width and height must be 3 to 32767'),
    ],
)
def test_contradictions_are_named_with_their_numbers(
    encoding: str, width: int, height: int, step: int, length: int, message: str
) -> None:
    with pytest.raises(MalformedImageError, match=re.escape(message)):
        decode_raw(encoding, width, height, step, bytes(length))


@given(
    encoding=st.sampled_from(RAW_ENCODINGS),
    width=st.integers(-1, 9),
    height=st.integers(-1, 9),
    step=st.integers(-1, 40),
    data=st.binary(max_size=400),
    is_bigendian=st.booleans(),
)
def test_any_contradiction_is_an_image_error(
    encoding: str, width: int, height: int, step: int, data: bytes, is_bigendian: bool
) -> None:
    try:
        image = decode_raw(encoding, width, height, step, data, is_bigendian)
    except ImageError:
        return
    assert image.shape == (height, width, 3)


@given(st.data())
def test_every_consistent_frame_is_decoded(data: st.DataObject) -> None:
    encoding = data.draw(st.sampled_from(RAW_ENCODINGS))
    width, height = 2 * data.draw(st.integers(2, 20)), 2 * data.draw(st.integers(2, 20))
    step = width * 4 + data.draw(st.integers(0, 7))
    rows = height * 3 // 2 if encoding.startswith('nv') else height
    assert decode_raw(encoding, width, height, step, bytes(step * rows)).shape == (height, width, 3)


@pytest.mark.parametrize('encoding', ['', 'BGR8', 'rgb16', '32FC1', 'nv24', 'bayer_rggb16', 'x' * 1000])
def test_an_unknown_encoding_is_named_with_those_we_know(encoding: str) -> None:
    with pytest.raises(UnsupportedEncodingError) as caught:
        decode_raw(encoding, 4, 4, 12, bytes(48))
    assert repr(encoding[:40])[:-1] in str(caught.value)
    assert 'bayer_grbg8' in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_fallback_decodes_what_is_not_ours_and_only_that() -> None:
    assert decode_raw('rgb16', WIDTH, HEIGHT, 6 * WIDTH, b'', fallback=lambda: BGR) is BGR
    assert np.all(decode_raw('mono8', 1, 1, 1, b'\x07', fallback=lambda: BGR) == 7)


def failing_conversion() -> np.ndarray:
    raise RuntimeError('cannot convert rgb16')


@pytest.mark.parametrize(
    ('fallback', 'message'),
    [
        (failing_conversion, 'cannot convert rgb16'),
        (lambda: BGR[:, :, 0], r'uint8 \(32, 48\)'),
        (lambda: BGR.astype(np.float32), 'float32'),
    ],
)
def test_a_failing_fallback_is_an_unsupported_encoding(fallback, message: str) -> None:
    with pytest.raises(UnsupportedEncodingError, match=message):
        decode_raw('rgb16', WIDTH, HEIGHT, 6 * WIDTH, b'', fallback=fallback)
