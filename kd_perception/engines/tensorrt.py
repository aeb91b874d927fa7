"""TensorRT: engines built on the robot from the bundle's ONNX file, and kept; see docs/engines.md for what was run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from kd_perception.bundles.bundle import Artifact, Bundle
from kd_perception.bundles.onnx_edit import with_cast_weights
from kd_perception.bundles.onnx_graph import Graph, check_input, read_graph
from kd_perception.bundles.onnx_integrity import read_network
from kd_perception.detection.engine import Array, EngineInfo
from kd_perception.engines import tensorrt_versions as versions
from kd_perception.engines.batch import check_batch, engine_error
from kd_perception.engines.cache import cached
from kd_perception.engines.cuda_memory import CudaDevice, load_runtime
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import EngineError

_RECIPE = '1'
"""Changes when engines are built otherwise than before."""
_WORKSPACE_BYTES = 2 << 30
_DTYPES: Mapping[str, type[np.generic]] = {
    'FLOAT': np.float32,
    'HALF': np.float16,
    'INT8': np.int8,
    'INT32': np.int32,
    'INT64': np.int64,
    'UINT8': np.uint8,
    'BOOL': np.bool_,
}


class TensorRtEngine:
    """One engine with its buffers on the device. Not thread-safe: one frame at a time."""

    def __init__(self, engine: Any, device: CudaDevice, bundle: Bundle, info: EngineInfo, inputs: list[str]) -> None:
        self.info = info
        self._device: CudaDevice | None = device
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineError(
                'TensorRT gives no execution context: the GPU is out of memory; stop other programs that use it'
            )
        self._shape = bundle.input.shape
        self._dtype = np.dtype(bundle.input.dtype)
        (name,) = inputs
        self._context.set_input_shape(name, self._shape)
        self._input = device.allocate(int(np.prod(self._shape)) * self._dtype.itemsize)
        self._context.set_tensor_address(name, self._input)
        self._outputs: dict[str, Array] = {}
        self._addresses: dict[str, int] = {}
        for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
            if name not in inputs:
                buffer = np.empty(tuple(self._context.get_tensor_shape(name)), _dtype(engine.get_tensor_dtype(name)))
                self._outputs[name] = buffer
                self._addresses[name] = device.allocate(max(buffer.nbytes, 1))
                self._context.set_tensor_address(name, self._addresses[name])

    def infer(self, batch: Array) -> dict[str, Array]:
        """See `kd_perception.detection.engine.Engine.infer`."""
        device = self._device
        if device is None:
            raise EngineError('the engine was closed')
        check_batch(batch, self._shape, self._dtype)
        device.upload(batch, self._input)
        if not self._context.execute_async_v3(device.stream):
            raise EngineError('TensorRT failed during inference; its messages above say why')
        for name, buffer in self._outputs.items():
            device.download(self._addresses[name], buffer)
        device.wait()
        return self._outputs

    def close(self) -> None:
        """Free the context, the engine and the buffers, in this order."""
        if self._device is not None:
            self._context = self._engine = None
            self._device.close()
            self._device = None


def load(bundle: Bundle, artifact: Artifact, options: EngineOptions, runtime: Any = None) -> TensorRtEngine:
    """Load an engine for an ONNX artifact, building it first where none is kept for this model, TensorRT, GPU and precision.

    Args:
        bundle: where the artifact is from.
        artifact: an ONNX file; INT8 must be symmetric QDQ.
        options: `precision` fp16 builds a half precision engine from an FP32 file; `device_id` chooses the GPU.
        runtime: the CUDA runtime library; None loads the system's.

    Raises:
        BundleError: the file is missing or altered.
        EngineError: TensorRT or CUDA is missing, or TensorRT refuses the network.
        DeviceMemoryError: the GPU has no memory for it.
    """
    import tensorrt as trt

    content = with_cast_weights(read_network(bundle, artifact), artifact.file)
    graph = read_graph(content, artifact.file)
    check_input(graph, bundle)
    precision = options.precision or artifact.precision
    plan = versions.plan(trt.__version__, artifact.precision, precision)
    if precision == 'int8':
        _check_symmetric(graph, artifact.file)
    device = CudaDevice(load_runtime() if runtime is None else runtime, options.device_id)
    try:
        log = _log(trt)
        serialized = cached(
            _made_of(trt, artifact, bundle, precision, plan, device),
            lambda: _build(trt, log, content, bundle, plan, device, options, f'{artifact.file} {precision}'),
            options.report,
        )
        trt_engine = trt.Runtime(log).deserialize_cuda_engine(serialized)
        if trt_engine is None:
            raise engine_error('TensorRT cannot load the engine', RuntimeError(log.last()))
        info = _info(trt, precision, device)
        return TensorRtEngine(trt_engine, device, bundle, info, [value.name for value in graph.inputs])
    except BaseException:
        device.close()
        raise


def _made_of(
    trt: Any, artifact: Artifact, bundle: Bundle, precision: str, plan: versions.Plan, device: CudaDevice
) -> dict[str, str]:
    """All that a built engine depends on."""
    return {
        'engine': 'tensorrt',
        'model': artifact.sha256,
        'precision': precision,
        'strongly_typed': str(plan.strongly_typed),
        'tensorrt': trt.__version__,
        'gpu': device.name,
        'capability': device.capability,
        'input': 'x'.join(map(str, bundle.input.shape)),
        'recipe': _RECIPE,
    }


def _info(trt: Any, precision: str, device: CudaDevice) -> EngineInfo:
    return EngineInfo(
        engine='tensorrt',
        precision=precision,
        device='cuda',
        provider=f'TensorRT on {device.name} ({device.capability})',
        threads=0,
        versions={'tensorrt': trt.__version__, 'numpy': np.__version__},
    )


def _build(
    trt: Any,
    log: Any,
    content: bytes,
    bundle: Bundle,
    plan: versions.Plan,
    device: CudaDevice,
    options: EngineOptions,
    name: str,
) -> bytes:
    """Parse and build; minutes on a small Jetson."""
    options.report(f'TensorRT {trt.__version__} builds {name} for {device.name}; this takes minutes, once')
    started = time.monotonic()
    builder = trt.Builder(log)
    network = builder.create_network(versions.creation_mask(trt, plan.creation_flags))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(content):
        faults = '; '.join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise EngineError(f'TensorRT cannot read {name}: {" ".join(faults.split())[:500]}')
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, min(_WORKSPACE_BYTES, device.free_bytes() // 2))
    versions.keep_float32(trt, config)
    for flag in plan.builder_flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    _fix_shape(builder, config, network, bundle)
    progress = versions.follow_progress(trt, config, options.report)
    serialized = builder.build_serialized_network(network, config)
    del progress
    if serialized is None:
        raise engine_error(f'TensorRT cannot build {name}', RuntimeError(log.last()))
    options.report(f'TensorRT built {name} in {time.monotonic() - started:.0f} s')
    return bytes(serialized)


def _fix_shape(builder: Any, config: Any, network: Any, bundle: Bundle) -> None:
    """Sizes that the file leaves open become the bundle's."""
    entry = network.get_input(0)
    if -1 in tuple(entry.shape):
        profile = builder.create_optimization_profile()
        profile.set_shape(entry.name, bundle.input.shape, bundle.input.shape, bundle.input.shape)
        config.add_optimization_profile(profile)


def _check_symmetric(graph: Graph, file: str) -> None:
    """TensorRT takes zero points of 0 only; ONNX Runtime's fastest form on x86 (uint8 activations) has others."""
    for node in graph.nodes:
        if node.op == 'QuantizeLinear':
            zero = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
            if zero is None or zero.dtype != np.int8 or zero.any():
                raise EngineError(
                    f'{file} is quantized with zero points, as ONNX Runtime on x86 wants it, and TensorRT takes symmetric int8 '
                    'only: export an artifact for tensorrt, or choose precision fp16'
                )


def _log(trt: Any) -> Any:
    """A logger that prints nothing and keeps the errors, for the exception that we raise."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self._errors = [*self._errors[-4:], msg]

        def last(self) -> str:
            return '; '.join(self._errors) or 'it gives no reason'

    return Log()


def _dtype(kind: Any) -> type[np.generic]:
    # tensorrt.nptype asks for numpy names that numpy 1.24 removed, in the versions up to 8.5.
    name = str(kind).rpartition('.')[2]
    if name not in _DTYPES:
        raise EngineError(f'TensorRT gives an output of {name}, which is not decoded')
    return _DTYPES[name]
