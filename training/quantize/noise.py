"""What INT8 does to each convolution by itself, measured in one pass: noise, shift of the mean, and why.

Beside every convolution of the float network stands its twin, which reads the same values rounded and has rounded weights.
Nothing adds up along the network, so the figures name the layers that lose, and a shift may be taken back layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.quantize.calibration import Image, run
from training.quantize.candidate import Candidate, biased, channel_extremes, groups_of
from training.quantize.network import constants, opset
from training.quantize.qdq import channel_scales, weight_levels

FloatArray = npt.NDArray[np.float32]

UNLIKE_CHANNELS = 8.0
"""From this ratio on between the widest channel and the median one, the ranges of channels are a reason to be named."""
OUTLIERS = 3.0
"""From this ratio on between the largest value and the range that was kept, outliers are."""


@dataclass(frozen=True)
class LayerNoise:
    """One convolution.

    Attributes:
        name: of its node.
        depthwise: whether it reads one channel for each that it writes.
        noise: mean squared error of what it writes over that's variance; 0.01 is 20 dB.
        by_weights: the part of it that is the weights' alone.
        low: smallest value that it reads on the images.
        high: largest.
        kept: the part of low … high that the range keeps, 0 … 1.
        channels: widest channel of what it reads over the median one.
    """

    name: str
    depthwise: bool
    noise: float
    by_weights: float
    low: float
    high: float
    kept: float
    channels: float

    @property
    def why(self) -> str:
        """The likeliest reason for its noise, in words."""
        if self.by_weights > 0.5 * self.noise:
            return 'its weights: rounding them loses most'
        if self.channels >= UNLIKE_CHANNELS:
            kind = 'depthwise, ' if self.depthwise else ''
            return f'{kind}channels of unlike range: the widest is {self.channels:.0f} times the median one'
        if self.kept < 1 / OUTLIERS:
            return f'outliers: values reach {1 / max(self.kept, 1e-6):.1f} times as far as the range that was kept'
        return 'its range: 256 levels are few for what it reads'

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), 'why': self.why}


def layer_noise(candidate: Candidate, images: Sequence[Image]) -> tuple[list[LayerNoise], dict[str, FloatArray]]:
    """Measure every quantized convolution.

    Returns:
        The layers in the network's order; and by a node's name the shift of each channel's mean (C,), INT8 less float.
    """
    nodes = candidate.quantized
    weights = constants(candidate.model.graph)
    measured, shifts = _measure(candidate, nodes, images)
    extremes = channel_extremes(candidate.model, list(dict.fromkeys(node.input[0] for node in nodes)), images)
    layers = []
    for node, (error, by_weights, power) in zip(nodes, measured, strict=True):
        low, high = (np.asarray(limit) for limit in extremes[node.input[0]])
        least, most = candidate.ranges.get(node.input[0], (float(low.min()), float(high.max())))
        own_scales = node.input[0] in candidate.channel_ranges
        widths = np.maximum(high, 0) - np.minimum(low, 0)
        spread = 1.0 if own_scales else float(widths.max() / max(float(np.median(widths)), 1e-9))
        whole = max(float(high.max()), 0.0) - min(float(low.min()), 0.0)
        layers.append(
            LayerNoise(
                node.name,
                groups_of(node) > 1 and weights[node.input[1]].dims[1] == 1,
                error / max(power, 1e-12),
                by_weights / max(power, 1e-12),
                float(low.min()),
                float(high.max()),
                1.0 if own_scales or whole <= 0 else min((most - least) / whole, 1.0),
                min(spread, 1e4),
            )
        )
    return layers, shifts


def unshifted(candidate: Candidate, images: Sequence[Image]) -> Candidate:
    """Take from each bias what rounding adds to the mean that its convolution writes (bias correction, Nagel et al. 2019)."""
    candidate = replace(candidate, model=biased(candidate.model))
    _, shifts = _measure(candidate, candidate.quantized, images)
    known = constants(candidate.model.graph)
    changed = {
        node.input[2]: numpy_helper.to_array(known[node.input[2]]) - shifts[node.name]
        for node in candidate.quantized
        if len(node.input) > 2 and node.input[2] in known
    }
    return candidate.with_weights(changed)


def _measure(
    candidate: Candidate, nodes: Sequence[onnx.NodeProto], images: Sequence[Image]
) -> tuple[list[tuple[float, float, float]], dict[str, FloatArray]]:
    """Of each convolution: squared error, that by its weights alone, and variance; and the shift of each channel."""
    model = onnx.ModelProto()
    model.CopyFrom(candidate.model)
    del model.graph.output[:]
    twins = _Twins(model, candidate)
    for node in nodes:
        twins.add(node)
    totals: list[FloatArray] = []
    for values in run(model, images, 'noise of layers'):
        totals = [a + b for a, b in zip(totals, values, strict=True)] if totals else list(values)
    means = iter(total / len(images) for total in totals)
    measured, shifts = [], {}
    for node in nodes:
        shift, error, by_weights, mean, square = (next(means) for _ in range(5))
        variance = float(np.mean(square - np.square(mean)))
        measured.append((float(error.mean()), float(by_weights.mean()), variance))
        shifts[node.name] = shift
    return measured, shifts


class _Twins:
    """Writes the twins into a graph."""

    def __init__(self, model: onnx.ModelProto, candidate: Candidate) -> None:
        self._model, self._graph, self._candidate = model, model.graph, candidate
        self._weights = constants(candidate.model.graph)
        self._rounded: dict[str, str] = {}
        self._graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3], np.int64), 'twin_axes'))

    def add(self, node: onnx.NodeProto) -> None:
        """One convolution's twins, and five outputs (C,) of them."""
        weight = f'{node.name}_twin_weight'
        if weight not in self._rounded:
            self._constant(weight, self._rounded_weight(node.input[1]))
        wanted = node.output[0]
        both = self._twin(node, self._rounded_input(node.input[0]), weight, f'{node.name}_twin')
        alone = self._twin(node, node.input[0], weight, f'{node.name}_twin_of_weights')
        error = self._node('Sub', [both, wanted])
        alone_error = self._node('Sub', [alone, wanted])
        squares = [self._node('Mul', [value, value]) for value in (error, alone_error, wanted)]
        for value in (error, squares[0], squares[1], wanted, squares[2]):
            self._graph.output.append(helper.make_tensor_value_info(self._mean(value), TensorProto.FLOAT, None))

    def _twin(self, node: onnx.NodeProto, source: str, weight: str, output: str) -> str:
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name = twin.output[0] = output
        twin.input[0], twin.input[1] = source, weight
        self._graph.node.append(twin)
        return output

    def _rounded_weight(self, name: str) -> FloatArray:
        weight = numpy_helper.to_array(self._weights[name])
        settings = self._candidate.settings
        levels = weight_levels(settings)
        reach = (
            np.abs(weight).max(axis=(1, 2, 3)) if settings.per_channel else np.full(len(weight), np.abs(weight).max())
        )
        scale = np.maximum(self._candidate.weight_scales.get(name, reach / levels), 1e-12)[:, None, None, None]
        return np.asarray(np.clip(np.round(weight / scale), -levels, levels) * scale, np.float32)

    def _rounded_input(self, tensor: str) -> str:
        if tensor in self._rounded:
            return self._rounded[tensor]
        signed = self._candidate.settings.target == 'tensorrt'
        low, high = self._candidate.ranges[tensor]
        axis = {}
        if tensor in self._candidate.channel_ranges:
            scale, zero = channel_scales(*self._candidate.channel_ranges[tensor])
            zeros: npt.NDArray[Any] = np.full(len(scale), zero, np.uint8)
            axis = {'axis': 1}
        elif signed:
            scale, zeros = np.array(max(max(-low, high) / 127, 1e-8), np.float32), np.array(0, np.int8)
        else:
            scale = np.array(max((high - low) / 255, 1e-8), np.float32)
            zeros = np.array(round(-low / float(scale)), np.uint8)
        names = [f'{tensor}_twin_scale', f'{tensor}_twin_zero']
        for name, value in zip(names, (scale, zeros), strict=True):
            self._constant(name, value)
        rounded = self._node('QuantizeLinear', [tensor, *names], **axis)
        self._rounded[tensor] = self._node('DequantizeLinear', [rounded, *names], **axis)
        return self._rounded[tensor]

    def _mean(self, tensor: str) -> str:
        if opset(self._model) >= 18:
            return self._node('ReduceMean', [tensor, 'twin_axes'], keepdims=0)
        return self._node('ReduceMean', [tensor], axes=[0, 2, 3], keepdims=0)

    def _node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = f'twin_{len(self._graph.node)}'
        self._graph.node.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def _constant(self, name: str, value: npt.NDArray[Any]) -> None:
        self._graph.initializer.append(numpy_helper.from_array(value, name))
