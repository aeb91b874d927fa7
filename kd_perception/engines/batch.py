"""What all engines share: the check of the batch that they are handed, and how a library's failure becomes an error of ours."""

from __future__ import annotations

import numpy as np

from kd_perception.detection.engine import Array
from kd_perception.engines.out_of_memory import ran_out_of_memory
from kd_perception.errors import DeviceMemoryError, EngineError


def check_batch(batch: Array, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    """Refuse an array that the network would misread.

    Raises:
        EngineError: another shape or dtype, or not contiguous.
    """
    if batch.shape != shape or batch.dtype != dtype or not batch.flags.c_contiguous:
        raise EngineError(
            f'the network takes a contiguous {dtype} array of shape {shape}, not {batch.dtype} {batch.shape}'
        )


def engine_error(what: str, error: Exception) -> EngineError:
    """The error to raise for a library's exception: typed where the device has no memory left, which asks for another cure."""
    if ran_out_of_memory(error):
        return DeviceMemoryError(
            f'{what}: out of memory. Stop other programs that use the device, choose a lower precision, a bundle with a smaller '
            f'input, or engine onnxruntime on the CPU ({one_line(error)})'
        )
    return EngineError(f'{what}: {one_line(error)}')


def one_line(error: Exception) -> str:
    """A library's message, which may run over many lines, as one of bounded length."""
    return ' '.join(str(error).split())[:500]
