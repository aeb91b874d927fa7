"""Picture files that OpenCV decodes beside JPEG and PNG: the sizes that BMP, TIFF and WebP declare, read before decoding."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from kd_perception.detection.picture_size import check_size
from kd_perception.errors import ImageTooLargeError, MalformedImageError

MAX_WEBP_CHUNKS = 1 << 16
_MOST_UNPACKED = 3000  # bytes that TIFF's LZW and deflate make of one, and a little


def check_picture_file(stream: bytes, max_pixels: int) -> str | None:
    """Look through a BMP, TIFF or WebP file before it is decoded.

    Returns:
        The format's name; None where the file is of another format.

    Raises:
        ImageTooLargeError: all its frames together, or one tile, have more than `max_pixels` pixels.
        MalformedImageError: it cannot be what it declares.
    """
    for signature, name, read_size in _FORMATS:
        if stream.startswith(signature) and (name != 'WebP' or stream[8:12] == b'WEBP'):
            try:
                width, height, frames = read_size(stream)
            except (struct.error, IndexError) as error:
                raise MalformedImageError(f'{name} of {len(stream)} bytes is truncated in its header') from error
            check_size(name, width, height, max_pixels, frames)
            return name
    return None


def _bmp(stream: bytes) -> tuple[int, int, int]:
    offset, header = struct.unpack_from('<II', stream, 10)
    if header == 12:  # OS/2
        width, height, _, bits = struct.unpack_from('<HHHH', stream, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from('<iiHHI', stream, 18)
    height = abs(height)
    needed = offset + (width * bits + 31) // 32 * 4 * height
    # The last row may lack its padding.
    if compression in (0, 3, 6) and width > 0 and needed > len(stream) + 3:
        raise MalformedImageError(f'BMP of {width}x{height} is truncated: it has {len(stream)} of {needed} bytes')
    return width, height, 1


def _tiff(stream: bytes) -> tuple[int, int, int]:
    """Of the first directory, which is the one that is decoded; a tile counts where it is larger than the picture."""
    order = '<' if stream.startswith(b'II') else '>'
    (at,) = struct.unpack_from(order + 'I', stream, 4)
    (entries,) = struct.unpack_from(order + 'H', stream, at)
    tags: dict[int, int] = {}
    for entry in range(entries):
        tag, kind, _ = struct.unpack_from(order + 'HHI', stream, at + 2 + 12 * entry)
        short = {1: 'B', 3: 'H'}.get(kind, 'I')
        (tags[tag],) = struct.unpack_from(order + short, stream, at + 10 + 12 * entry)
    width, height = tags.get(256, 0), tags.get(257, 0)
    tile_width, tile_height = tags.get(322, 0), tags.get(323, 0)
    samples = tags.get(277, 1)
    if samples > 64:
        raise MalformedImageError(f'TIFF declares {samples} samples a pixel')
    # Fax codes (compression 2 to 4) may say a whole page in few bytes.
    if tags.get(259, 1) not in (2, 3, 4) and width * height * samples // 8 > len(stream) * _MOST_UNPACKED:
        raise MalformedImageError(f'TIFF declares {width}x{height} pixels, which its {len(stream)} bytes cannot hold')
    if tile_width * tile_height > width * height:
        # Tiles of a small picture are padded, to a few hundred pixels.
        return max(width, tile_width), max(height, tile_height), 1
    return width, height, 1


def _webp(stream: bytes) -> tuple[int, int, int]:
    """The canvas, or the picture where there is no canvas; an animation's frames are counted."""
    width = height = frames = 0
    for count, (kind, at, length) in enumerate(_riff_chunks(stream)):
        if count >= MAX_WEBP_CHUNKS:
            raise ImageTooLargeError(f'WebP has more than {MAX_WEBP_CHUNKS} chunks')
        if at + length > len(stream):
            raise MalformedImageError(
                f'WebP of {len(stream)} bytes is truncated or damaged: its chunk at byte {at - 8} states {length} bytes'
            )
        if kind == b'ANMF':
            frames += 1
        elif kind in _WEBP_SIZES:
            found = _WEBP_SIZES[kind](stream, at)
            width, height = max(width, found[0]), max(height, found[1])
    return width, height, max(frames, 1)


def _riff_chunks(stream: bytes) -> Iterator[tuple[bytes, int, int]]:
    at = 12
    while at + 8 <= len(stream):
        kind, length = struct.unpack_from('<4sI', stream, at)
        yield kind, at + 8, length
        at += 8 + length + length % 2


def _canvas(stream: bytes, at: int) -> tuple[int, int]:
    struct.unpack_from('<10x', stream, at)
    return (
        1 + int.from_bytes(stream[at + 4 : at + 7], 'little'),
        1 + int.from_bytes(stream[at + 7 : at + 10], 'little'),
    )


def _lossy(stream: bytes, at: int) -> tuple[int, int]:
    width, height = struct.unpack_from('<HH', stream, at + 6)
    return width & 0x3FFF, height & 0x3FFF


def _lossless(stream: bytes, at: int) -> tuple[int, int]:
    (packed,) = struct.unpack_from('<I', stream, at + 1)
    return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)


_WEBP_SIZES: dict[bytes, Callable[[bytes, int], tuple[int, int]]] = {
    b'VP8X': _canvas,
    b'VP8 ': _lossy,
    b'VP8L': _lossless,
}
_FORMATS: tuple[tuple[bytes, str, Callable[[bytes], tuple[int, int, int]]], ...] = (
    (b'BM', 'BMP', _bmp),
    (b'II*\0', 'TIFF', _tiff),
    (b'MM\0*', 'TIFF', _tiff),
    (b'RIFF', 'WebP', _webp),
)
