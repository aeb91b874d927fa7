"""Activation functions that exporters write as several nodes: SiLU, hard swish and GELU, each seen as one operator.

Rounded between its nodes such a function loses more than its whole does, and a range that is right for what it reads is not
the one that is best for what it writes: below −8 SiLU is 0 whatever it reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from training.quantize.network import readers

Function = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Activation:
    """One activation function in a graph.

    Attributes:
        kind: `SiLU`, `HardSwish` or `GELU`.
        reads: the tensor that it reads.
        writes: the one that it writes.
        nodes: names of its nodes.
    """

    kind: str
    reads: str
    writes: str
    nodes: tuple[str, ...]

    @property
    def function(self) -> Function:
        """What it computes, element by element."""
        return FUNCTIONS[self.kind]


def silu(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """x · sigmoid(x)."""
    result: npt.NDArray[np.float64] = value / (1 + np.exp(-np.clip(value, -60, 60)))
    return result


def hard_swish(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """x · min(max(x / 6 + 1/2, 0), 1)."""
    result: npt.NDArray[np.float64] = value * np.clip(value / 6 + 0.5, 0, 1)
    return result


def gelu(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """x times the normal distribution's share below x."""
    return 0.5 * value * (1 + np.array([math.erf(number / math.sqrt(2)) for number in value]))


FUNCTIONS: dict[str, Function] = {'SiLU': silu, 'HardSwish': hard_swish, 'GELU': gelu}
_ONE_NODE = {'HardSwish': 'HardSwish', 'Gelu': 'GELU', 'Swish': 'SiLU'}
_GATES = {'Sigmoid': 'SiLU', 'HardSigmoid': 'HardSwish'}
_ERF = ('Div', 'Erf', 'Add', 'Mul', 'Mul')
_CLIP = ('Add', 'Clip', 'Mul', 'Div')


def activation_functions(graph: onnx.GraphProto) -> list[Activation]:
    """Those in a graph, in order."""
    reading = readers(graph)
    found = []
    for node in graph.node:
        if node.op_type in _ONE_NODE:
            found.append(Activation(_ONE_NODE[node.op_type], node.input[0], node.output[0], (node.name,)))
        elif node.op_type in _GATES:
            found += _gated(node, _GATES[node.op_type], reading)
        elif node.op_type in ('Div', 'Add'):
            found += _chained(node, reading)
    return found


def _gated(gate: onnx.NodeProto, kind: str, reading: dict[str, Any]) -> list[Activation]:
    """x → gate → times x."""
    return [
        Activation(kind, gate.input[0], node.output[0], (gate.name, node.name))
        for node in reading.get(gate.output[0], ())
        if node.op_type == 'Mul' and {*node.input} == {gate.input[0], gate.output[0]}
    ]


def _chained(first: onnx.NodeProto, reading: dict[str, Any]) -> list[Activation]:
    """GELU by the error function, and hard swish by a clip, as exporters before opset 14 and 20 write them."""
    kinds, kind = (_ERF, 'GELU') if first.op_type == 'Div' else (_CLIP, 'HardSwish')
    chain = [first]
    for wanted in kinds[1:]:
        after = [node for node in reading.get(chain[-1].output[0], ()) if node.op_type == wanted]
        if len(after) != 1:
            return []
        chain += after
    if not any(first.input[0] in node.input for node in chain[2:]):
        return []
    return [Activation(kind, first.input[0], chain[-1].output[0], tuple(node.name for node in chain))]
