"""INT8 as QDQ graphs, each in the form whose kernels its engine can fuse, with the tail in float.

| target | activations | weights | quantized |
|---|---|---|---|
| `onnxruntime` | unsigned, U8S8: what CPUs compute quickest | signed, one scale a channel | all that ONNX Runtime can |
| `openvino` | unsigned; a scale a channel where depthwise convolutions read | likewise | what convolutions and products read |
| `tensorrt` | signed, zero point 0 | likewise, float behind Q and DQ | what convolutions and products read |

OpenVINO and TensorRT compute the activation function in the convolution that it follows, so nothing is rounded between the two;
ONNX Runtime has kernels of its own for it, which read and write INT8.

The tail is everything from the outputs back to the last convolution of each branch. It joins numbers of unlike size
(box distances, logits, anchors); quantized it ruins the detector. It is found by walking the graph, whatever the nodes
are named. Where a branch ends with a product over the cells of a map, as YOLOv4's do, that product reads INT8 and writes float.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_infer_metadata
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from training.errors import QuantizationError
from training.quantize.calibration import METHODS, Image, Range, Ranges, calibrate
from training.quantize.float_parts import COMPUTING, front, mish, products, tail
from training.quantize.network import constants, convolutions, is_depthwise, read_network, readers
from training.quantize.shared_rounding import share, shared_ranges

FloatArray = npt.NDArray[np.float32]
ChannelRange = tuple[FloatArray, FloatArray]
TARGETS = ('onnxruntime', 'openvino', 'tensorrt')
FUSING = ('openvino', 'tensorrt')
"""Targets that compute an activation function in the convolution before it: nothing is rounded between the two."""


@dataclass(frozen=True)
class MixedSettings:
    """Which layers may stay in float: as many as a limit allows, those first that gain most for what they cost.

    Attributes:
        max_bytes: largest size of the file.
        max_ms: longest median inference on this machine; the choice then depends on it.
        most_layers: at most so many.
        judged_images: so many of the calibration images, evenly spread, judge a choice.
        threads: CPU threads of an inference.
    """

    max_bytes: int | None = None
    max_ms: float | None = None
    most_layers: int = 100
    judged_images: int = 8
    threads: int = 1

    def __post_init__(self) -> None:
        """Raises QuantizationError without a limit."""
        if self.max_bytes is None and self.max_ms is None:
            raise QuantizationError('mixed precision needs a limit: max_bytes or max_ms')


@dataclass(frozen=True)
class QuantizeSettings:
    """How a network is quantized.

    Attributes:
        method: how ranges come from the calibration images: `minmax`, `percentile` or `entropy`.
        percentile: share kept by `percentile`, in percent.
        per_channel: one weight scale per output channel instead of one per tensor.
        first_convolution_float: leave the convolution that reads the pixels in float; with three channels INT8 gains nothing.
        last_convolutions_float: leave the last convolution of each branch in float too; they are small.
        float_nodes: further nodes that stay in float, by name; `training.quantize.mixed` chooses them.
        target: `onnxruntime`, `openvino`, or `tensorrt` for a graph that TensorRT 8.6 and later build an engine from.
        reduce_range: weights of 7 bits, for x86 processors without VNNI, whose sums of U8S8 products overflow at 16 bits.
        mixed: chooses further layers that stay in float, by measuring; None leaves none.
        operators: ONNX operators that are quantized; empty means the target's own choice. `[Conv]` for networks with attention.
    """

    method: str = 'minmax'
    percentile: float = 99.99
    per_channel: bool = True
    first_convolution_float: bool = True
    last_convolutions_float: bool = True
    float_nodes: tuple[str, ...] = ()
    target: str = 'onnxruntime'
    reduce_range: bool = False
    operators: tuple[str, ...] = ()
    mixed: MixedSettings | None = None

    def __post_init__(self) -> None:
        """Raises QuantizationError for a value that means nothing."""
        if self.method not in METHODS:
            raise QuantizationError(f'unknown calibration method {self.method!r}; choose one of {", ".join(METHODS)}')
        if self.target not in TARGETS:
            raise QuantizationError(f'unknown target {self.target!r}; choose one of {", ".join(TARGETS)}')
        if not 50 < self.percentile <= 100:
            raise QuantizationError(f'percentile must lie between 50 and 100, not {self.percentile:g}')
        unknown = sorted(set(self.operators) - _quantizable())
        if unknown:
            raise QuantizationError(
                f'{", ".join(unknown)} cannot be quantized; choose of {", ".join(sorted(_quantizable()))}'
            )

    @property
    def kinds(self) -> frozenset[str]:
        """The ONNX operators that are quantized."""
        if self.operators:
            return frozenset(self.operators)
        return COMPUTING if self.target in FUSING else _quantizable()


def qat_form(settings: QuantizeSettings) -> list[Any]:
    """What of the settings a quantization-aware training depends on; empty where it is as by default."""
    form = [settings.target, settings.per_channel, settings.reduce_range, sorted(settings.operators)]
    return [] if form == ['onnxruntime', True, False, []] else form


def weight_levels(settings: QuantizeSettings) -> int:
    """The largest whole number that a weight is rounded to; the smallest is its negative."""
    return 64 if settings.reduce_range else 127


def _quantizable() -> frozenset[str]:
    return frozenset({*QLinearOpsRegistry, *QDQRegistry})


def with_shapes(source: Path, shape: Sequence[int] = ()) -> onnx.ModelProto:
    """The network of a file, ready (`training.quantize.network`), with the shape of every tensor.

    Args:
        shape: of its input, for graphs that leave sizes open.

    Raises:
        QuantizationError: the file cannot be read.
    """
    model = read_network(source, shape)
    add_infer_metadata(model)  # otherwise the quantizer writes and reads it again for every variant
    return model


def float_nodes(graph: onnx.GraphProto, settings: QuantizeSettings) -> list[str]:
    """Names of the nodes that stay in float: tail, front, and what the settings name.

    Raises:
        QuantizationError: there is no node of such a name.
    """
    named = {node.name for node in graph.node}
    unknown = [name for name in settings.float_nodes if name not in named]
    if unknown:
        raise QuantizationError(f'the network has no node {", ".join(unknown)}')
    left = {*tail(graph, settings.last_convolutions_float), *mish(graph)} - {*products(graph)}
    left.update(settings.float_nodes)
    before = {*front(graph)}
    if not settings.first_convolution_float:
        before -= {node.name for node in graph.node if node.op_type in COMPUTING}
    left |= before
    return sorted(left)


def ranges_of(model: onnx.ModelProto, images: Sequence[Image], settings: QuantizeSettings) -> dict[str, Range]:
    """The range of every activation that may be quantized, whichever nodes stay in float.

    Raises:
        QuantizationError: no images.
    """
    return calibrate(
        model,
        activations(model.graph, settings),
        images,
        settings.method,
        percentile=settings.percentile,
        symmetric=settings.target == 'tensorrt',
    )


def ranges_of_start(
    began: Path, trained: Path, images: Sequence[Image], settings: QuantizeSettings
) -> dict[str, Range]:
    """The ranges for a network of quantization-aware training: the extremes of the float network at which it began.

    Args:
        began: ONNX file of that float network.
        trained: ONNX file of the trained one.
        images: the calibration images of that training.
        settings: which activations are quantized; its method is not used.

    Raises:
        QuantizationError: the two are not one network, or there are no images.
    """
    ranges = ranges_of(with_shapes(began), images, replace(settings, method='minmax'))
    if missing := set(activations(with_shapes(trained).graph, settings)) - set(ranges):
        raise QuantizationError(f'{trained} did not begin as {began}, which has no tensor {min(missing)}')
    return ranges


def activations(graph: onnx.GraphProto, settings: QuantizeSettings) -> list[str]:
    """Names of the float tensors that nodes of the quantized kinds read and write, in order."""
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    names = (name for node in graph.node if node.op_type in settings.kinds for name in (*node.input, *node.output))
    return list(dict.fromkeys(name for name in names if kinds.get(name) == onnx.TensorProto.FLOAT))


def quantize_model(
    model: onnx.ModelProto,
    ranges: Ranges,
    settings: QuantizeSettings,
    left: Iterable[str],
    only: Iterable[str] = (),
    *,
    channel_ranges: Mapping[str, ChannelRange] | None = None,
    weight_scales: Mapping[str, FloatArray] | None = None,
    shared: bool = True,
) -> onnx.ModelProto:
    """The network with quantized nodes.

    Args:
        model: float, shapes inferred; not changed.
        ranges: of `ranges_of`.
        settings: method and float nodes are not read here.
        left: names of nodes that stay in float.
        only: names of the only nodes that are quantized; empty means all but `left`.
        channel_ranges: smallest and largest values (C,) of activations that get one scale a channel, see `depthwise_inputs`.
        weight_scales: by the name of a weight its scales (C,), where they do not follow from its extremes.
        shared: whether OpenVINO's form rounds where values are made, see `training.quantize.shared_rounding`.
    """
    tensorrt = settings.target == 'tensorrt'
    shared = shared and settings.target == 'openvino'
    if shared:
        ranges = shared_ranges(
            model.graph, read_by_quantized(model.graph, settings, left) - {*(channel_ranges or {})}, ranges
        )
    options: dict[str, Any] = {}
    if tensorrt:
        options = {
            'ActivationSymmetric': True,
            'WeightSymmetric': True,
            'AddQDQPairToWeight': True,  # TensorRT's parser wants float weights behind Q and DQ
            'QuantizeBias': False,
            'OpTypesToExcludeOutputQuantization': sorted(COMPUTING),  # lets it fuse the activation function
        }
    elif settings.target == 'openvino':
        options = {'QuantizeBias': False, 'OpTypesToExcludeOutputQuantization': sorted(COMPUTING)}
    elif products(model.graph):
        options = {'OpTypesToExcludeOutputQuantization': ['Gemm']}
    if weight_scales:
        options['TensorQuantOverrides'] = {name: _as_overrides(scales) for name, scales in weight_scales.items()}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantizer = QDQQuantizer(
        copy,
        settings.per_channel,
        settings.reduce_range,
        QuantType.QInt8,
        QuantType.QInt8 if tensorrt else QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, {name: _limits(value) for name, value in ranges.items()}),
        list(only),
        list(left),
        sorted(settings.kinds),
        options,
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    for name, limits in (channel_ranges or {}).items():
        _scale_channels(quantized.graph, name, limits)
    if shared:
        share(quantized.graph)
        quantizer.model.topological_sort()
        quantizer.model.clean_initializers()
    return quantized


def read_by_quantized(graph: onnx.GraphProto, settings: QuantizeSettings, left: Iterable[str]) -> set[str]:
    """Names of what quantized nodes read, weights among them."""
    kept = {*left}
    return {
        name for node in graph.node if node.op_type in settings.kinds and node.name not in kept for name in node.input
    }


def depthwise_inputs(graph: onnx.GraphProto, left: Iterable[str]) -> list[str]:
    """Names of the activations that quantized depthwise convolutions read, and no other quantized node.

    Their channels may have scales of their own: a depthwise convolution never adds up two channels.
    """
    kept, weights, reading = {*left}, constants(graph), readers(graph)
    found = []
    for node in convolutions(graph, kept):
        others = [other for other in reading[node.input[0]] if other.op_type in COMPUTING and other.name not in kept]
        if all(other.input[1] in weights and is_depthwise(other, weights[other.input[1]]) for other in others):
            found.append(node.input[0])
    return list(dict.fromkeys(found))


def _scale_channels(graph: onnx.GraphProto, tensor: str, limits: ChannelRange) -> None:
    """Give the rounding of an activation one scale a channel, and all channels one zero point, as kernels want it."""
    rounding = next((node for node in graph.node if node.op_type == 'QuantizeLinear' and node.input[0] == tensor), None)
    if rounding is None:
        return
    scales, zero = channel_scales(*limits)
    names = [f'{tensor}_channel_scale', f'{tensor}_channel_zero']
    graph.initializer.append(onnx.numpy_helper.from_array(scales, names[0]))
    graph.initializer.append(onnx.numpy_helper.from_array(np.full(len(scales), zero, np.uint8), names[1]))
    for node in (rounding, *readers(graph)[rounding.output[0]]):
        node.input[1:] = names
        del node.attribute[:]
        node.attribute.append(onnx.helper.make_attribute('axis', 1))


def channel_scales(low: FloatArray, high: FloatArray) -> tuple[FloatArray, int]:
    """Scales (C,) of channels that lie between `low` and `high`, and the zero point for which they are finest, 0 … 254."""
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    alive = high - low > 0
    if not alive.any():
        return np.full(len(low), 1e-8, np.float32), 0
    best, best_cost = (np.ones(len(low)), 0), np.inf
    for zero in range(1 if (low < 0).any() else 0, 255):
        scales = np.maximum(high / (255 - zero), -low / zero if zero else 0)
        cost = float(np.log(scales[alive]).sum())
        if cost < best_cost:
            best, best_cost = (scales, zero), cost
    return np.maximum(best[0], 1e-8).astype(np.float32), best[1]


def _as_overrides(scales: FloatArray) -> list[dict[str, Any]]:
    """One scale a channel as ONNX Runtime's quantizer takes it."""
    return [{'axis': 0, 'scale': np.float32(scale), 'zero_point': np.int8(0)} for scale in scales]


def _limits(limits: Range) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.array(limits[0], np.float32), np.array(limits[1], np.float32)
