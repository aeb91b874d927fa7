"""How this process keeps memory that it has freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
LARGEST_KEPT = 32 * 2**20
"""Bytes of the largest block that is kept; glibc allows no more. A 4K bgr8 image has 25 MB."""
MOST_KEPT = 4 * LARGEST_KEPT


def keep_freed_blocks() -> bool:
    """Keep images' memory for the next image, instead of giving it back to the system and asking for it anew.

    The system hands memory out page by page as it is touched, and clears each: for three copies of an image this takes
    longer than the copying. Returns False where the C library is not glibc; then nothing changes.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(_TRIM_THRESHOLD, MOST_KEPT))
    return False
