"""Device buffers and a stream through the CUDA runtime library itself: a robot has neither torch nor cuda-python."""

from __future__ import annotations

import ctypes
from typing import Any

from kd_perception.detection.engine import Array
from kd_perception.errors import DeviceMemoryError, EngineError

_LIBRARIES = ('libcudart.so', 'libcudart.so.13', 'libcudart.so.12', 'libcudart.so.11.0')
_OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation."""
_NO_GPU = {35: 'the driver is older than the CUDA runtime, or missing', 100: 'there is no GPU'}
"""cudaErrorInsufficientDriver, cudaErrorNoDevice."""
_TO_DEVICE, _TO_HOST = 1, 2
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""cudaDevAttrComputeCapabilityMajor and Minor."""
_PROPERTIES_BYTES = 8192
"""More than any version's cudaDeviceProp; its first 256 bytes are the device's name in all of them."""


def load_runtime() -> Any:
    """The CUDA runtime library.

    Raises:
        EngineError: it is not installed.
    """
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise EngineError(
        f'there is no CUDA runtime library ({_LIBRARIES[0]}): on a Jetson it comes with JetPack (apt install nvidia-jetpack), '
        'elsewhere with the CUDA toolkit; its folder must be in LD_LIBRARY_PATH'
    )


class CudaDevice:
    """One GPU: its name, its memory, and one stream on which everything runs in order."""

    def __init__(self, runtime: Any, device_id: int = 0) -> None:
        self._runtime = runtime
        self._buffers: list[ctypes.c_void_p] = []
        self._call('cudaSetDevice', ctypes.c_int(device_id))
        self.name = self._name(device_id)
        major, minor = (self._attribute(which, device_id) for which in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
        self.capability = f'{major}.{minor}'
        stream = ctypes.c_void_p()
        self._call('cudaStreamCreate', ctypes.byref(stream))
        self._stream: ctypes.c_void_p | None = stream

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return 0 if self._stream is None else (self._stream.value or 0)

    def allocate(self, size: int) -> int:
        """Address of `size` new bytes, freed by `close`.

        Raises:
            DeviceMemoryError: the device has no room for them.
        """
        address = ctypes.c_void_p()
        self._call('cudaMalloc', ctypes.byref(address), ctypes.c_size_t(size))
        self._buffers.append(address)
        return address.value or 0

    def free_bytes(self) -> int:
        """Memory that the device has left."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call('cudaMemGetInfo', ctypes.byref(free), ctypes.byref(total))
        return free.value

    def upload(self, source: Array, address: int) -> None:
        """Copy an array to the device, in the stream's order."""
        self._copy(address, source.ctypes.data, source.nbytes, _TO_DEVICE)

    def download(self, address: int, target: Array) -> None:
        """Copy from the device into an array; complete after `wait`."""
        self._copy(target.ctypes.data, address, target.nbytes, _TO_HOST)

    def wait(self) -> None:
        """Until everything in the stream is done."""
        self._call('cudaStreamSynchronize', self._stream)

    def close(self) -> None:
        """Give back buffers and stream. Calling it twice does nothing."""
        if self._stream is None:
            return
        for buffer in self._buffers:
            self._runtime.cudaFree(buffer)
        self._runtime.cudaStreamDestroy(self._stream)
        self._buffers, self._stream = [], None

    def _copy(self, target: int, source: int, size: int, kind: int) -> None:
        addresses = ctypes.c_void_p(target), ctypes.c_void_p(source)
        self._call('cudaMemcpyAsync', *addresses, ctypes.c_size_t(size), ctypes.c_int(kind), self._stream)

    def _attribute(self, which: int, device_id: int) -> int:
        value = ctypes.c_int()
        self._call('cudaDeviceGetAttribute', ctypes.byref(value), ctypes.c_int(which), ctypes.c_int(device_id))
        return value.value

    def _name(self, device_id: int) -> str:
        # CUDA 12 exports the structure that it documents under another name.
        function = 'cudaGetDeviceProperties_v2'
        if not hasattr(self._runtime, function):
            function = 'cudaGetDeviceProperties'
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._call(function, properties, ctypes.c_int(device_id))
        return properties.value.decode(errors='replace')

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._runtime, function)(*arguments)
        if status == 0:
            return
        describe = self._runtime.cudaGetErrorString
        describe.restype = ctypes.c_char_p
        text = (describe(ctypes.c_int(status)) or b'').decode(errors='replace')
        if status == _OUT_OF_MEMORY:
            raise DeviceMemoryError(
                f'the GPU is out of memory ({function}): stop other programs that use it, choose a lower precision, or a bundle '
                'with a smaller input'
            )
        if status in _NO_GPU:
            raise EngineError(
                f'no GPU can be used ({_NO_GPU[status]}): install the NVIDIA driver, or choose engine onnxruntime'
            )
        raise EngineError(f'CUDA: {function} failed with {status}: {text}')
