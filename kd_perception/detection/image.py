"""Camera frames in, BGR images out: raw images by row step, JPEG and PNG streams after a look at their declared size.

Whatever a camera or a network sends ends in an image or in one of the three `ImageError`s, never in another exception.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from kd_perception.errors import ImageTooLargeError, MalformedImageError, UnsupportedEncodingError

if TYPE_CHECKING:
    from typing_extensions import Buffer  # bytes, array.array, ndarray …; in collections.abc from Python 3.12

BgrImage = npt.NDArray[np.uint8]
"""uint8 (height, width, 3), channels blue, green, red."""

MAX_SIDE = 32767
"""Longest side of a raw image in pixels; more is a damaged header (OpenCV's coordinates are 16 bit)."""

MAX_COMPRESSED_BYTES = 64 << 20
"""Longest JPEG or PNG stream."""

MAX_JPEG_SCANS = 64
"""Progressive JPEGs have about ten scans; each one costs a pass over the whole image, so thousands are an attack."""

MAX_JPEG_SEGMENTS = 1024
"""Segments before the first scan; a photograph with colour profile, preview and metadata has a few dozen."""


@dataclass(frozen=True)
class _Encoding:
    """How the rows of one ROS encoding lie in memory, and what makes BGR of them.

    Attributes:
        bytes_per_pixel: of the first plane.
        conversion: OpenCV colour conversion; None where the pixels are BGR already.
        block: width and height must be multiples of these.
        minimum: smallest width and height that the conversion can fill.
        rows: rows of the buffer per two rows of the image: 3 for a luma plane with half as much chroma below it.
    """

    bytes_per_pixel: int
    conversion: int | None
    block: tuple[int, int] = (1, 1)
    minimum: int = 1
    rows: int = 2


def _bayer(conversion: int) -> _Encoding:
    # OpenCV interpolates from 3 x 3 pixels and gives black for less.
    return _Encoding(1, conversion, minimum=3)


_ENCODINGS: dict[str, _Encoding] = {
    'bgr8': _Encoding(3, None),
    '8UC3': _Encoding(3, None),
    'rgb8': _Encoding(3, cv2.COLOR_RGB2BGR),
    'bgra8': _Encoding(4, cv2.COLOR_BGRA2BGR),
    'rgba8': _Encoding(4, cv2.COLOR_RGBA2BGR),
    'mono8': _Encoding(1, cv2.COLOR_GRAY2BGR),
    '8UC1': _Encoding(1, cv2.COLOR_GRAY2BGR),
    'mono16': _Encoding(2, cv2.COLOR_GRAY2BGR),
    'yuv422': _Encoding(2, cv2.COLOR_YUV2BGR_UYVY, block=(2, 1)),
    'uyvy': _Encoding(2, cv2.COLOR_YUV2BGR_UYVY, block=(2, 1)),
    'yuv422_yuy2': _Encoding(2, cv2.COLOR_YUV2BGR_YUY2, block=(2, 1)),
    'yuyv': _Encoding(2, cv2.COLOR_YUV2BGR_YUY2, block=(2, 1)),
    'nv12': _Encoding(1, cv2.COLOR_YUV2BGR_NV12, block=(2, 2), rows=3),
    'nv21': _Encoding(1, cv2.COLOR_YUV2BGR_NV21, block=(2, 2), rows=3),
    # OpenCV names a mosaic by its second row (ROS's rggb is OpenCV's BG); those codes exist in every OpenCV 4.
    'bayer_rggb8': _bayer(cv2.COLOR_BayerBG2BGR),
    'bayer_bggr8': _bayer(cv2.COLOR_BayerRG2BGR),
    'bayer_gbrg8': _bayer(cv2.COLOR_BayerGR2BGR),
    'bayer_grbg8': _bayer(cv2.COLOR_BayerGB2BGR),
}

RAW_ENCODINGS: tuple[str, ...] = tuple(_ENCODINGS)
"""The encodings of `sensor_msgs/Image` that `decode_raw` knows by itself."""


def decode_raw(
    encoding: str,
    width: int,
    height: int,
    step: int,
    data: Buffer,
    is_bigendian: bool = False,
    *,
    fallback: Callable[[], BgrImage] | None = None,
) -> BgrImage:
    """Make a BGR image of a raw camera frame laid out as in `sensor_msgs/Image`.

    The buffer must hold exactly `step` × `height` bytes, as cv_bridge demands too; half as much again for nv12 and
    nv21, whose chroma rows have the step of the luma rows. Rows may end in padding.

    Args:
        encoding: one of `RAW_ENCODINGS`. YUV is taken as BT.601 video range; 16-bit grey keeps its upper 8 bits.
        width: pixels of a row.
        height: rows of the image (of the luma plane for nv12 and nv21).
        step: bytes from one row to the next.
        data: the pixels.
        is_bigendian: byte order of 16-bit pixels.
        fallback: makes the BGR image where the encoding is not one of ours, e.g. by cv_bridge.

    Returns:
        uint8 (height, width, 3). For bgr8 and 8UC3 a view of `data`, with its row step; for the others a new array.

    Raises:
        UnsupportedEncodingError: not one of `RAW_ENCODINGS`, and there is no fallback or it failed.
        MalformedImageError: size, step and data contradict each other.
    """
    layout = _ENCODINGS.get(encoding)
    if layout is None:
        return _decode_foreign(encoding, fallback)
    pixels = _rows(encoding, layout, width, height, step, data)
    if layout.conversion is None:
        return pixels.reshape(height, width, 3)
    if encoding == 'mono16':
        pixels = pixels[:, 0 if is_bigendian else 1 :: 2]  # the upper byte of each pixel
    elif layout.bytes_per_pixel > 1:
        pixels = pixels.reshape(height, width, layout.bytes_per_pixel)
    try:
        image: BgrImage = cv2.cvtColor(pixels, layout.conversion)  # type: ignore[assignment]
    except cv2.error as error:
        raise MalformedImageError(f'{width}x{height} {encoding} image cannot be converted: {error.err}') from error
    return image


def decode_compressed(
    data: Buffer, max_pixels: int = 40_000_000, declared: str = '', *, upright: bool = False
) -> BgrImage:
    """Decode a JPEG or PNG stream to a BGR image. The stream's own header is read for its size first.

    EXIF orientation is ignored unless asked for: a camera frame keeps the axes of its sensor. Grey, CMYK, palette,
    alpha and 16-bit images become 8-bit BGR. A stream that breaks off is refused although its beginning could be
    shown: a half grey frame must not pass for an empty street.

    Args:
        data: the stream, e.g. `sensor_msgs/CompressedImage.data`; its own first bytes tell the format.
        max_pixels: largest width × height that is decoded.
        declared: `sensor_msgs/CompressedImage.format`, for telling depth images apart and for the messages.
        upright: turn the image as its EXIF orientation says, for photographs.

    Returns:
        A new uint8 (height, width, 3).

    Raises:
        UnsupportedEncodingError: neither JPEG nor PNG; the message names the format where it is a known one.
        ImageTooLargeError: the stream, or the size that it declares, is over the limit.
        MalformedImageError: empty, truncated or damaged.
    """
    size = memoryview(data).nbytes
    if size == 0:
        raise MalformedImageError('the compressed image is empty: 0 bytes')
    if size > MAX_COMPRESSED_BYTES:
        raise ImageTooLargeError(f'the compressed image has {size} bytes; the limit is {MAX_COMPRESSED_BYTES}')
    stream = bytes(data)
    if 'compressedDepth' in declared:
        raise UnsupportedEncodingError(f'format {_quoted(declared)} is a depth image; send JPEG or PNG colour images')
    if stream.startswith(b'\xff\xd8'):
        name, (width, height) = 'JPEG', _jpeg_size(stream)
    elif stream.startswith(_PNG_SIGNATURE):
        name, (width, height) = 'PNG', _png_size(stream)
    else:
        raise UnsupportedEncodingError(
            f'compressed image is {_format_name(stream)}{f", declared as {_quoted(declared)}" if declared else ""}; '
            'only JPEG and PNG are decoded'
        )
    if width == 0 or height == 0:
        raise MalformedImageError(f'{name} declares a size of {width}x{height}')
    if width * height > max_pixels:
        raise ImageTooLargeError(f'{name} declares {width}x{height} pixels; the limit is {max_pixels} in all')
    return _imdecode(stream, name, width, height, upright)


def _rows(encoding: str, layout: _Encoding, width: int, height: int, step: int, data: Buffer) -> npt.NDArray[np.uint8]:
    """The buffer as rows without their padding: uint8 (rows, width × bytes per pixel), a view."""
    what = f'{encoding} image of {width}x{height}'
    if not (layout.minimum <= width <= MAX_SIDE and layout.minimum <= height <= MAX_SIDE):
        raise MalformedImageError(f'{what}: width and height must be {layout.minimum} to {MAX_SIDE}')
    if width % layout.block[0] or height % layout.block[1]:
        odd = 'width and height' if layout.block[1] == 2 else 'width'
        raise MalformedImageError(f'{what}: its {odd} must be even because pixels share their chroma')
    row_bytes = width * layout.bytes_per_pixel
    if step < row_bytes:
        raise MalformedImageError(f'{what}: step is {step} but a row has {row_bytes} bytes')
    rows = height * layout.rows // 2
    expected, found = step * rows, memoryview(data).nbytes
    if found != expected:
        raise MalformedImageError(f'{what}: data has {found} bytes but step {step} x {rows} rows makes {expected}')
    return np.frombuffer(memoryview(data), np.uint8).reshape(rows, step)[:, :row_bytes]


def _decode_foreign(encoding: str, fallback: Callable[[], BgrImage] | None) -> BgrImage:
    known = ', '.join(RAW_ENCODINGS)
    if fallback is None:
        raise UnsupportedEncodingError(
            f'image encoding {_quoted(encoding)} is not supported; set the camera to one of {known}'
        )
    try:
        image = np.asarray(fallback())
    except Exception as error:  # cv_bridge raises its own error type, which we cannot import
        raise UnsupportedEncodingError(
            f'image encoding {_quoted(encoding)} is not one of {known}, and could not be converted otherwise: {error}'
        ) from error
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise UnsupportedEncodingError(
            f'image encoding {_quoted(encoding)} was converted to {image.dtype} {image.shape}, which is no BGR image'
        )
    return image


def _quoted(text: str) -> str:
    """Text from the wire for a message: escaped and of bounded length."""
    return repr(text if len(text) <= 40 else text[:40] + '…')


_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'

_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b'GIF8', 'GIF'),
    (0, b'BM', 'BMP'),
    (0, b'II*\0', 'TIFF'),
    (0, b'MM\0*', 'TIFF'),
    (8, b'WEBP', 'WebP'),
    (4, b'ftyp', 'an ISO media file (AVIF, HEIC or MP4)'),
    (4, b'jP  ', 'JPEG 2000'),
    (0, b'\xff\x4f\xff\x51', 'JPEG 2000'),
    (0, b'\x76\x2f\x31\x01', 'OpenEXR'),
    (0, b'#?RADIANCE', 'Radiance HDR'),
    (0, b'\0\0\0\x01', 'an H.264 or H.265 stream'),
    (12, _PNG_SIGNATURE, 'a compressedDepth image'),
    *((0, b'P%d' % n, 'a portable anymap (PNM)') for n in range(1, 8)),
)


