"""Raw and compressed frames: every encoding round-trips, every bad one is a typed error that names its cause."""

import array
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_perception.detection.image import RAW_ENCODINGS, decode_compressed, decode_raw
from kd_perception.detection.jpeg import MAX_SCANS
from kd_perception.errors import ImageError, ImageTooLargeError, MalformedImageError, UnsupportedEncodingError

WIDTH, HEIGHT = 48, 32


def smooth_picture() -> np.ndarray:
    """BGR picture without edges, so that what shares chroma between pixels loses little."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([60 + 3 * x, 200 - 4 * y, 90 + 2 * x + 2 * y], axis=2).astype(np.uint8)


def gray_picture() -> np.ndarray:
    return np.repeat(smooth_picture()[:, :, :1], 3, axis=2)


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


def mosaic(bgr: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor behind a color filter sees; the pattern names the first row's two cells, then the second's."""
    rows = np.empty(bgr.shape[:2], np.uint8)
    for cell, color in enumerate(pattern):
        y, x = divmod(cell, 2)
        rows[y::2, x::2] = bgr[y::2, x::2, 'bgr'.index(color)]
    return rows


def with_alpha(bgr: np.ndarray) -> np.ndarray:
    return np.dstack([bgr, np.full(bgr.shape[:2], 77, np.uint8)])


def flat(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(pixels.shape[0], -1).view(np.uint8)


BGR, GRAY = smooth_picture(), gray_picture()
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
