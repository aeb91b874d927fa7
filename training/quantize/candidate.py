"""A network on its way to INT8: float weights, ranges and what stays in float, from which the quantized graph is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from training.quantize.activations import activation_functions
from training.quantize.calibration import Image, Observed, Range, run
from training.quantize.float_parts import front
from training.quantize.network import attribute, constants, convolutions, makers, opset, readers
from training.quantize.qdq import (
    ChannelRange,
    QuantizeSettings,
    activations,
    depthwise_inputs,
    float_nodes,
    quantize_model,
    read_by_quantized,
)
from training.quantize.shared_rounding import shared_ranges

FloatArray = npt.NDArray[np.float32]

SIMPLE = frozenset({'Relu', 'LeakyRelu', 'Clip', 'Sigmoid', 'PRelu', 'Tanh'})
"""Activation functions of one node; they stay in float with their convolution."""


@dataclass(frozen=True)
class Candidate:
    """See the module.

    Attributes:
        model: the float network, its weights as the repairs left them.
        settings: target, granularity, and further nodes that stay in float.
        ranges: of the activations.
        channel_ranges: of activations with one scale a channel.
        weight_scales: of weights whose rounding was chosen, by name.
    """

    model: onnx.ModelProto
    settings: QuantizeSettings
    ranges: Mapping[str, Range] = field(default_factory=dict)
    channel_ranges: Mapping[str, ChannelRange] = field(default_factory=dict)
    weight_scales: Mapping[str, FloatArray] = field(default_factory=dict)

    @property
    def left(self) -> list[str]:
        """Names of the nodes that stay in float."""
        return float_nodes(self.model.graph, self.settings)

    @property
    def quantized(self) -> list[onnx.NodeProto]:
        """The convolutions that are quantized, in order."""
        return convolutions(self.model.graph, self.left)

    @property
    def learnable(self) -> list[onnx.NodeProto]:
        """The quantized convolutions whose weights and bias are their own: see `biased`."""
        graph = self.model.graph
        known, reading = constants(graph), readers(graph)
        return [
            node
            for node in self.quantized
            if len(node.input) > 2 and node.input[2] in known and all(len(reading[n]) == 1 for n in node.input[1:3])
        ]

    def written(self) -> onnx.ModelProto:
        """The quantized graph."""
        return quantize_model(
            self.model,
            self.ranges,
            self.settings,
            self.left,
            channel_ranges=self.channel_ranges,
            weight_scales=self.weight_scales,
        )

    def with_weights(self, changed: Mapping[str, FloatArray]) -> Candidate:
        """The same with other values for some weights; a name that is new becomes a weight."""
        return replace(self, model=with_weights(self.model, changed))


def with_weights(model: onnx.ModelProto, changed: Mapping[str, FloatArray]) -> onnx.ModelProto:
    """A copy of a network with other values for some weights; a name that is new becomes a weight."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = constants(copy.graph)
    for name, value in changed.items():
        tensor = numpy_helper.from_array(np.asarray(value, np.float32), name)
        if name in known:
            known[name].CopyFrom(tensor)
        else:
            copy.graph.initializer.append(tensor)
    return copy


