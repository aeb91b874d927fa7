"""A stand-in for TensorRT with the documented Python interface of one version, and for the CUDA runtime, both on the CPU.

It holds what that version documents and no more: what a version lacks raises AttributeError, as there. Networks really run, in
ONNX Runtime, from and to the addresses that were set. It proves the calls that we make, not TensorRT's numbers.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime

MAGIC = b'ftrt'


class CudaRuntime:
    """The few functions of libcudart, with host memory for the device's. Counts what is not given back."""

    def __init__(self, name: str = 'Orin', capability: tuple[int, int] = (8, 7), memory: int = 1 << 30) -> None:
        self.name, self.capability, self.free = name, capability, memory
        self.buffers: dict[int, tuple[Any, int]] = {}
        self.streams = 0
        self.cudaGetErrorString = ErrorString()

    def cudaSetDevice(self, device: Any) -> int:  # noqa: N802
        return 0 if device.value == 0 else 101

    def cudaGetDeviceProperties(self, properties: Any, device: Any) -> int:  # noqa: N802
        properties.value = self.name.encode()
        return 0

    def cudaDeviceGetAttribute(self, value: Any, which: Any, device: Any) -> int:  # noqa: N802
        value._obj.value = self.capability[which.value - 75]
        return 0

    def cudaStreamCreate(self, stream: Any) -> int:  # noqa: N802
        stream._obj.value = 7
        self.streams += 1
        return 0

    def cudaStreamDestroy(self, stream: Any) -> int:  # noqa: N802
        self.streams -= 1
        return 0

    def cudaStreamSynchronize(self, stream: Any) -> int:  # noqa: N802
        return 0

    def cudaMemGetInfo(self, free: Any, total: Any) -> int:  # noqa: N802
        free._obj.value, total._obj.value = self.free, self.free
        return 0

    def cudaMalloc(self, address: Any, size: Any) -> int:  # noqa: N802
        if size.value > self.free:
            return 2
        buffer = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(buffer)
        self.buffers[address._obj.value] = (buffer, size.value)
        self.free -= size.value
        return 0

    def cudaFree(self, address: Any) -> int:  # noqa: N802
        self.free += self.buffers.pop(address.value)[1]
        return 0

    def cudaMemcpyAsync(self, target: Any, source: Any, size: Any, kind: Any, stream: Any) -> int:  # noqa: N802
        device = target.value if kind.value == 1 else source.value
        assert size.value <= self.buffers[device][1], 'a copy over the end of a device buffer'
        ctypes.memmove(target, source, size.value)
        return 0


class ErrorString:
    """cudaGetErrorString: a function with a result type."""

    restype: Any = None

    def __call__(self, status: Any) -> bytes:
        return {2: b'out of memory', 101: b'invalid device ordinal'}[status.value]


