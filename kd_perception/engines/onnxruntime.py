"""ONNX Runtime: one-frame batches through I/O binding, so that neither input nor output is copied on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from kd_perception.bundles.bundle import Artifact, Bundle
from kd_perception.bundles.onnx_integrity import read_network
from kd_perception.detection.engine import Array, EngineInfo
from kd_perception.engines.batch import check_batch, engine_error
from kd_perception.engines.cache import usable_folder
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import EngineError
from kd_perception.machine.cores import physical_cores

_DTYPES = {
    'tensor(uint8)': np.uint8,
    'tensor(float)': np.float32,
    'tensor(float16)': np.float16,
    'tensor(int32)': np.int32,
    'tensor(int64)': np.int64,
}
_CPU = 'CPUExecutionProvider'
_REMEDIES = {
    'CUDAExecutionProvider': (
        'It needs onnxruntime-gpu with the CUDA and cuDNN that it was built for (pip install onnxruntime-gpu; on a Jetson the '
        'wheel that NVIDIA builds for its JetPack) and an NVIDIA driver'
    ),
    'TensorrtExecutionProvider': (
        'It needs onnxruntime-gpu (pip install onnxruntime-gpu; on a Jetson the wheel that NVIDIA builds for its JetPack) and '
        'the TensorRT that it was built for; engine tensorrt needs TensorRT alone'
    ),
}
"""Provider → what it needs."""
_DEVICES = {'CPUExecutionProvider': 'cpu', 'CUDAExecutionProvider': 'cuda', 'TensorrtExecutionProvider': 'cuda'}


class OnnxRuntimeEngine:
    """One ONNX network in one session. Not thread-safe: one frame at a time."""

    def __init__(self, session: Any, shape: tuple[int, ...], dtype: str, info: EngineInfo) -> None:
        self.info = info
        self._session = session
        self._binding = session.io_binding()
        self._input = session.get_inputs()[0].name
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._bound: Array | None = None
        self._symbolic = not all(_is_static(output) for output in session.get_outputs())
        self._outputs = {output.name: self._bind_output(output) for output in session.get_outputs()}

    def _bind_output(self, output: Any) -> Array:
        """Bind a buffer of ours; where any size is symbolic, the session allocates at every call instead."""
        if self._symbolic:
            self._binding.bind_output(output.name, 'cpu')
            return np.empty(0)
        buffer = np.empty(output.shape, _DTYPES[output.type])
        self._binding.bind_output(output.name, 'cpu', 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)
        return buffer

    def infer(self, batch: Array) -> dict[str, Array]:
        """See `kd_perception.detection.engine.Engine.infer`."""
        if self._session is None:
            raise EngineError('the engine was closed')
        try:
            if batch is not self._bound:
                self._bind_input(batch)
            self._session.run_with_iobinding(self._binding)
            if self._symbolic:
                values = zip(self._outputs, self._binding.get_outputs(), strict=True)
                return {name: value.numpy() for name, value in values}
            return self._outputs
        except EngineError:
            raise
        except Exception as error:  # the library's exceptions have no common base of their own
            raise engine_error('ONNX Runtime failed during inference', error) from error

    def _bind_input(self, batch: Array) -> None:
        check_batch(batch, self._shape, self._dtype)
        self._binding.bind_input(self._input, 'cpu', 0, batch.dtype.type, batch.shape, batch.ctypes.data)
        self._bound = batch

    def close(self) -> None:
        """Free the session."""
        self._session = self._binding = self._bound = None


def load(bundle: Bundle, artifact: Artifact, options: EngineOptions) -> OnnxRuntimeEngine:
    """Load an ONNX artifact.

    The network is handed over as the bytes that were hashed and looked at: they refer to no other file.

    Raises:
        BundleError: the file is missing or altered.
        EngineError: onnxruntime is not installed, or refuses the network or the providers.
    """
    content = read_network(bundle, artifact)
    import onnxruntime

    threads = options.threads or physical_cores()
    usable = _providers(onnxruntime.get_available_providers(), options.providers)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # every error also comes as an exception
    # Idle threads that spin take the core from the camera's and the executor's threads.
    settings.add_session_config_entry('session.intra_op.allow_spinning', '0')
    settings.add_session_config_entry('session.record_ep_graph_assignment_info', '1')
    providers = [(name, _provider_options(name, artifact, options, onnxruntime.__version__)) for name in usable]
    try:
        session = onnxruntime.InferenceSession(content, settings, providers=providers)
    except Exception as error:  # the library's exceptions have no common base of their own
        raise engine_error(f'ONNX Runtime cannot load {artifact.file}', error) from error
    _check_input(session, bundle)
    operations = _operations(session)
    provider = max(operations, key=lambda name: len(operations[name])) if operations else session.get_providers()[0]
    info = EngineInfo(
        engine='onnxruntime',
        precision=artifact.precision,
        device=_DEVICES.get(provider, provider),
        provider=provider,
        threads=threads,
        versions={'onnxruntime': onnxruntime.__version__, 'numpy': np.__version__},
        nodes={name: len(found) for name, found in operations.items()},
        warnings=_fallbacks(list(options.providers) or usable, session.get_providers(), operations),
    )
    return OnnxRuntimeEngine(session, bundle.input.shape, bundle.input.dtype, info)


def check_options(options: EngineOptions) -> None:
    """Whether any of the execution providers that were asked for is in this build.

    Raises:
        EngineError: none is, or onnxruntime cannot be imported.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(f'onnxruntime cannot be imported ({error}): pip install onnxruntime') from error
    _providers(onnxruntime.get_available_providers(), options.providers)