def biased(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every convolution has a bias of its own, so that it can be corrected."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = constants(copy.graph)
    taken: set[str] = set()
    for node in convolutions(copy.graph):
        channels = known[node.input[1]].dims[0]
        value = np.zeros(channels, np.float32)
        if len(node.input) > 2 and node.input[2]:
            if node.input[2] not in known:
                continue
            if node.input[2] not in taken:
                taken.add(node.input[2])
                continue
            value = numpy_helper.to_array(known[node.input[2]])
        name = f'{node.output[0]}_bias'
        copy.graph.initializer.append(numpy_helper.from_array(value, name))
        del node.input[2:]
        node.input.append(name)
        taken.add(name)
    return copy


def leaving(candidate: Candidate, names: Sequence[str]) -> Candidate:
    """With convolutions, and the activation functions behind them, in float.

    A float convolution right between DequantizeLinear and QuantizeLinear would not stay so: ONNX Runtime rounds its weights by
    itself, with one scale for all channels (WeightBiasQuantization).
    """
    graph = candidate.model.graph
    written = {node.output[0] for node in graph.node if node.name in names}
    behind = [node for a in activation_functions(graph) if a.reads in written for node in a.nodes]
    behind += [node.name for node in graph.node if node.op_type in SIMPLE and node.input[0] in written]
    added = (*candidate.settings.float_nodes, *names, *behind)
    return replace(candidate, settings=replace(candidate.settings, float_nodes=tuple(dict.fromkeys(added))))


def with_ranges(
    candidate: Candidate, images: Sequence[Image], method: str, percentile: float, observed: Observed | None = None
) -> Candidate:
    """With ranges of a method; those of the picture itself, which 8 bits hold exactly, are its extremes.

    Args:
        candidate: whose model says what is rounded.
        images: calibrate.
        method: of `training.quantize.calibration`.
        percentile: share kept by `percentile`, in percent.
        observed: of `observe`, where the same network was calibrated before.
    """
    graph, settings = candidate.model.graph, candidate.settings
    functions = {one.reads: one.function for one in activation_functions(graph)}
    symmetric = settings.target == 'tensorrt'
    seen = observed or observe(candidate, images)
    ranges = seen.ranges(method, percentile=percentile, symmetric=symmetric, functions=functions)
    ranges |= {name: limits for name, limits in seen.extremes.items() if _is_picture(name, candidate)}
    channels = {}
    if settings.target == 'openvino':
        channels = channel_extremes(candidate.model, depthwise_inputs(graph, candidate.left), images)
        ranges = shared_ranges(graph, read_by_quantized(graph, settings, candidate.left) - {*channels}, ranges)
    return replace(candidate, ranges=ranges, channel_ranges=channels)


def observe(candidate: Candidate, images: Sequence[Image]) -> Observed:
    """The activations of a candidate on images, for ranges of several methods."""
    return Observed(candidate.model, activations(candidate.model.graph, candidate.settings), images)


def _is_picture(tensor: str, candidate: Candidate) -> bool:
    """Whether no convolution stands before a tensor."""
    graph = candidate.model.graph
    maker = makers(graph).get(tensor)
    return maker is None or (maker.name in front(graph) and maker.op_type != 'Conv')


def channel_extremes(
    model: onnx.ModelProto, tensors: Sequence[str], images: Sequence[Image]
) -> dict[str, ChannelRange]:
    """The smallest and the largest value of each channel (C,) of activations (1, C, H, W), over the images."""
    if not tensors:
        return {}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    old = opset(model) < AXES_AS_INPUT
    copy.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3], np.int64), AXES))
    for number, name in enumerate(tensors):
        for kind in ('ReduceMin', 'ReduceMax'):
            reduced = f'{kind}_{number}'
            axes = [] if old else [AXES]
            node = helper.make_node(kind, [name, *axes], [reduced], keepdims=0, **({'axes': [0, 2, 3]} if old else {}))
            copy.graph.node.append(node)
            copy.graph.output.append(helper.make_tensor_value_info(reduced, onnx.TensorProto.FLOAT, None))
    found: dict[str, ChannelRange] = {}
    for values in run(copy, images, 'ranges of channels'):
        for name, low, high in zip(tensors, values[0::2], values[1::2], strict=True):
            before = found.get(name, (low, high))
            found[name] = np.minimum(before[0], low), np.maximum(before[1], high)
    return found


AXES = 'reduced_axes'
AXES_AS_INPUT = 18
"""Since this opset reductions take their axes as an input."""


def groups_of(node: onnx.NodeProto) -> int:
    """The groups of a convolution."""
    return int(attribute(node, 'group', 1))
