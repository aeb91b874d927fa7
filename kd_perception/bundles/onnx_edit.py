"""Adds operations to an ONNX file, without the library `onnx`: what stands in the file stays, byte by byte.

Operations of the standard only, in forms that are the same in every opset from 9 on, unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kd_perception.bundles.onnx_graph import DTYPES, read_graph
from kd_perception.bundles.onnx_outline import Port
from kd_perception.bundles.onnx_wire import field, pieces, read_fields, text, varint
from kd_perception.errors import EngineError

Values = int | float | str | Sequence[int]
"""What an attribute can be here."""

FLOAT, FLOAT16 = 1, 10
"""TensorProto.DataType, as `Cast` wants it."""
_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
_GRAPH = 7
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _VALUE_INFO = 1, 5, 11, 12, 13
_ATTRIBUTE, _SUBGRAPH, _SUBGRAPHS = 5, 6, 11
_OURS = 'kd_perception/'
_MOST_GROWTH = 8
"""From float16 to float64 it is 4."""
_IR_VERSION = 7
"""The version of the format that came with opset 13."""


@dataclass(frozen=True)
class _Operation:
    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Values]


class GraphEditor:
    """One file under change; `finish` gives the new one.

    Args:
        content: an ONNX file that `check_integrity` has passed.
        opset: of the standard operations.
    """

    def __init__(self, content: bytes, opset: int) -> None:
        self.opset = opset
        self._content = content
        self._first: list[_Operation] = []
        self._last: list[_Operation] = []
        self._constants: list[bytes] = []
        self._inputs: list[bytes] = []
        self._gone: set[str] = set()
        self._renamed: dict[str, str] = {}
        self._count = 0

    def add(self, operation: str, inputs: Sequence[str], **attributes: Values) -> str:
        """One operation behind all others; returns the name of its output."""
        output = self._name(operation)
        self._last.append(_Operation(operation, tuple(inputs), output, attributes))
        return output

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """A weight; returns its name."""
        name = self._name('constant')
        self._constants.append(field(_INITIALIZER, tensor(name, np.asarray(value, dtype))))
        return name

    def columns(self, value: str, start: int, end: int, axis: int = 2) -> str:
        """Columns `start` to before `end` of a tensor."""
        if self.opset < 10:
            return self.add('Slice', [value], starts=[start], ends=[end], axes=[axis])
        places = [self.constant([place], np.int64) for place in (start, end, axis)]
        return self.add('Slice', [value, *places])

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """A tensor in another shape; -1 and 0 as in ONNX."""
        return self.add('Reshape', [value, self.constant(shape, np.int64)])

    def replace_input(self, old: Port, dtype: npt.DTypeLike) -> None:
        """In place of an input stands one of another type of number, which is cast."""
        name = self._name('input')
        self._gone.add(old.name)
        self._inputs.append(field(_INPUT, value_info(name, np.dtype(dtype), old.shape)))
        self._first.append(_Operation('Cast', (name,), old.name, {'to': old.kind}))

    def fix_input(self, name: str, value: npt.NDArray[np.generic]) -> None:
        """An input becomes a constant."""
        self._gone.add(name)
        self._constants.append(field(_INITIALIZER, tensor(name, value)))

    def finish(self, outputs: Mapping[str, tuple[str, Sequence[int | None]]] | None = None) -> bytes:
        """The new file.

        Args:
            outputs: name of each output → the tensor that it gives (float32), and its shape; None keeps the file's own.

        Raises:
            EngineError: the file cannot be changed.
        """
        wanted = outputs or {}
        taken = self._names_in_file()
        self._renamed = {name: _OURS + name for name in wanted if name in taken}
        return b''.join(
            field(_GRAPH, self._graph(value, wanted)) if number == _GRAPH else bytes(raw)
            for number, value, raw in pieces(memoryview(self._content))
        )

    def _graph(self, graph: memoryview, outputs: Mapping[str, tuple[str, Sequence[int | None]]]) -> bytes:
        parts = [self._encoded(operation) for operation in self._first]
        for number, value, raw in pieces(graph):
            gone = number == _INPUT and text(read_fields(value), 1) in self._gone
            if not gone and not (outputs and number == _OUTPUT):
                parts.append(self._with_new_names(number, value) if self._renamed else bytes(raw))
        parts += [*self._constants, *self._inputs, *(self._encoded(operation) for operation in self._last)]
        for name, (value, shape) in outputs.items():
            parts.append(field(_NODE, node('Identity', [self._renamed.get(value, value)], name, {})))
            parts.append(field(_OUTPUT, value_info(name, np.dtype(np.float32), shape)))
        return b''.join(parts)

    def _encoded(self, operation: _Operation) -> bytes:
        inputs = [self._renamed.get(name, name) for name in operation.inputs]
        output = self._renamed.get(operation.output, operation.output)
        return field(_NODE, node(operation.kind, inputs, output, operation.attributes))

    def _with_new_names(self, number: int, value: int | memoryview) -> bytes:
        """A field of a graph in which tensors carry their new names."""
        places = {_NODE: (1, 2), _INITIALIZER: (8,), _INPUT: (1,), _OUTPUT: (1,), _VALUE_INFO: (1,)}.get(number)
        if places is None or isinstance(value, int):
            return field(number, value)
        parts = []
        for inner, content, raw in pieces(value):
            if inner in places and str(content, 'utf-8') in self._renamed:
                parts.append(field(inner, self._renamed[str(content, 'utf-8')]))
            elif number == _NODE and inner == _ATTRIBUTE:
                parts.append(field(inner, self._attribute(content)))
            else:
                parts.append(bytes(raw))
        return field(number, b''.join(parts))

    def _attribute(self, attribute: memoryview) -> bytes:
        parts = []
        for number, value, raw in pieces(attribute):
            if number in (_SUBGRAPH, _SUBGRAPHS) and not isinstance(value, int):
                inner = b''.join(self._with_new_names(*piece[:2]) for piece in pieces(value))
                parts.append(field(number, inner))
            else:
                parts.append(bytes(raw))
        return b''.join(parts)

    def _names_in_file(self) -> set[str]:
        """Of all tensors that operations give, inputs and weights."""
        (graph,) = read_fields(memoryview(self._content))[_GRAPH]
        fields = read_fields(graph)
        names = {text(read_fields(entry), 1) for entry in fields.get(_INPUT, ())} - self._gone
        names |= {text(read_fields(entry), 8) for entry in fields.get(_INITIALIZER, ())}
        for entry in fields.get(_NODE, ()):
            names |= {str(name, 'utf-8') for name in read_fields(entry).get(2, ())}
        return names

    def _name(self, kind: str) -> str:
        self._count += 1
        return f'{_OURS}{kind}_{self._count}'


def node(operation: str, inputs: Sequence[str], output: str, attributes: Mapping[str, Values]) -> bytes:
    """A NodeProto of one output."""
    parts = [*(field(1, name) for name in inputs), field(2, output), field(3, output), field(4, operation)]
    return b''.join([*parts, *(field(5, _encoded(name, value)) for name, value in attributes.items())])


def _encoded(name: str, value: Values) -> bytes:
    """An AttributeProto."""
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, 2)
    if isinstance(value, float):
        return field(1, name) + field(2, value) + field(20, 1)
    if isinstance(value, str):
        return field(1, name) + field(4, value) + field(20, 3)
    return field(1, name) + field(8, b''.join(varint(v) for v in value)) + field(20, 7)


def tensor(name: str, value: npt.NDArray[np.generic]) -> bytes:
    """A TensorProto."""
    if value.dtype not in _NUMBERS:
        raise EngineError(f'{value.dtype} is no type of an ONNX tensor')
    raw = np.ascontiguousarray(value, value.dtype.newbyteorder('<')).tobytes()
    dims = b''.join(field(1, size) for size in value.shape)
    return dims + field(2, _NUMBERS[value.dtype]) + field(8, name) + field(9, raw)


def value_info(name: str, dtype: np.dtype[np.generic], shape: Sequence[int | None]) -> bytes:
    """A ValueInfoProto; sizes that are open are None."""
    sizes = b''.join(field(1, field(1, size) if size is not None else b'') for size in shape)
    return field(1, name) + field(2, field(1, field(1, _NUMBERS[dtype]) + field(2, sizes)))


def with_cast_weights(content: bytes, file: str) -> bytes:
    """The file in which weights that a Cast brings to another type have it from the start: ncnn and TensorRT take weights only.

    Args:
        content: an ONNX file that `check_integrity` has passed.
        file: its name, for messages.

    Raises:
        EngineError: see `read_graph`; or many casts of one weight.
    """
    graph = read_graph(content, file)
    kinds = {
        node.outputs[0]: (graph.constants[node.inputs[0]], DTYPES[int(node.number('to', 0))])
        for node in graph.nodes
        if node.op == 'Cast'
        and node.outputs
        and len(node.inputs) == 1
        and node.inputs[0] in graph.constants
        and node.attributes.get('to') in DTYPES
    }
    if not kinds:
        return content
    if sum(value.size * kind.itemsize for value, kind in kinds.values()) > _MOST_GROWTH * len(content):
        raise EngineError(f'cannot load {file}: its weights grow to many times the size of the file')
    values = {name: value.astype(kind) for name, (value, kind) in kinds.items()}
    return b''.join(
        field(_GRAPH, _with_weights(value, values)) if number == _GRAPH else bytes(raw)
        for number, value, raw in pieces(memoryview(content))
    )


def _with_weights(graph: memoryview, values: Mapping[str, npt.NDArray[np.generic]]) -> bytes:
    """A graph with weights in place of the operations that gave them."""
    parts = [field(_INITIALIZER, tensor(name, value)) for name, value in values.items()]
    for number, value, raw in pieces(graph):
        if number != _NODE or not values.keys() & {str(name, 'utf-8') for name in read_fields(value).get(2, ())}:
            parts.append(bytes(raw))
    return b''.join(parts)


def new_file(image: str, shape: Sequence[int], opset: int, **metadata: str) -> bytes:
    """An ONNX file with an input of float32 and no operations, to be filled by a `GraphEditor`."""
    graph = field(2, 'network') + field(_INPUT, value_info(image, np.dtype(np.float32), shape))
    entries = b''.join(field(14, field(1, key) + field(2, value)) for key, value in metadata.items())
    return field(1, _IR_VERSION) + field(_GRAPH, graph) + field(8, field(2, opset)) + entries