def _providers(available: list[str], wanted: tuple[str, ...]) -> list[str]:
    """Those of the providers, which are in order of preference, that there are; the CPU where none is named."""
    present = [name for name in wanted if name in available]
    if wanted and not present:
        raise EngineError(
            f'this ONNX Runtime has no provider {", ".join(wanted)}; it has {", ".join(available)}. {_remedy(wanted[0])}'
        )
    return present or [_CPU]


def _remedy(provider: str) -> str:
    return _REMEDIES.get(provider, 'Install a build of ONNX Runtime that has it')


def _provider_options(name: str, artifact: Artifact, options: EngineOptions, version: str) -> dict[str, str]:
    """What differs from the provider's defaults."""
    if name == 'CUDAExecutionProvider':
        chosen = {'device_id': str(options.device_id), 'cudnn_conv_algo_search': 'HEURISTIC'}
        # TensorFloat-32 rounds FP32 convolutions to 10 bits; the option came with 1.18.
        return chosen | ({'use_tf32': '0'} if _release(version) >= (1, 18) else {})
    if name != 'TensorrtExecutionProvider':
        return {}
    chosen = {'device_id': str(options.device_id)}
    if artifact.precision in ('fp16', 'int8'):
        chosen[f'trt_{artifact.precision}_enable'] = '1'
    folder = usable_folder(options.report, 'onnxruntime')
    if folder is None:
        return chosen
    return chosen | {
        'trt_engine_cache_enable': '1',
        'trt_engine_cache_path': str(folder),
        'trt_timing_cache_enable': '1',
        'trt_timing_cache_path': str(folder),
    }


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split('.')[:2]
    return int(major), int(minor)


def _operations(session: Any) -> dict[str, list[str]]:
    """Provider → operations of the nodes that it runs; empty before ONNX Runtime 1.24, which does not tell."""
    if not hasattr(session, 'get_provider_graph_assignment_info'):
        return {}
    found: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    return found


def _fallbacks(wanted: list[str], started: list[str], operations: dict[str, list[str]]) -> tuple[str, ...]:
    """What runs elsewhere than was asked for, why, and what to do."""
    warnings = []
    for name in wanted:
        if name not in started:
            warnings.append(
                f'{name} could not be started, {started[0]} runs in its place. {_REMEDIES.get(name, "")}'.strip()
            )
        elif operations and name not in operations and name != _CPU:
            warnings.append(f'{name} runs none of the nodes; {" and ".join(operations)} run them all')
    if wanted[0] != _CPU and wanted[0] in operations and _CPU in operations:
        kinds = ', '.join(sorted(set(operations[_CPU])))
        warnings.append(
            f'{len(operations[_CPU])} nodes run on the CPU ({kinds}), and every change of device copies; export the network '
            'without them'
        )
    return tuple(warnings)


def _check_input(session: Any, bundle: Bundle) -> None:
    """The graph must take exactly one image of the size and type that the bundle states."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise EngineError(f'the network of {bundle.name} has {len(inputs)} inputs; one image is expected')
    shape, kind = inputs[0].shape, inputs[0].type
    fits = len(shape) == 4 and all(
        not isinstance(size, int) or size == stated for size, stated in zip(shape, bundle.input.shape, strict=True)
    )
    if not fits or _DTYPES.get(kind) != np.dtype(bundle.input.dtype).type:
        raise EngineError(
            f'the network takes {kind} {shape}, but bundle.yaml of {bundle.name} states '
            f'{bundle.input.dtype} {list(bundle.input.shape)}; correct its input section'
        )


def _is_static(output: Any) -> bool:
    return output.type in _DTYPES and all(isinstance(size, int) for size in output.shape)