def _format_name(stream: bytes) -> str:
    for offset, magic, name in _FORMATS:
        if stream.startswith(magic, offset):
            return name
    return f'of an unknown format (its first bytes are {stream[:8].hex(" ")})'


_EOI, _SOS, _TEM = 0xD9, 0xDA, 0x01
_RESTARTS = range(0xD0, 0xD8)
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 … SOF15 without DHT, JPG, DAC


def _jpeg_size(stream: bytes) -> tuple[int, int]:
    """Width and height by the frame header (SOF) before the first scan; checks that the scans end in an EOI marker."""
    size: tuple[int, int] | None = None
    at = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        start = at
        while stream[at : at + 2] == b'\xff\xff':  # fill bytes
            at += 1
        if at - start > 64 or len(stream) < at + 4:
            break
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], 'big')
        if stream[at] != 0xFF or marker in (0x00, _EOI, _TEM) or marker in _RESTARTS or length < 2:
            raise MalformedImageError(f'JPEG is damaged: no segment at byte {at} of its header')
        if marker in _FRAME_HEADERS:
            if size is not None or length < 8:
                raise MalformedImageError(f'JPEG is damaged: wrong frame header at byte {at}')
            size = int.from_bytes(stream[at + 7 : at + 9], 'big'), int.from_bytes(stream[at + 5 : at + 7], 'big')
        at += 2 + length
        if marker == _SOS:
            if size is None:
                raise MalformedImageError('JPEG is damaged: it has pixels but no frame header with a size')
            _check_scans(stream, at)
            return size
    raise MalformedImageError(f'JPEG of {len(stream)} bytes is truncated or damaged: its header ends before any pixel')


