"""Whether an engine failed for want of memory, which every library says in words of its own."""

from __future__ import annotations

from kd_perception.errors import DeviceMemoryError

_WORDS = (
    'out of memory',  # CUDA, TensorRT, OpenVINO
    'failed to allocate memory',  # ONNX Runtime's arena
    'bad_alloc',  # C++
    'memoryallocation',  # cudaErrorMemoryAllocation
    'outofmemory',  # cuDNN, Vulkan: VK_ERROR_OUT_OF_DEVICE_MEMORY is written with underscores
    'out_of_memory',
    'out_of_device_memory',
    'out_of_host_memory',
    'alloc_failed',  # CUBLAS_STATUS_ALLOC_FAILED
)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or one that caused it, speaks of memory that could not be had."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (MemoryError, DeviceMemoryError)) or any(words in str(seen).lower() for words in _WORDS):
            return True
        seen = seen.__cause__
    return False
