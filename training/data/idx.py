"""IDX files, the form in which MNIST and its relatives come: arrays of bytes behind a short head, packed by gzip."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kd_perception.regular_file import read_regular, shown
from training.errors import DataError

MAX_PACKED = 64 << 20
"""The largest packed file that is read; Fashion-MNIST's has 25 MiB."""
MAX_UNPACKED = 256 << 20
"""The most bytes that a file may unpack to; Fashion-MNIST's pictures have 45 MiB."""
_BYTES = 0x08  # the head's code for unsigned bytes, the only kind that is read


def read_idx(file: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array of a gzipped IDX file of unsigned bytes.

    Args:
        file: `*-idx3-ubyte.gz` (N, H, W) or `*-idx1-ubyte.gz` (N).
        dimensions: number of dimensions that the array must have.

    Raises:
        DataError: no such file, one that is too large, or one whose head and length do not agree.
    """
    content = _unpacked(file)
    head = 4 + 4 * dimensions
    if len(content) < head or content[:4] != bytes([0, 0, _BYTES, dimensions]):
        raise DataError(f'{shown(file)} is no IDX file of bytes in {dimensions} dimensions')
    shape = tuple(int(length) for length in np.frombuffer(content, '>u4', dimensions, offset=4))
    count = 1
    for length in shape:
        count *= length
    if count != len(content) - head:
        raise DataError(
            f'{shown(file)} says {" × ".join(map(str, shape))} bytes and holds {len(content) - head}; fetch it anew'
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _unpacked(file: Path) -> bytes:
    packed = read_regular(file, MAX_PACKED, DataError)
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)  # gzip's own head and checksum
    try:
        content = unpacker.decompress(packed, MAX_UNPACKED)
    except zlib.error as error:
        raise DataError(f'{shown(file)} is no gzip file, or is damaged; fetch it anew') from error
    if unpacker.unconsumed_tail:
        raise DataError(f'{shown(file)} unpacks to more than {MAX_UNPACKED} bytes')
    if not unpacker.eof:
        raise DataError(f'{shown(file)} ends too early; fetch it anew')
    return content