def _check_scans(stream: bytes, start: int) -> None:
    # Inside entropy-coded data 0xFF is always followed by 0 or a restart marker, so these two bytes are a real marker.
    if stream.rfind(bytes((0xFF, _EOI)), start) < 0:
        raise MalformedImageError(f'JPEG of {len(stream)} bytes is truncated: it breaks off before its end marker')
    scans = 1 + stream.count(bytes((0xFF, _SOS)), start)
    if scans > MAX_JPEG_SCANS:
        raise ImageTooLargeError(f'JPEG has {scans} scans, each a pass over the image; the limit is {MAX_JPEG_SCANS}')


def _png_size(stream: bytes) -> tuple[int, int]:
    """Width and height by the IHDR chunk; checks that the stream ends in an IEND chunk."""
    if stream[8:16] != b'\0\0\0\x0dIHDR' or len(stream) < 33:
        raise MalformedImageError(
            f'PNG of {len(stream)} bytes is truncated or damaged: it does not begin with its IHDR chunk'
        )
    if stream.rfind(b'IEND', 33) < 0:
        raise MalformedImageError(f'PNG of {len(stream)} bytes is truncated: it breaks off before its IEND chunk')
    return int.from_bytes(stream[16:20], 'big'), int.from_bytes(stream[20:24], 'big')


def _imdecode(stream: bytes, name: str, width: int, height: int, upright: bool) -> BgrImage:
    flags = cv2.IMREAD_COLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    shapes = [(height, width, 3)] + [(width, height, 3)] * upright
    try:
        image = cv2.imdecode(np.frombuffer(stream, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        raise MalformedImageError(f'{name} of {width}x{height} cannot be decoded: {error}') from error
    if image is None:
        raise MalformedImageError(
            f'{name} of {width}x{height} ({len(stream)} bytes) is damaged or of an unsupported kind'
        )
    if image.shape not in shapes or image.dtype != np.uint8:
        raise MalformedImageError(f'{name} declares {width}x{height} but its pixels make {image.dtype} {image.shape}')
    return image  # type: ignore[return-value]
