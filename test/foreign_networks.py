"""Networks as others export them, each answering the same whatever it is shown: one car, in a form of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]

SIDE = 320
"""Of the networks' input."""
CORNERS = (80.0, 140.0, 200.0, 200.0)
CENTERED = (140.0, 170.0, 120.0, 60.0)
"""The car in the input, as corners and as center and size."""
NAMES = {0: 'car', 1: 'bus'}


def constant_network(
    outputs: dict[str, Array],
    *,
    image: tuple[int | str, ...] = (1, 3, SIDE, SIDE),
    kind: int = TensorProto.FLOAT,
    half: bool = False,
    sizes: dict[str, tuple[int, tuple[int, ...]]] | None = None,
    **metadata: object,
) -> onnx.ModelProto:
    """A network of constant outputs.

    Args:
        outputs: name → value.
        image: shape of the input.
        kind: its type.
        half: outputs in half precision.
        sizes: further inputs: name → type and shape; they must be there and change nothing.
        metadata: as exporters leave it.
    """
    nodes = [
        helper.make_node('Cast', ['images'], ['pixels'], to=TensorProto.FLOAT),
        helper.make_node('ReduceMean', ['pixels'], ['mean'], keepdims=0),
        helper.make_node('Mul', ['mean', 'nothing'], ['zero']),
    ]
    inputs = [helper.make_tensor_value_info('images', kind, image)]
    for name, (number, shape) in (sizes or {}).items():
        inputs.append(helper.make_tensor_value_info(name, number, shape))
        nodes.append(helper.make_node('Cast', [name], [f'{name}_float'], to=TensorProto.FLOAT))
        nodes.append(helper.make_node('ReduceMax', [f'{name}_float'], [f'{name}_max'], keepdims=0))
    weights = {'nothing': np.float32(0)}
    ports = []
    for name, value in outputs.items():
        whole = np.issubdtype(np.asarray(value).dtype, np.integer)
        dtype = TensorProto.INT64 if whole else TensorProto.FLOAT16 if half else TensorProto.FLOAT
        weights[f'{name}_is'] = np.asarray(value, np.float32)
        nodes.append(helper.make_node('Add', [f'{name}_is', 'zero'], [f'{name}_float']))
        nodes.append(helper.make_node('Cast', [f'{name}_float'], [name], to=dtype))
        ports.append(helper.make_tensor_value_info(name, dtype, np.shape(value)))
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, 'network', inputs, ports, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=9)
    helper.set_model_props(model, {'names': str(NAMES)} | {name: str(value) for name, value in metadata.items()})
    onnx.checker.check_model(model)
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write a network."""
    onnx.save(model, path)
    return path


def cells(strides: tuple[int, ...] = (8, 16, 32)) -> list[tuple[int, int, int]]:
    """Stride, column and row of every cell, level by level."""
    return [(stride, x, y) for stride in strides for y in range(-(-SIDE // stride)) for x in range(-(-SIDE // stride))]


def noise(count: int, columns: int, seed: int = 0) -> Array:
    """Candidates that no threshold lets pass: centers and sizes all over the picture, tiny scores."""
    draw = np.random.default_rng(seed)
    table = np.empty((count, columns), np.float32)
    table[:, :2] = draw.uniform(20, SIDE - 20, (count, 2))
    table[:, 2:4] = draw.uniform(4, 40, (count, 2))
    table[:, 4:] = draw.uniform(0, 0.02, (count, columns - 4))
    return table


def as_corners(table: Array) -> Array:
    """Center and size → corners, in the first four columns."""
    corners = table.copy()
    corners[:, :2], corners[:, 2:4] = table[:, :2] - table[:, 2:4] / 2, table[:, :2] + table[:, 2:4] / 2
    return corners


def candidates(*scores: float, count: int = 2100) -> Array:
    """(count, 4 + scores): noise, and the car as candidate 100."""
    table = noise(count, 4 + len(scores))
    table[100] = [*CENTERED, *scores]
    return table


def yolox_raw() -> Array:
    """(1, N, 7): the car in one cell, as YOLOX leaves it."""
    places = cells()
    draw = np.random.default_rng(0)
    table = draw.normal(0, 0.6, (len(places), 7)).astype(np.float32)
    table[:, 4:] = draw.uniform(0, 0.02, (len(places), 3))
    number = places.index((16, 8, 10))
    x, y, width, height = CENTERED
    table[number] = [x / 16 - 8, y / 16 - 10, np.log(width / 16), np.log(height / 16), 0.95, 0.97, 0.01]
    return table[None]


def nanodet(strides: tuple[int, ...], middle: float, bins: int = 8) -> tuple[Array, Array]:
    """Scores (N, 2) and sides (N, 4 · bins) of all cells: the car in one of stride 32, or 16."""
    places = cells(strides)
    draw = np.random.default_rng(0)
    scores = draw.uniform(0, 0.02, (len(places), 2)).astype(np.float32)
    sides = draw.normal(0, 0.5, (len(places), 4, bins)).astype(np.float32)
    number = places.index((32, 4, 5))
    center = np.array([4, 5]) * 32 + 32 * middle
    distances = np.array([*(center - CORNERS[:2]), *(CORNERS[2:] - center)]) / 32
    for side, distance in enumerate(distances):
        low = int(distance)
        share = distance - low
        sides[number, side] = -30
        sides[number, side, low] = np.log(max(1 - share, 1e-9))
        sides[number, side, low + 1] = np.log(max(share, 1e-9))
    scores[number] = [0.92, 0.01]
    return scores, sides.reshape(len(places), -1)


def fastestdet() -> Array:
    """(1, 7, 20, 20): the car in one cell."""
    side = SIDE // 16
    draw = np.random.default_rng(0)
    maps = draw.normal(0, 0.3, (7, side, side)).astype(np.float32)
    maps[0], maps[5] = draw.uniform(0, 0.01, (side, side)), draw.uniform(0.2, 0.8, (side, side))
    x, y, width, height = CENTERED
    maps[1:5, 10, 8] = [np.arctanh(x / 16 - 8), np.arctanh(y / 16 - 10), _logit(width / SIDE), _logit(height / SIDE)]
    maps[0, 10, 8], maps[5, 10, 8] = 0.95, 0.97
    maps[6] = 1 - maps[5]
    return maps[None]


def _logit(value: float) -> float:
    return float(np.log(value / (1 - value)))


def logits(table: Array, first: int = 4) -> Array:
    """Probabilities from a column on → logits."""
    open_table = table.copy()
    values = np.clip(table[:, first:], 1e-4, 1 - 1e-4)
    open_table[:, first:] = np.log(values / (1 - values))
    return open_table
