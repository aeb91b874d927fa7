"""OpenVINO: ONNX files on Intel and other processors, one frame at a time with the lowest latency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kd_perception.bundles.bundle import Artifact, Bundle
from kd_perception.bundles.onnx_graph import read_graph
from kd_perception.bundles.onnx_integrity import read_network
from kd_perception.detection.engine import Array, EngineInfo
from kd_perception.engines import amx
from kd_perception.engines.batch import check_batch, engine_error
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import EngineError
from kd_perception.machine.cores import physical_cores

_HINTS = {'fp32': 'f32', 'fp16': 'f16', 'bf16': 'bf16', 'int8': 'f32'}
_CAPABILITIES = {'fp16': 'FP16', 'bf16': 'BF16', 'int8': 'INT8', 'fp32': 'FP32'}


class OpenVinoEngine:
    """One network in one inference request. Not thread-safe: one frame at a time."""

    def __init__(self, library: Any, compiled: Any, names: Iterable[str], bundle: Bundle, info: EngineInfo) -> None:
        self.info = info
        self._library = library
        self._request: Any = compiled.create_infer_request()
        self._shape = bundle.input.shape
        self._dtype = np.dtype(bundle.input.dtype)
        self._bound: Array | None = None
        self._outputs: dict[str, Array] = {}
        self._unbound = []
        # A port may have several names, of which `get_any_name` takes whichever; the order is the file's.
        for name, port in zip(names, compiled.outputs, strict=True):
            if port.partial_shape.is_static:
                self._outputs[name] = np.empty(tuple(port.shape), port.element_type.to_dtype())
                self._request.set_tensor(port, library.Tensor(self._outputs[name], shared_memory=True))
            else:
                self._unbound.append((name, port))

    def infer(self, batch: Array) -> dict[str, Array]:
        """See `kd_perception.detection.engine.Engine.infer`."""
        if self._request is None:
            raise EngineError('the engine was closed')
        if batch is not self._bound:
            check_batch(batch, self._shape, self._dtype)
        try:
            if batch is not self._bound:
                self._request.set_input_tensor(self._library.Tensor(batch, shared_memory=True))
                self._bound = batch
            self._request.infer()
            for name, port in self._unbound:
                self._outputs[name] = self._request.get_tensor(port).data
        except Exception as error:  # the library raises RuntimeError and others, without a base of its own
            raise engine_error('OpenVINO failed during inference', error) from error
        return self._outputs

    def close(self) -> None:
        """Free the network."""
        self._request = self._bound = None


def load(bundle: Bundle, artifact: Artifact, options: EngineOptions) -> OpenVinoEngine:
    """Compile an ONNX artifact for a device (`options.providers`, else `CPU`).

    FP32 stays FP32: left to itself, OpenVINO computes in bfloat16 where the processor can, and the numbers then differ from what
    was measured. `options.precision` asks for `bf16` or `fp16`. `amx: false` of an artifact keeps AMX off in this process.

    Raises:
        BundleError: the file is missing or altered.
        EngineError: the device cannot do what is asked, or OpenVINO refuses the network.
    """
    content = read_network(bundle, artifact)
    names = [output.name for output in read_graph(content, artifact.file).outputs]
    import openvino

    may_use_amx = _may_use_amx(bundle, options.precision)
    with amx.loading(may_use_amx):
        core = openvino.Core()
        devices = core.available_devices
        if 'CPU' in devices:
            core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')  # this asks oneDNN, which looks at the processor once
    device = options.providers[0] if options.providers else 'CPU'
    precision = options.precision or artifact.precision
    _check_device(core, devices, device, precision)
    threads = options.threads or physical_cores()
    settings: dict[str, Any] = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': _HINTS.get(precision, 'f32')}
    if device == 'CPU':
        # Pinned threads of several processes land on the same cores.
        settings |= {'INFERENCE_NUM_THREADS': threads, 'ENABLE_CPU_PINNING': False}
    try:
        model = core.read_model(content)
        _fix_input(model, bundle)
        compiled = core.compile_model(model, device, settings)
        nodes = _precisions(compiled)
    except EngineError:
        raise
    except Exception as error:  # the library raises RuntimeError and others, without a base of its own
        raise engine_error(f'OpenVINO cannot load {artifact.file}', error) from error
    info = EngineInfo(
        engine='openvino',
        precision=precision,
        device=device.lower(),
        provider=str(core.get_property(device, 'FULL_DEVICE_NAME')).strip() or device,
        threads=threads if device == 'CPU' else 0,
        versions={'openvino': openvino.__version__.partition('-')[0], 'numpy': np.__version__},
        nodes=nodes,
        warnings=(*_doubts(precision, nodes), *(amx.doubts(artifact.amx) if precision == 'int8' else ())),
    )
    return OpenVinoEngine(openvino, compiled, names, bundle, info)


def _may_use_amx(bundle: Bundle, precision: str) -> bool:
    """In bfloat16 it must; FP32 never does, so the INT8 network that may follow in this process decides."""
    return precision in ('bf16', 'fp16') or all(one.amx for one in bundle.artifacts)


def _check_device(core: Any, devices: Sequence[str], device: str, precision: str) -> None:
    if device not in devices:
        raise EngineError(f'OpenVINO finds no device {device}; it has {", ".join(devices) or "none"}')
    able = core.get_property(device, 'OPTIMIZATION_CAPABILITIES')
    if _CAPABILITIES.get(precision, 'FP32') not in able:
        raise EngineError(f'{device} cannot compute in {precision} here; OpenVINO says that it can {", ".join(able)}')


def _fix_input(model: Any, bundle: Bundle) -> None:
    """The network must take exactly one image of the bundle's size and type; symbolic sizes become that size."""
    if len(model.inputs) != 1:
        raise EngineError(f'the network of {bundle.name} has {len(model.inputs)} inputs; one image is expected')
    port = model.inputs[0]
    shape, kind = port.partial_shape, port.element_type.to_dtype()
    stated = bundle.input.shape
    fits = len(shape) == len(stated) and all(
        size.is_dynamic or size.get_length() == wanted for size, wanted in zip(shape, stated, strict=True)
    )
    if not fits or kind != np.dtype(bundle.input.dtype):
        raise EngineError(
            f'the network takes {kind} {shape}, but bundle.yaml of {bundle.name} states {bundle.input.dtype} '
            f'{list(stated)}; correct its input section'
        )
    if shape.is_dynamic:
        model.reshape(list(stated))


def _precisions(compiled: Any) -> dict[str, int]:
    """Precision → number of layers that compute in it, weights and reorders left out."""
    kinds: Counter[str] = Counter()
    for layer in compiled.get_runtime_model().get_ops():
        facts = layer.get_rt_info()
        if 'runtimePrecision' in facts and facts['layerType'].astype(str) in (
            'Convolution',
            'FullyConnected',
            'MatMul',
        ):
            kinds[facts['runtimePrecision'].astype(str)] += 1
    return dict(kinds)


def _doubts(precision: str, nodes: dict[str, int]) -> tuple[str, ...]:
    wanted = {'fp32': ('f32',), 'fp16': ('f16',), 'bf16': ('bf16',), 'int8': ('i8', 'u8')}.get(precision, ())
    if not nodes or not wanted or any(kind in nodes for kind in wanted):
        return ()
    found = ', '.join(f'{count} in {kind}' for kind, count in nodes.items())
    return (
        f'OpenVINO was asked for {precision} and runs the convolutions otherwise: {found}; benchmark it against fp32',
    )
