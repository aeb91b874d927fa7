"""One rounding for values that are only moved: concatenations, halves, poolings and enlargements then move INT8, not float.

Rounded where a convolution reads it, what a concatenation wrote was written, joined and read once more in float. Rounded where it
is made, with one range for all that is joined, OpenVINO writes INT8 from the convolution before and moves a quarter of the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from training.quantize.calibration import Range, Ranges
from training.quantize.network import attribute, constants, makers, readers

MOVING = frozenset({'Concat', 'Split', 'Slice', 'MaxPool', 'Resize', 'Reshape', 'Transpose', 'Squeeze', 'Unsqueeze'})
LEVELS = 255


@dataclass(frozen=True)
class Group:
    """Tensors among which values are only moved.

    Attributes:
        read: those that quantized convolutions read.
        made: those that are computed, from which all others come.
    """

    read: tuple[str, ...]
    made: tuple[str, ...]


def groups(graph: onnx.GraphProto, rounded: Iterable[str]) -> list[Group]:
    """The groups of tensors that may share a rounding, in order.

    Args:
        graph: in which nothing is rounded between these tensors.
        rounded: tensors that quantized convolutions read.
    """
    wanted, reading, maker, known = {*rounded}, readers(graph), makers(graph), constants(graph)
    moving: set[str] = set()
    for node in reversed(graph.node):
        onwards = (
            name in wanted or any(reader.name in moving for reader in reading.get(name, ())) for name in node.output
        )
        if _moves(node) and any(onwards):
            moving.add(node.name)
    belongs: dict[str, set[str]] = {}
    for node in graph.node:
        if node.name in moving:
            together = set().union(*(belongs.get(name, {name}) for name in _moved(node)))
            belongs |= dict.fromkeys(together, together)
    found = []
    for together in {id(group): group for group in belongs.values()}.values():
        made = [name for name in together if name not in maker or maker[name].name not in moving]
        read = sorted(together & wanted)  # none where numbers are joined that say a shape
        if read and all(name in maker and name not in known for name in made):  # a picture or a weight is no activation
            found.append(Group(tuple(read), tuple(sorted(made))))
    return found


def shared_ranges(graph: onnx.GraphProto, rounded: Iterable[str], ranges: Ranges) -> dict[str, Range]:
    """The ranges, with one for each group that holds all of what its convolutions read."""
    shared = dict(ranges)
    for group in groups(graph, [name for name in rounded if name in ranges]):
        low = min(ranges[name][0] for name in group.read)
        high = max(ranges[name][1] for name in group.read)
        shared |= dict.fromkeys(group.read, (low, high))
    return shared


def share(graph: onnx.GraphProto) -> int:
    """Move the roundings of a QDQ graph to where values are made; its nodes are then out of order. One scale a channel stays.

    Returns:
        How many values are rounded where they are made.
    """
    roundings = _taken_out(graph)
    count = 0
    for group in groups(graph, roundings):
        shared = _joined([roundings.pop(name) for name in group.read])
        roundings |= dict.fromkeys(group.made, shared)
        count += len(group.made)
    _put_in(graph, roundings)
    return count


def _moves(node: onnx.NodeProto) -> bool:
    return node.op_type in MOVING and (node.op_type != 'Resize' or attribute(node, 'mode', b'nearest') == b'nearest')


def _moved(node: onnx.NodeProto) -> list[str]:
    return [*(node.input if node.op_type == 'Concat' else node.input[:1]), *node.output]


def _taken_out(graph: onnx.GraphProto) -> dict[str, tuple[float, int]]:
    """Remove the roundings of activations that have one scale; by tensor their scale and zero point."""
    known, reading = constants(graph), readers(graph)
    found: dict[str, tuple[float, int]] = {}
    original: dict[str, str] = {}
    gone = []
    for node in graph.node:
        if node.op_type != 'QuantizeLinear' or node.input[0] in known:
            continue
        scale, zero = (numpy_helper.to_array(known[name]) for name in node.input[1:])
        if scale.ndim:
            continue
        found[node.input[0]] = float(scale), int(zero)
        back = reading[node.output[0]]
        original |= {other.output[0]: node.input[0] for other in back}
        gone += [node, *back]
    for node in gone:
        graph.node.remove(node)
    _rewire(graph.node, original)
    return found


def _joined(roundings: Iterable[tuple[float, int]]) -> tuple[float, int]:
    """The rounding whose range holds those of all."""
    ends = [(-zero * scale, (LEVELS - zero) * scale) for scale, zero in roundings]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    scale = (high - low) / LEVELS
    return scale, round(-low / scale)


def _put_in(graph: onnx.GraphProto, roundings: Mapping[str, tuple[float, int]]) -> None:
    rewired = {name: f'{name}_rounded' for name in roundings}
    _rewire([node for node in graph.node if node.op_type != 'QuantizeLinear'], rewired)
    nodes = []
    for name, (scale, zero) in roundings.items():
        constant = [f'{name}_scale', f'{name}_zero']
        graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), constant[0]))
        graph.initializer.append(numpy_helper.from_array(np.array(zero, np.uint8), constant[1]))
        levels = f'{name}_levels'
        nodes.append(helper.make_node('QuantizeLinear', [name, *constant], [levels], name=f'{name}_Q'))
        nodes.append(helper.make_node('DequantizeLinear', [levels, *constant], [rewired[name]], name=f'{name}_DQ'))
    graph.node.extend(nodes)


def _rewire(nodes: Iterable[onnx.NodeProto], renamed: Mapping[str, str]) -> None:
    for node in nodes:
        for number, name in enumerate(node.input):
            if name in renamed:
                node.input[number] = renamed[name]