def tensorrt(version: str, refuses: Iterable[str] = ()) -> Any:
    """The module `tensorrt` in a version.

    Args:
        version: such as `8.6.2`, `10.3.0` or `11.0.0`.
        refuses: `parse`, `build` or `deserialize`, to fail there as TensorRT does: by a falsy result and the log.
    """
    major = int(version.split('.')[0])
    trt: Any = ModuleType('tensorrt')
    trt.__version__ = version
    trt.builds = []
    refuses = set(refuses)

    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        def __init__(self) -> None:
            self.ready = True

        def log(self, severity: Severity, msg: str) -> None:
            raise NotImplementedError

    ILogger.Severity = Severity  # type: ignore[attr-defined]

    flags = ['TF32'] + ([] if major >= 11 else ['FP16', 'INT8'])
    creation = ['EXPLICIT_BATCH'] if major < 10 else ['EXPLICIT_BATCH', 'STRONGLY_TYPED'] if major == 10 else []
    trt.ILogger = ILogger
    trt.BuilderFlag = enum.Enum('BuilderFlag', flags)
    trt.NetworkDefinitionCreationFlag = enum.IntEnum('NetworkDefinitionCreationFlag', creation, start=0)
    trt.MemoryPoolType = enum.Enum('MemoryPoolType', ['WORKSPACE'])
    trt.TensorIOMode = enum.Enum('TensorIOMode', ['NONE', 'INPUT', 'OUTPUT'])
    trt.DataType = enum.Enum('DataType', ['FLOAT', 'HALF', 'INT8', 'INT32', 'BOOL', 'UINT8'])
    kinds = {'tensor(float)': 'FLOAT', 'tensor(uint8)': 'UINT8', 'tensor(float16)': 'HALF', 'tensor(int64)': 'INT64'}

    if version >= '8.6' or major >= 10:

        class IProgressMonitor:
            def __init__(self) -> None:
                self.ready = True

        trt.IProgressMonitor = IProgressMonitor

    class BuilderConfig:
        def __init__(self) -> None:
            self.flags = {trt.BuilderFlag.TF32}
            self.pools: dict[Any, int] = {}
            self.profiles: list[Any] = []
            self.progress_monitor: Any = None

        def set_flag(self, flag: Any) -> None:
            self.flags.add(flag)

        def clear_flag(self, flag: Any) -> None:
            self.flags.discard(flag)

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            self.pools[pool] = size

        def add_optimization_profile(self, profile: Any) -> int:
            self.profiles.append(profile)
            return 0

    class Profile:
        def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
            self.shapes = {name: (low, best, high)}

    class Network:
        def __init__(self, mask: int) -> None:
            self.mask, self.content = mask, b''

        def get_input(self, index: int) -> Any:
            found = onnxruntime.InferenceSession(self.content, providers=['CPUExecutionProvider']).get_inputs()[index]
            shape = tuple(size if isinstance(size, int) else -1 for size in found.shape)
            return type('Tensor', (), {'name': found.name, 'shape': shape})()

    class OnnxParser:
        num_errors = 1

        def __init__(self, network: Network, logger: ILogger) -> None:
            assert logger.ready
            self.network = network

        def parse(self, content: bytes) -> bool:
            self.network.content = content
            return 'parse' not in refuses

        def get_error(self, index: int) -> str:
            return 'In node 0: Unsupported operator Warp'

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def create_network(self, flags: int = 0) -> Network:
            if major < 10 and flags != 1:
                raise AssertionError('ONNX needs an explicit batch')
            return Network(flags)

        def create_builder_config(self) -> BuilderConfig:
            return BuilderConfig()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: BuilderConfig) -> memoryview | None:
            typed = (
                'STRONGLY_TYPED' in creation and network.mask >> trt.NetworkDefinitionCreationFlag['STRONGLY_TYPED'] & 1
            )
            names = {flag.name for flag in config.flags} - {'TF32'}
            assert not (typed and names), 'precision flags on a strongly typed network are refused'
            if 'build' in refuses:
                self.logger.log(Severity.ERROR, '[defaultAllocator.cpp] Cuda Runtime (out of memory)')
                return None
            monitor = config.progress_monitor
            if monitor is not None:
                assert monitor.ready, 'the base class was not initialised'
                monitor.phase_start('Building Engine', None, 20)
                for step in range(20):
                    assert monitor.step_complete('Building Engine', step)
                monitor.phase_finish('Building Engine')
            trt.builds.append(
                {'flags': names, 'tf32': trt.BuilderFlag.TF32 in config.flags, 'typed': bool(typed), 'config': config}
            )
            return memoryview(MAGIC + network.content)

    class Context:
        def __init__(self, engine: Engine) -> None:
            self.engine, self.addresses = engine, {}
            self.shapes: dict[str, tuple[int, ...]] = {}

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            self.shapes[name] = tuple(shape)
            return True

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self.engine.get_tensor_shape(name)

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream: int) -> bool:
            assert stream == 7
            feed = {}
            for value in self.engine.session.get_inputs():
                feed[value.name] = _view(self.addresses[value.name], self.shapes[value.name], value.type).copy()
            values = self.engine.session.run(None, feed)
            for value, result in zip(self.engine.session.get_outputs(), values, strict=True):
                _view(self.addresses[value.name], result.shape, value.type)[...] = result
            return True

    class Engine:
        def __init__(self, content: bytes) -> None:
            self.session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
            self.values = {v.name: v for v in (*self.session.get_inputs(), *self.session.get_outputs())}
            self.num_io_tensors = len(self.values)

        def get_tensor_name(self, index: int) -> str:
            return list(self.values)[index]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(self.values[name].shape)

        def get_tensor_dtype(self, name: str) -> Any:
            return trt.DataType[kinds[self.values[name].type]]

        def get_tensor_mode(self, name: str) -> Any:
            inputs = [v.name for v in self.session.get_inputs()]
            return trt.TensorIOMode.INPUT if name in inputs else trt.TensorIOMode.OUTPUT

        def create_execution_context(self) -> Context:
            return Context(self)

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, serialized: bytes) -> Engine | None:
            if 'deserialize' in refuses or not serialized.startswith(MAGIC):
                self.logger.log(Severity.ERROR, 'Serialization assertion failed: version mismatch')
                return None
            return Engine(serialized[len(MAGIC) :])

    trt.Builder, trt.OnnxParser, trt.Runtime = Builder, OnnxParser, Runtime
    return trt


def _view(address: int, shape: tuple[int, ...], kind: str) -> np.ndarray:
    dtype = {'tensor(float)': np.float32, 'tensor(uint8)': np.uint8, 'tensor(float16)': np.float16}[kind]
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)
