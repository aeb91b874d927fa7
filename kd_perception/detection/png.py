"""PNG streams: their chunks are walked before anything is decoded, and only those that make the pixels are handed on."""

from __future__ import annotations

from dataclasses import dataclass

from kd_perception.detection.picture_size import check_size
from kd_perception.errors import ImageTooLargeError, MalformedImageError

SIGNATURE = b'\x89PNG\r\n\x1a\n'

MAX_CHUNKS = 1 << 16
"""Encoders write chunks of 4 kB and more; millions of empty ones only cost time."""

_PIXELS = frozenset({b'IHDR', b'PLTE', b'tRNS', b'IDAT', b'IEND'})
"""Text, color profiles and the frames of an animation are left out: what they unpack to is of no use, and unbounded."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
_MOST_INFLATED = 1040  # bytes that deflate makes of one, and a little


@dataclass(frozen=True)
class Png:
    """A PNG picture without what is not its pixels.

    Attributes:
        width: pixels.
        height: pixels.
        channels: 1 for gray and palette, 2 with alpha, 3 for color, 4 with alpha.
        stream: IHDR, PLTE, tRNS, IDAT, IEND, and the EXIF block if it was asked for.
    """

    width: int
    height: int
    channels: int
    stream: bytes


def read_png(stream: bytes, max_pixels: int, *, exif: bool = False) -> Png:
    """Walk the chunks; an animation becomes its still picture.

    Args:
        stream: the file's content.
        max_pixels: largest width × height.
        exif: keep the EXIF block.

    Raises:
        MalformedImageError: a chunk that is longer than the stream, no IHDR at the beginning, no IEND, fewer bytes than any
            picture of that size has.
        ImageTooLargeError: too many chunks or pixels.
    """
    kept: list[tuple[int, int]] = []
    at, data, wanted = len(SIGNATURE), 0, _PIXELS | {b'eXIf'} if exif else _PIXELS
    for _ in range(MAX_CHUNKS):
        length, kind = int.from_bytes(stream[at : at + 4], 'big'), stream[at + 4 : at + 8]
        end = at + 12 + length
        if (kind == b'IHDR') != (at == len(SIGNATURE)) or (kind == b'IHDR' and (length != 13 or end > len(stream))):
            raise MalformedImageError(
                f'PNG of {len(stream)} bytes is truncated or damaged: it does not begin with its IHDR chunk'
            )
        if end > len(stream):
            break
        if kind in wanted:
            # Neighbors are handed on as one piece.
            start = kept.pop()[0] if kept and kept[-1][1] == at else at
            kept.append((start, end))
        data += length if kind == b'IDAT' else 0
        at = end
        if kind == b'IEND':
            return _png(stream, kept, data, max_pixels)
    else:
        raise ImageTooLargeError(f'PNG has more than {MAX_CHUNKS} chunks')
    if len(stream) < at + 8:
        raise MalformedImageError(f'PNG of {len(stream)} bytes is truncated: it breaks off before its IEND chunk')
    name = kind.decode('ascii', 'backslashreplace')
    raise MalformedImageError(
        f'PNG of {len(stream)} bytes is truncated or damaged: its chunk {name} at byte {at} states {length} bytes'
    )


def _png(stream: bytes, kept: list[tuple[int, int]], data: int, max_pixels: int) -> Png:
    width, height = int.from_bytes(stream[16:20], 'big'), int.from_bytes(stream[20:24], 'big')
    check_size('PNG', width, height, max_pixels)
    channels = _CHANNELS.get(stream[25], 1)
    if height * ((width * stream[24] * channels + 7) // 8 + 1) > data * _MOST_INFLATED:
        raise MalformedImageError(f'PNG declares {width}x{height} pixels, which its {data} bytes of IDAT cannot hold')
    whole = kept == [(len(SIGNATURE), len(stream))]
    pixels = stream if whole else SIGNATURE + b''.join(stream[start:end] for start, end in kept)
    return Png(width, height, channels, pixels)
