"""Camera frames in, BGR images out: raw images by row step, JPEG and PNG streams after a look at their declared size.

Whatever a camera or a network sends ends in an image or in one of the three `ImageError`s, never in another exception.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from kd_perception.detection import jpeg
from kd_perception.detection.jpeg import read_header
from kd_perception.detection.png import SIGNATURE, Png, read_png
from kd_perception.errors import ImageTooLargeError, MalformedImageError, UnsupportedEncodingError

if TYPE_CHECKING:
    from typing_extensions import Buffer  # bytes, array.array, ndarray …; in collections.abc from Python 3.12

BgrImage = npt.NDArray[np.uint8]
"""uint8 (height, width, 3), channels blue, green, red."""

MAX_SIDE = 32767
"""Longest side of a raw image in pixels; more is a damaged header (OpenCV's coordinates are 16 bit)."""

MAX_COMPRESSED_BYTES = 64 << 20
"""Longest JPEG or PNG stream."""


@dataclass(frozen=True)
class _Encoding:
    """How the rows of one ROS encoding lie in memory, and what makes BGR of them.

    Attributes:
        bytes_per_pixel: of the first plane.
        conversion: OpenCV color conversion; None where the pixels are BGR already.
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
        encoding: one of `RAW_ENCODINGS`. YUV is taken as BT.601 video range; 16-bit gray keeps its upper 8 bits.
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

    EXIF orientation is ignored unless asked for: a camera frame keeps the axes of its sensor. Gray, CMYK, palette,
    alpha and 16-bit images become 8-bit BGR. A stream that lacks pixels is refused although its beginning could be
    shown: a half gray frame must not pass for an empty street.

    Args:
        data: the stream, e.g. `sensor_msgs/CompressedImage.data`; its own first bytes tell the format.
        max_pixels: largest width × height that is decoded.
        declared: `sensor_msgs/CompressedImage.format`. What it says of the pixels before the `;` is obeyed as for raw
            images: a Bayer mosaic is demosaiced, depth is refused.
        upright: turn the image as its EXIF orientation says, for photographs.

    Returns:
        A new uint8 (height, width, 3).

    Raises:
        UnsupportedEncodingError: neither JPEG nor PNG, or no color image; the message names the format where it is known.
        ImageTooLargeError: the stream, or the size that it declares, is over the limit.
        MalformedImageError: empty, truncated or damaged.
    """
    size = memoryview(data).nbytes
    if size == 0:
        raise MalformedImageError('the compressed image is empty: 0 bytes')
    if size > MAX_COMPRESSED_BYTES:
        raise ImageTooLargeError(f'the compressed image has {size} bytes; the limit is {MAX_COMPRESSED_BYTES}')
    stream = bytes(data)
    mosaic = _declared_mosaic(declared)
    if stream.startswith(b'\xff\xd8'):
        header = read_header(stream, max_pixels)
        one_channel = mosaic is not None and header.components == 1
        image = jpeg.decode(stream, header, gray=one_channel)
        _check_shape('JPEG', image, header.width, header.height)
        image = jpeg.upright(image, header.orientation) if upright and header.orientation > 1 else image
    elif stream.startswith(SIGNATURE):
        png = read_png(stream, max_pixels, exif=upright)
        one_channel = mosaic is not None and png.channels == 1
        image = _decode_png(png, one_channel, upright)
        _check_shape('PNG', image, png.width, png.height, turned=upright)
    else:
        raise UnsupportedEncodingError(
            f'compressed image is {_format_name(stream)}{f", declared as {_quoted(declared)}" if declared else ""}; '
            'only JPEG and PNG are decoded'
        )
    if mosaic is not None and one_channel:
        height, width = image.shape
        return decode_raw(mosaic, width, height, width, image.data)
    return image[..., ::-1].copy() if _stored_as_rgb(declared) else image


def _declared_mosaic(declared: str) -> str | None:
    """The Bayer encoding that a CompressedImage's format states; None for images of other kinds.

    Raises:
        UnsupportedEncodingError: it states that these are no colors.
    """
    encoding, separator, _ = declared.partition(';')
    encoding = encoding.strip()
    if 'compressedDepth' in declared or (separator and _DEPTH.fullmatch(encoding)):
        raise UnsupportedEncodingError(f'format {_quoted(declared)} is a depth image; send JPEG or PNG colour images')
    if not (separator and encoding.startswith('bayer_')):
        return None
    if encoding not in _ENCODINGS:
        known = ', '.join(name for name in RAW_ENCODINGS if name.startswith('bayer_'))
        raise UnsupportedEncodingError(
            f'format {_quoted(declared)} is a Bayer mosaic that is not supported; set the camera to one of {known}'
        )
    return encoding


_DEPTH = re.compile(r'16[US]C1|32[SF]C1|64FC1')
"""Encodings of one channel that hold distances and not colors, as for raw images; mono16 is gray."""


def _stored_as_rgb(declared: str) -> bool:
    """Whether red and blue lie in each other's place: image_transport says in which order it handed them to the encoder."""
    return 'compressed rgb' in declared.partition(';')[2]


def _check_shape(name: str, image: npt.NDArray[np.uint8], width: int, height: int, turned: bool = False) -> None:
    """Hold a decoder to the size that the stream declares."""
    if image.shape[:2] not in ((height, width), (width, height) if turned else ()):
        raise MalformedImageError(f'{name} declares {width}x{height} but its pixels make {image.shape}')


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
    (12, SIGNATURE, 'a compressedDepth image'),
    *((0, b'P%d' % n, 'a portable anymap (PNM)') for n in range(1, 8)),
)


def _format_name(stream: bytes) -> str:
    for offset, magic, name in _FORMATS:
        if stream.startswith(magic, offset):
            return name
    return f'of an unknown format (its first bytes are {stream[:8].hex(" ")})'


def _decode_png(png: Png, gray: bool, upright: bool) -> npt.NDArray[np.uint8]:
    flags = (cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR) | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        image = cv2.imdecode(np.frombuffer(png.stream, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        raise MalformedImageError(f'PNG of {png.width}x{png.height} cannot be decoded: {error}') from error
    if image is None:
        raise MalformedImageError(
            f'PNG of {png.width}x{png.height} ({len(png.stream)} bytes) is damaged or of an unsupported kind'
        )
    return np.asarray(image, np.uint8)
