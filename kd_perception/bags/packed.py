"""What is packed in a bag, unpacked within limits: whole files, chunks, single messages."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from lz4.frame import LZ4FrameDecompressor

from kd_perception.errors import BagError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_UNPACKED_BYTES = 512 << 20
"""Largest message or chunk that is unpacked; an 8K color image has a fifth of it."""

MAX_RATIO = 200
"""A packed file may become so many times larger; recordings of cameras reach 20."""

_ALWAYS_ALLOWED = 256 << 20
_SPARE_BYTES = 256 << 20
_STEP = 4 << 20
_ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'  # a CDR message begins with a zero byte


def unpack_file(packed: Path, plain: Path) -> None:
    """Unpack a .zstd file beside the system's other temporary files.

    Raises:
        BagError: it becomes much larger than recordings do, or the disk would be full; what was unpacked remains, for the
            caller's temporary folder to take away.
        OSError, zstd.ZstdError, EOFError: it cannot be read.
    """
    limit = max(_ALWAYS_ALLOWED, MAX_RATIO * packed.stat().st_size)
    written = 0
    with zstd.open(packed, 'rb') as source, plain.open('wb') as target:
        while block := source.read(_STEP):
            written += len(block)
            cure = f'if it is sound, unpack it first: zstd -d {packed.name}'
            if written > limit:
                raise BagError(
                    f'{packed}: {packed.stat().st_size} bytes unpack to more than {limit}, as no recording does; {cure}'
                )
            if shutil.disk_usage(plain.parent).free < _SPARE_BYTES:
                raise BagError(f'{packed}: {plain.parent} has no space to unpack it; set TMPDIR to a larger disk')
            target.write(block)


def unpack_chunk(packed: bytes, compression: str, size: int) -> bytes:
    """Unpack an mcap chunk.

    Args:
        packed: its records as they lie in the file.
        compression: empty, `lz4` or `zstd`.
        size: how long it says that it is unpacked.

    Raises:
        ValueError: too large, of another size, or of an unknown compression.
    """
    if size > MAX_UNPACKED_BYTES:
        raise ValueError(f'a chunk of {len(packed)} bytes states {size} unpacked; the limit is {MAX_UNPACKED_BYTES}')
    if compression == '':
        plain = packed
    elif compression == 'zstd':
        plain = zstd.ZstdDecompressor().decompress(packed, max_length=size + 1)
    elif compression == 'lz4':
        plain = LZ4FrameDecompressor().decompress(packed, max_length=size + 1)
    else:
        raise ValueError(f'a chunk is packed by {compression[:40]!r}; only lz4 and zstd are read')
    if len(plain) != size:
        raise ValueError(f'a chunk of {len(packed)} bytes states {size} unpacked, but is of another size')
    return plain


def unpack_message(raw: bytes | memoryview) -> memoryview:
    """The message without its own compression (`compression_mode: message`); others stay what they are.

    Raises:
        BagError: too large, or broken off.
        zstd.ZstdError: damaged.
    """
    if bytes(raw[:4]) != _ZSTD_MAGIC:
        return memoryview(raw)
    unpacker = zstd.ZstdDecompressor()
    plain = unpacker.decompress(raw, max_length=MAX_UNPACKED_BYTES + 1)
    if len(plain) > MAX_UNPACKED_BYTES:
        raise BagError(f'a message of {len(raw)} bytes unpacks to more than {MAX_UNPACKED_BYTES}')
    if not unpacker.eof or unpacker.unused_data:
        raise BagError(f'a message of {len(raw)} bytes is packed, and damaged')
    return memoryview(plain)
