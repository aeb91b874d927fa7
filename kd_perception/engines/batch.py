"""The check that every engine makes of the batch that it is handed."""

from __future__ import annotations

import numpy as np

from kd_perception.core.engine import Array
from kd_perception.core.errors import EngineError


def check_batch(batch: Array, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    """Refuse an array that the network would misread.

    Raises:
        EngineError: another shape or dtype, or not contiguous.
    """
    if batch.shape != shape or batch.dtype != dtype or not batch.flags.c_contiguous:
        raise EngineError(
            f'the network takes a contiguous {dtype} array of shape {shape}, not {batch.dtype} {batch.shape}'
        )


def one_line(error: Exception) -> str:
    """A library's message, which may run over many lines, as one of bounded length."""
    return ' '.join(str(error).split())[:500]
