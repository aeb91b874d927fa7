"""Networks as other exporters write them, small enough to quantize whole in a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, CELL = 64, 8
CELLS = (SIDE // CELL) ** 2
LAMPS = 3
"""In a picture."""


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    tensors: dict[str, np.ndarray],
    outputs: dict[str, tuple[int, ...]],
    *,
    image: tuple[int | str, ...] = (1, 3, SIDE, SIDE),
    opset: int = 17,
    weights_as_inputs: bool = False,
) -> Path:
    """Write a network; `weights_as_inputs` as exporters before 2020 did."""
    inputs = [helper.make_tensor_value_info('images', TensorProto.FLOAT, image)]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    if weights_as_inputs:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in initializers]
    written = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(list(nodes), 'small', inputs, written, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)], ir_version=7), path)
    return path


def depthwise_lamps(path: Path, act: str = 'Relu', spread: float = 1.0) -> Path:
    """Finds bright cells of an 8 × 8 grid: a convolution, a depthwise one, two more; layout `yolo` of one class.

    Args:
        act: activation function behind the depthwise convolution's source: `Relu` or `SiLU`.
        spread: the channels that the depthwise convolution reads differ by this factor from one to the next.
    """
    rng = np.random.default_rng(0)
    factors = spread ** np.arange(6)
    first = rng.uniform(0.5, 1.5, (6, 3, CELL, CELL)) / (3 * CELL * CELL)
    tensors = {
        'w0': 0.2 * first * factors[:, None, None, None],
        'w1': (1 / factors)[:, None, None, None] * rng.uniform(0.5, 1.5, (6, 1, 1, 1)),
        'w2': rng.uniform(0.5, 1.5, (4, 6, 1, 1)) / 6,
        'w3': rng.uniform(0.8, 1.2, (1, 4, 1, 1)),
        'b3': np.array([-8.0]),
    }
    rows, columns = np.mgrid[:SIDE:CELL, :SIDE:CELL]
    side = np.full(CELLS, CELL)
    boxes = np.stack([columns.ravel() + CELL / 2, rows.ravel() + CELL / 2, side, side])[None]
    weights = {name: value.astype(np.float32) for name, value in (tensors | {'boxes': boxes}).items()}
    gate = [helper.make_node('Sigmoid', ['c0'], ['s0'], 's0'), helper.make_node('Mul', ['c0', 's0'], ['a0'], 'a0')]
    nodes = [
        helper.make_node('Conv', ['images', 'w0'], ['c0'], 'c0', strides=[CELL, CELL]),
        *(gate if act == 'SiLU' else [helper.make_node(act, ['c0'], ['a0'], 'a0')]),
        helper.make_node('Conv', ['a0', 'w1'], ['c1'], 'c1', group=6),
        helper.make_node('Relu', ['c1'], ['a1'], 'a1'),
        helper.make_node('Conv', ['a1', 'w2'], ['c2'], 'c2'),
        helper.make_node('Relu', ['c2'], ['a2'], 'a2'),
        helper.make_node('Conv', ['a2', 'w3', 'b3'], ['c3'], 'c3'),
        helper.make_node('Sigmoid', ['c3'], ['map'], 'map'),
        helper.make_node('Reshape', ['map', 'row'], ['scores'], 'scores'),
        helper.make_node('Concat', ['boxes', 'scores'], ['output0'], 'output0', axis=1),
    ]
    shapes = {'row': np.array([1, 1, CELLS], np.int64)}
    return save(path, nodes, weights | shapes, {'output0': (1, 5, CELLS)})


def picture_of_lamps(seed: int) -> tuple[np.ndarray, list[list[int]]]:
    """A dark picture and the boxes of its bright cells, for `depthwise_lamps`."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
    corners = CELL * np.stack(np.divmod(rng.choice((SIDE // CELL) ** 2, LAMPS, replace=False), SIDE // CELL), 1)
    for row, column in corners:
        image[row : row + CELL, column : column + CELL] = 230
    return image, [[column, row, column + CELL, row + CELL] for row, column in corners]


def node(kind: str, inputs: Sequence[str], output: str, **attributes) -> onnx.NodeProto:
    """A node named as what it writes."""
    return helper.make_node(kind, inputs, [output], output, **attributes)


def conv(number: int, source: str, **attributes) -> onnx.NodeProto:
    """A convolution with the weights `w<number>` that writes `c<number>`."""
    return node('Conv', [source, f'w{number}'], f'c{number}', **attributes)


def chain(path: Path, side: int, layers: int = 16, channels: int = 8) -> Path:
    """One convolution with ReLU behind the other; c0 … reads what the one before it writes."""
    rng = np.random.default_rng(0)
    tensors, nodes, last = {}, [], 'images'
    for number in range(layers):
        read = 3 if number == 0 else channels
        spread = np.sqrt(2 / read)  # what is written is as large as what is read (He et al. 2015)
        tensors[f'w{number}'] = rng.normal(0, spread, (channels, read, 1, 1)).astype(np.float32)
        nodes += [conv(number, last), node('Relu', [f'c{number}'], f'a{number}')]
        last = f'a{number}'
    return save(path, nodes, tensors, {last: (1, channels, side, side)}, image=(1, 3, side, side))


def shortcuts(path: Path, side: int, spread: float = 1.0) -> Path:
    """As C2f and SPPF do: halves, a shortcut, a concatenation, a pooling; SiLU behind the channels that are unlike."""
    rng = np.random.default_rng(0)
    shapes = {0: (6, 3), 1: (6, 6), 2: (3, 3), 3: (5, 9), 4: (4, 5), 5: (2, 4)}
    tensors = {f'w{n}': rng.normal(0, 0.4, (*shape, 1, 1)).astype(np.float32) for n, shape in shapes.items()}
    factors = (spread ** np.arange(6)).astype(np.float32)
    tensors['w0'] *= factors[:, None, None, None]
    tensors['w1'] /= factors[None, :, None, None]
    tensors |= {name: np.array([value], np.int64) for name, value in (('zero', 0), ('half', 3), ('all', 6), ('one', 1))}
    nodes = [
        conv(0, 'images'),
        node('Sigmoid', ['c0'], 's0'),
        node('Mul', ['c0', 's0'], 'a0'),
        conv(1, 'a0'),
        node('Relu', ['c1'], 'a1'),
        node('Slice', ['a1', 'zero', 'half', 'one'], 'first'),
        node('Slice', ['a1', 'half', 'all', 'one'], 'second'),
        conv(2, 'second'),
        node('Relu', ['c2'], 'a2'),
        node('Add', ['second', 'a2'], 'sum'),
        node('Concat', ['first', 'second', 'sum'], 'joined', axis=1),
        conv(3, 'joined'),
        node('Relu', ['c3'], 'a3'),
        node('MaxPool', ['a3'], 'pooled', kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        conv(4, 'pooled'),
        node('Relu', ['c4'], 'a4'),
        conv(5, 'a4'),
    ]
    return save(path, nodes, tensors, {'c5': (1, 2, side, side)}, image=(1, 3, side, side))
