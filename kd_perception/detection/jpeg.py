"""JPEG streams: their segments are walked before anything is decoded, and a picture that lacks pixels is refused.

`simplejpeg` decodes, because it passes on what libjpeg-turbo warns of and is faster than OpenCV besides
(docs/detect.md has the figures). Without it, OpenCV decodes, and a picture whose last block is the gray that libjpeg leaves
where the data ended is refused; a progressive picture that lacks only its finer scans then passes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from kd_perception.detection.picture_size import check_size
from kd_perception.errors import ImageTooLargeError, MalformedImageError

try:
    import simplejpeg
except ImportError:  # a robot whose packages come from apt alone
    simplejpeg = None

MAX_SCANS = 64
"""Progressive JPEGs have about ten scans; each one costs a pass over the whole image, so thousands are an attack."""

MAX_PASSES = 12
"""A picture with more scans than this may only be so much smaller than the limit of pixels: the work stays bounded."""

MAX_SEGMENTS = 1024
"""Segments before the first scan; a photograph with color profile, preview and metadata has a few dozen."""

_MAX_STRAY_BYTES = 64
"""Webcams leave a few bytes of padding before a marker; more of them mean that the picture is not as large as it was."""

_EOI, _SOS, _TEM, _APP1 = 0xD9, 0xDA, 0x01, 0xE1
_RESTARTS = range(0xD0, 0xD8)
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 … SOF15 without DHT, JPG, DAC
_ARITHMETIC = range(0xC9, 0xD0)
_UNFLAGGED = re.compile(r'tj|\w+\(\)|.*(?:not supported|unsupported|not implemented|sorry)', re.IGNORECASE)
_STRAY = re.compile(r'Corrupt JPEG data: (\d+) extraneous bytes before marker')


@dataclass(frozen=True)
class JpegHeader:
    """What a JPEG says of itself before its first scan.

    Attributes:
        width: pixels.
        height: pixels.
        components: 1 gray, 3 color, 4 CMYK.
        scans: passes over the image.
        orientation: EXIF's, 1 (upright) to 8.
    """

    width: int
    height: int
    components: int
    scans: int
    orientation: int = 1


def read_header(stream: bytes, max_pixels: int) -> JpegHeader:
    """Walk the segments up to the first scan, and look at how the scans end.

    Args:
        stream: the file's content.
        max_pixels: largest width × height; with more than `MAX_PASSES` scans correspondingly less.

    Raises:
        MalformedImageError: segments that contradict the stream, no size, no end marker, fewer bytes than any picture of
            that size has.
        ImageTooLargeError: too many pixels or scans.
    """
    frame, start, orientation = _walk(stream)
    height, width, components = int.from_bytes(frame[3:5], 'big'), int.from_bytes(frame[5:7], 'big'), frame[7]
    check_size('JPEG', width, height, max_pixels)
    # Inside entropy-coded data 0xFF is always followed by 0 or a restart marker, so these two bytes are a real marker.
    if stream.rfind(bytes((0xFF, _EOI)), start) < 0:
        raise MalformedImageError(f'JPEG of {len(stream)} bytes is truncated: it breaks off before its end marker')
    scans = 1 + stream.count(bytes((0xFF, _SOS)), start)
    if scans > MAX_SCANS:
        raise ImageTooLargeError(f'JPEG has {scans} scans, each a pass over the image; the limit is {MAX_SCANS}')
    if scans * width * height > MAX_PASSES * max_pixels:
        raise ImageTooLargeError(
            f'JPEG declares {width}x{height} pixels in {scans} scans; the limit is {MAX_PASSES} times {max_pixels} pixels'
        )
    # Every block of 8 x 8 pixels takes a bit at least, arithmetic coding apart.
    if frame[0] not in _ARITHMETIC and 8 * (len(stream) - start) < width * height // 64:
        raise MalformedImageError(f'JPEG declares {width}x{height} pixels, which its {len(stream)} bytes cannot hold')
    return JpegHeader(width, height, components, scans, orientation)


def decode(stream: bytes, header: JpegHeader, *, gray: bool = False) -> npt.NDArray[np.uint8]:
    """Decode to uint8 (H, W, 3) BGR, or (H, W) if `gray`. The EXIF orientation is not applied.

    Raises:
        MalformedImageError: damaged, or pixels are missing.
    """
    if simplejpeg is not None and header.components != 4:
        try:
            return _by_simplejpeg(stream, gray, strict=True)
        except ValueError as error:
            stray = _STRAY.match(str(error))
            if stray and int(stray[1]) <= _MAX_STRAY_BYTES:
                return _by_simplejpeg(stream, gray, strict=False)
            if not _UNFLAGGED.match(str(error)):  # else: a kind that it cannot decode, and OpenCV perhaps can
                raise MalformedImageError(
                    f'JPEG of {header.width}x{header.height} is damaged or lacks pixels: {str(error).strip()}'
                ) from error
    return _by_opencv(stream, header, gray)


def _by_simplejpeg(stream: bytes, gray: bool, strict: bool) -> npt.NDArray[np.uint8]:
    image: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(stream, 'GRAY' if gray else 'BGR', strict=strict)
    return image[..., 0] if gray else image


def _by_opencv(stream: bytes, header: JpegHeader, gray: bool) -> npt.NDArray[np.uint8]:
    kind = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR
    what = f'JPEG of {header.width}x{header.height}'
    try:
        image = cv2.imdecode(np.frombuffer(stream, np.uint8), kind | cv2.IMREAD_IGNORE_ORIENTATION)
    except (cv2.error, MemoryError) as error:
        raise MalformedImageError(f'{what} cannot be decoded: {error}') from error
    if image is None:
        raise MalformedImageError(f'{what} ({len(stream)} bytes) is damaged or of an unsupported kind')
    if (image[-8:, -8:] == 128).all() and not (image == 128).all():
        raise MalformedImageError(f'{what} lacks pixels: its scan ends before its last block')
    return np.asarray(image, np.uint8)


def upright(image: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Turn an image as its EXIF orientation says."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _walk(stream: bytes) -> tuple[bytes, int, int]:
    """The marker and content of the frame header (SOF), where the first scan's data begin, and the EXIF orientation."""
    frame, orientation, at = b'', 1, 2
    for _ in range(MAX_SEGMENTS):
        start = at
        while stream[at : at + 2] == b'\xff\xff' and at - start <= 64:  # fill bytes
            at += 1
        if at - start > 64 or len(stream) < at + 4:
            break
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], 'big')
        if stream[at] != 0xFF or marker in (0x00, _EOI, _TEM) or marker in _RESTARTS or length < 2:
            raise MalformedImageError(f'JPEG is damaged: no segment at byte {at} of its header')
        content = stream[at + 4 : at + 2 + length]
        if marker in _FRAME_HEADERS:
            if frame or length < 8:
                raise MalformedImageError(f'JPEG is damaged: wrong frame header at byte {at}')
            # marker, length twice unused, then precision, height, width, components
            frame = bytes((marker, 0)) + content[:6]
        elif marker == _APP1 and content.startswith(b'Exif\0\0'):
            orientation = exif_orientation(content[6:])
        at += 2 + length
        if marker == _SOS:
            if len(frame) < 8:
                raise MalformedImageError('JPEG is damaged: it has pixels but no frame header with a size')
            return frame, at, orientation
    raise MalformedImageError(f'JPEG of {len(stream)} bytes is truncated or damaged: its header ends before any pixel')


def exif_orientation(block: bytes) -> int:
    """The orientation that an EXIF block (a TIFF header and its first directory) states; 1 where it states none."""
    order = {b'II*\0': '<', b'MM\0*': '>'}.get(block[:4])
    if order is None:
        return 1
    byte_order = 'little' if order == '<' else 'big'

    def number(at: int, size: int) -> int:
        return int.from_bytes(block[at : at + size], byte_order)  # type: ignore[arg-type]

    directory = number(4, 4)
    for entry in range(min(number(directory, 2), 512)):
        at = directory + 2 + 12 * entry
        if number(at, 2) == 0x0112:
            value = number(at + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1
