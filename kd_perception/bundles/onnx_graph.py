"""Reads ONNX files without the library `onnx`: the robot has none, and three engines need to know what the graph holds.

Only what detectors use is read. The file is untrusted: every length is checked, and weights in other files are refused.
The message numbers are those of onnx.proto3 (Apache-2.0, https://github.com/onnx/onnx).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_perception.bundles.bundle import Bundle
from kd_perception.bundles.onnx_wire import Fields, floats, read_fields, signed, text, varints
from kd_perception.errors import EngineError

Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | npt.NDArray[Any]

DTYPES: Mapping[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    3: np.dtype(np.int8),
    4: np.dtype(np.uint16),
    5: np.dtype(np.int16),
    6: np.dtype(np.int32),
    7: np.dtype(np.int64),
    9: np.dtype(np.bool_),
    10: np.dtype(np.float16),
    11: np.dtype(np.float64),
}
"""TensorProto.DataType → numpy."""

_EXTERNAL = 1
_MAX_NODES = 100_000


@dataclass(frozen=True)
class Node:
    """One operation."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]

    def ints(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """An attribute of whole numbers."""
        value = self.attributes.get(name, default)
        if not isinstance(value, tuple):
            raise EngineError(f'{self.op}: attribute {name} is not a list')
        return tuple(int(v) for v in value)

    def number(self, name: str, default: float) -> float:
        """An attribute that is one number."""
        value = self.attributes.get(name, default)
        if not isinstance(value, (int, float)):
            raise EngineError(f'{self.op}: attribute {name} is not a number')
        return value

    def text(self, name: str, default: str) -> str:
        """An attribute that is text."""
        return str(self.attributes.get(name, default))


@dataclass(frozen=True)
class Value:
    """An input or output of the graph. Sizes that the file leaves open are None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Graph:
    """Nodes in the order in which they run, and the weights by name."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, npt.NDArray[Any]]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    opset: int


def read_graph(content: bytes, file: str) -> Graph:
    """Read an ONNX file.

    Args:
        content: the file.
        file: its name, for messages.

    Raises:
        EngineError: not an ONNX file, damaged, or with something that detectors do not have: weights in other files, subgraphs,
            operations of other domains.
    """
    try:
        return _graph(read_fields(memoryview(content)))
    except EngineError as error:
        raise EngineError(f'cannot load {file}: {error}') from error
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeDecodeError, AttributeError) as error:
        raise EngineError(f'cannot load {file}: it is not an ONNX network, or damaged') from error


def check_input(graph: Graph, bundle: Bundle) -> None:
    """The graph must take exactly one image of the size and type that the bundle states; sizes that it leaves open fit.

    Raises:
        EngineError: it takes something else.
    """
    if len(graph.inputs) != 1:
        raise EngineError(f'the network of {bundle.name} has {len(graph.inputs)} inputs; one image is expected')
    value, stated = graph.inputs[0], bundle.input.shape
    fits = len(value.shape) == len(stated) and all(
        size in (None, wanted) for size, wanted in zip(value.shape, stated, strict=True)
    )
    if not fits or value.dtype != np.dtype(bundle.input.dtype):
        raise EngineError(
            f'the network takes {value.dtype} {list(value.shape)}, but bundle.yaml of {bundle.name} states '
            f'{bundle.input.dtype} {list(stated)}; correct its input section'
        )


def _graph(model: Fields) -> Graph:
    (data,) = model[7]
    fields = read_fields(data)
    if len(fields.get(1, ())) > _MAX_NODES:
        raise EngineError(f'more than {_MAX_NODES} operations')
    constants = dict(_tensor(read_fields(entry)) for entry in fields.get(5, ()))
    nodes = []
    for entry in fields.get(1, ()):
        node = _node(read_fields(entry))
        if node.op == 'Constant':
            constants[node.outputs[0]] = _constant(node)
        else:
            nodes.append(node)
    inputs = tuple(_value(read_fields(entry)) for entry in fields.get(11, ()))
    opsets = [read_fields(entry) for entry in model.get(8, ())]
    return Graph(
        nodes=tuple(nodes),
        constants=constants,
        inputs=tuple(value for value in inputs if value.name not in constants),
        outputs=tuple(_value(read_fields(entry)) for entry in fields.get(12, ())),
        opset=max((int(o[2][0]) for o in opsets if text(o, 1) in ('', 'ai.onnx')), default=0),
    )


def _node(fields: Fields) -> Node:
    op, domain = text(fields, 4), text(fields, 7)
    if domain not in ('', 'ai.onnx'):
        raise EngineError(f'operation {domain}.{op} is not of the ONNX standard')
    attributes = dict(_attribute(read_fields(entry), op) for entry in fields.get(5, ()))
    inputs = tuple(str(name, 'utf-8') for name in fields.get(1, ()))
    return Node(op, inputs, tuple(str(name, 'utf-8') for name in fields.get(2, ())), attributes)


def _attribute(fields: Fields, op: str) -> tuple[str, Attribute]:
    name, kind = text(fields, 1), fields[20][0]
    if kind == 1:
        return name, float(np.frombuffer(fields.get(2, [bytes(4)])[0], '<f4')[0])
    if kind == 2:
        return name, signed(fields.get(3, [0])[0])
    if kind == 3:
        return name, text(fields, 4)
    if kind == 4:
        return name, _tensor(read_fields(fields[5][0]))[1]
    if kind == 6:
        return name, tuple(float(v) for v in floats(fields.get(7, ()), '<f4'))
    if kind == 7:
        return name, tuple(varints(fields.get(8, ())))
    raise EngineError(f'{op}: attribute {name} is of a kind that detectors do not have (subgraph, text list)')


def _constant(node: Node) -> npt.NDArray[Any]:
    for name, value in node.attributes.items():
        if name == 'value' and isinstance(value, np.ndarray):
            return value
        if name in ('value_float', 'value_floats'):
            return np.asarray(value, np.float32)
        if name in ('value_int', 'value_ints'):
            return np.asarray(value, np.int64)
    raise EngineError('Constant without a value that can be read')


def _tensor(fields: Fields) -> tuple[str, npt.NDArray[Any]]:
    name = text(fields, 8)
    if fields.get(14, [0])[0] == _EXTERNAL or 13 in fields:
        raise EngineError(f'its weights {name} are in another file; save the network as one file')
    kind = fields[2][0]
    if kind not in DTYPES:
        raise EngineError(f'tensor {name} has the data type {kind}, which detectors do not have')
    dtype, shape = DTYPES[kind], tuple(varints(fields.get(1, ())))
    if 9 in fields:
        flat = np.frombuffer(fields[9][0], dtype.newbyteorder('<')).astype(dtype)
    elif kind == 1:
        flat = floats(fields.get(4, ()), '<f4')
    elif kind == 11:
        flat = floats(fields.get(10, ()), '<f8')
    elif kind == 10:
        flat = np.array(list(varints(fields.get(5, ()))), np.uint16).view(np.float16)
    else:
        flat = np.array(list(varints(fields.get(7 if kind == 7 else 5, ()))), dtype)
    return name, flat.reshape(shape)


def _value(fields: Fields) -> Value:
    tensor = read_fields(read_fields(fields[2][0])[1][0])
    dims = [read_fields(dim) for dim in read_fields(tensor[2][0]).get(1, ())] if 2 in tensor else []
    shape = tuple(signed(dim[1][0]) if 1 in dim else None for dim in dims)
    return Value(text(fields, 1), DTYPES[tensor[1][0]], shape)
