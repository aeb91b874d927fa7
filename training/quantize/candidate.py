"""A network on its way to INT8: float weights, ranges and what stays in float, from which the quantized graph is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from training.quantize.calibration import Image, Range, run
from training.quantize.network import attribute, constants, convolutions, opset
from training.quantize.qdq import ChannelRange, QuantizeSettings, float_nodes, quantize_model

FloatArray = npt.NDArray[np.float32]


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
