"""Operations value by value, softmax and sums."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from kd_perception.bundles.onnx_graph import Node
from kd_perception.engines.ncnn_conversion.network import Params
from kd_perception.engines.ncnn_conversion.walk import Translation, Walk
from kd_perception.errors import EngineError

_BINARY = {'Add': 0, 'Sub': 1, 'Mul': 2, 'Div': 3, 'Max': 4, 'Min': 5, 'Pow': 6}
_SWAPPED = {'Add': 0, 'Sub': 7, 'Mul': 2, 'Div': 8, 'Max': 4, 'Min': 5, 'Pow': 9}
"""The operation with its operands swapped, for a scalar on the left."""
_UNARY = {'Abs': 0, 'Neg': 1, 'Floor': 2, 'Ceil': 3, 'Sqrt': 5, 'Exp': 7, 'Log': 8, 'Reciprocal': 15, 'Tanh': 16}
_REDUCTION = {'ReduceSum': 0, 'ReduceMean': 3, 'ReduceMax': 4, 'ReduceMin': 5}


def sigmoid(walk: Walk, node: Node) -> None:
    source = walk.blob(node.inputs[0], 4)
    reader = [n for n in walk.graph.nodes if node.outputs[0] in n.inputs]
    if len(reader) == 1 and reader[0].op == 'Mul' and set(reader[0].inputs) == {node.inputs[0], node.outputs[0]}:
        walk.sigmoid_of[node.outputs[0]] = node.inputs[0]  # becomes a Swish when its product comes
        return
    walk.values[node.outputs[0]] = walk.emit('Sigmoid', [source], source.shape, {})


def activation(walk: Walk, node: Node) -> None:
    source = walk.blob(node.inputs[0], 4)
    kind, params = _activation(walk, node)
    walk.values[node.outputs[0]] = walk.emit(kind, [source], source.shape, params)


def _activation(walk: Walk, node: Node) -> tuple[str, dict[int, Any]]:
    if node.op in _UNARY:
        return 'UnaryOp', {0: _UNARY[node.op]}
    if node.op == 'Clip':
        return 'Clip', {0: _bound(walk, node, 1, 'min', -math.inf), 1: _bound(walk, node, 2, 'max', math.inf)}
    if node.op == 'Gelu':
        return 'GELU', {0: int(node.text('approximate', 'none') == 'tanh')}
    if node.op in ('HardSigmoid', 'HardSwish'):
        default = 0.2 if node.op == 'HardSigmoid' else 1 / 6
        return node.op, {0: node.number('alpha', default), 1: node.number('beta', 0.5)}
    slope = {'LeakyRelu': node.number('alpha', 0.01), 'Relu': 0.0}
    return ('ReLU', {0: slope[node.op]}) if node.op in slope else (node.op, {})


def _bound(walk: Walk, node: Node, place: int, attribute: str, default: float) -> float:
    """A limit of Clip: an input since opset 11, an attribute before."""
    if len(node.inputs) > place and node.inputs[place]:
        value = float(walk.constant(node.inputs[place], 'a limit of Clip'))
    else:
        value = node.number(attribute, default)
    return min(max(value, -3.4e38), 3.4e38)


def binary(walk: Walk, node: Node) -> None:
    first, second = node.inputs
    for gate, other in ((second, first), (first, second)):
        if node.op == 'Mul' and walk.sigmoid_of.get(gate) == other:
            source = walk.values[other]
            walk.values[node.outputs[0]] = walk.emit('Swish', [source], source.shape, {})
            return
    scalar_left, scalar_right = (walk.is_constant(n) and walk.graph.constants[n].size == 1 for n in node.inputs)
    if scalar_left or scalar_right:
        source = walk.blob(second if scalar_left else first, 4)
        kind = (_SWAPPED if scalar_left else _BINARY)[node.op]
        value = float(walk.graph.constants[first if scalar_left else second].reshape(-1)[0])
        walk.values[node.outputs[0]] = walk.emit('BinaryOp', [source], source.shape, {0: kind, 1: 1, 2: value})
        return
    ranks = [len(walk.values[n].shape) + 1 for n in node.inputs if n in walk.values]
    if not ranks:
        raise EngineError(f'ncnn: {node.op} of two constants; simplify the network (onnxslim)')
    blobs = [walk.blob(name, max(ranks)) for name in node.inputs]
    shapes = [blob.shape for blob in blobs]
    if len(shapes[0]) != len(shapes[1]):
        raise EngineError(f'ncnn: {node.op} of values with {len(shapes[0])} and {len(shapes[1])} axes')
    shape = np.broadcast_shapes(*shapes)
    walk.values[node.outputs[0]] = walk.emit('BinaryOp', blobs, shape, {0: _BINARY[node.op]})


def softmax(walk: Walk, node: Node) -> None:
    source = walk.blob(node.inputs[0], 0)
    axis = walk.axis(int(node.number('axis', -1)), source.shape)
    walk.values[node.outputs[0]] = walk.emit('Softmax', [source], source.shape, {0: axis, 1: 1})


def reduce(walk: Walk, node: Node) -> None:
    source = walk.blob(node.inputs[0], 0)
    given = walk.constant(node.inputs[1], 'an axis').tolist() if len(node.inputs) > 1 else node.ints('axes', ())
    axes = sorted(walk.axis(axis, source.shape) for axis in given)
    keep = int(node.number('keepdims', 1))
    shape = tuple(1 if a in axes else n for a, n in enumerate(source.shape) if keep or a not in axes)
    if not axes or not shape:
        raise EngineError(f'ncnn: {node.op} over everything is not translated')
    params: Params = {0: _REDUCTION[node.op], 1: 0, 3: axes, 4: keep, 5: 1}
    walk.values[node.outputs[0]] = walk.emit('Reduction', [source], shape, params)


TRANSLATIONS: Mapping[str, Translation] = {
    'Sigmoid': sigmoid,
    **dict.fromkeys(_UNARY, activation),
    **dict.fromkeys(
        ('Relu', 'LeakyRelu', 'Clip', 'Gelu', 'HardSigmoid', 'HardSwish', 'Mish', 'Softplus', 'Erf'), activation
    ),
    **dict.fromkeys(_BINARY, binary),
    'Softmax': softmax,
    **dict.fromkeys(_REDUCTION, reduce),
}
