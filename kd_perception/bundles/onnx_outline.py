"""What an ONNX file says of itself, whatever its operations are: inputs, outputs, metadata, types of its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from kd_perception.bundles.onnx_graph import DTYPES
from kd_perception.bundles.onnx_wire import Fields, read_fields, signed, text, varints
from kd_perception.errors import EngineError

FLOAT16 = 10
_QUANTIZED = ('QuantizeLinear', 'DequantizeLinear', 'QLinearConv', 'ConvInteger')
_MANY = 16
"""Weights of fewer values are constants of some arithmetic, and say nothing of the network's precision."""


@dataclass(frozen=True)
class Port:
    """An input or output of the graph.

    Attributes:
        name: of the tensor.
        kind: TensorProto.DataType.
        shape: sizes; None where the file leaves one open.
    """

    name: str
    kind: int
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        dtype = DTYPES[self.kind].name if self.kind in DTYPES else f'type {self.kind}'
        return f'{self.name} {dtype} ({", ".join("?" if size is None else str(size) for size in self.shape)})'


@dataclass(frozen=True)
class Outline:
    """An ONNX file without its operations' meaning.

    Attributes:
        inputs, outputs: of the graph; weights that old exporters list among the inputs are left out.
        metadata: what exporters write beside the graph.
        opset: of the standard operations.
        operations: how often each occurs, those of other domains as `domain.name`.
        precision: `fp32`, `fp16` or `int8`, by the weights and operations.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: Mapping[str, str]
    opset: int
    operations: Mapping[str, int]
    precision: str


def read_outline(content: bytes, file: str) -> Outline:
    """Read it; the file has passed `check_integrity`.

    Raises:
        EngineError: it is damaged.
    """
    try:
        model = read_fields(memoryview(content))
        graph = read_fields(model[7][0])
        operations = Counter(_operation(read_fields(entry)) for entry in graph.get(1, ()))
        weights = [read_fields(entry) for entry in graph.get(5, ())]
        constant = {text(weight, 8) for weight in weights}
        opsets = [read_fields(entry) for entry in model.get(8, ())]
        entries = [read_fields(entry) for entry in model.get(14, ())]
        return Outline(
            inputs=tuple(port for port in map(_port, graph.get(11, ())) if port.name not in constant),
            outputs=tuple(map(_port, graph.get(12, ()))),
            metadata={text(entry, 1): text(entry, 2) for entry in entries},
            opset=max((int(o[2][0]) for o in opsets if text(o, 1) in ('', 'ai.onnx')), default=0),
            operations=operations,
            precision=_precision(operations, weights),
        )
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f'cannot load {file}: it is not an ONNX network, or damaged') from error


def _operation(node: Fields) -> str:
    domain = text(node, 7)
    return text(node, 4) if domain in ('', 'ai.onnx') else f'{domain}.{text(node, 4)}'


def _port(value: memoryview) -> Port:
    fields = read_fields(value)
    kinds = read_fields(fields[2][0])
    if 1 not in kinds:
        return Port(text(fields, 1), 0, ())
    described = read_fields(kinds[1][0])
    dims = [read_fields(dim) for dim in read_fields(described[2][0]).get(1, ())] if 2 in described else []
    sizes = tuple(signed(dim[1][0]) if 1 in dim else None for dim in dims)
    return Port(text(fields, 1), int(described[1][0]), tuple(s if s is None or s > 0 else None for s in sizes))


def _precision(operations: Mapping[str, int], weights: list[Fields]) -> str:
    if any(operation in operations for operation in _QUANTIZED):
        return 'int8'
    kinds: Counter[int] = Counter()
    for weight in weights:
        size = 1
        for dim in varints(weight.get(1, ())):
            size *= dim
        if size >= _MANY:
            kinds[int(weight[2][0])] += size
    return 'fp16' if kinds[FLOAT16] > kinds[1] else 'fp32'
