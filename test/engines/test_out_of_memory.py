"""Want of memory is recognized in the words of every library."""

from __future__ import annotations

import pytest

from kd_perception.engines.out_of_memory import ran_out_of_memory
from kd_perception.errors import EngineError


@pytest.mark.parametrize(
    ('words', 'is_memory'),
    [
        ('Failed to allocate memory for requested buffer of size 1327104', True),
        ('CUDA failure 2: out of memory ; GPU=0', True),
        ('cudaErrorMemoryAllocation', True),
        ('CUDA out of memory. Tried to allocate 2.00 GiB', True),
        ('std::bad_alloc', True),
        ('VK_ERROR_OUT_OF_DEVICE_MEMORY', True),
        ('CUBLAS_STATUS_ALLOC_FAILED', True),
        ('indices element out of data bounds, idx=1 must be within the inclusive range [-1,0]', False),
        ('', False),
    ],
)
def test_words(words, is_memory):
    error = EngineError('inference failed')
    error.__cause__ = RuntimeError(words)
    assert ran_out_of_memory(error) == is_memory


def test_pythons_own():
    assert ran_out_of_memory(MemoryError())
