"""Which parts of a network stay in float, whatever its nodes are named: its front, its tail, whole activation functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

COMPUTING = frozenset({'Conv', 'ConvTranspose', 'Gemm', 'MatMul'})
MOVING = frozenset({'Reshape', 'Transpose', 'Squeeze', 'Unsqueeze', 'Flatten', 'Identity'})
ACTIVATIONS = frozenset({'Clip', 'Gelu', 'HardSigmoid', 'HardSwish', 'LeakyRelu', 'Mul', 'PRelu', 'Relu', 'Sigmoid'})
"""Nodes of which activation functions consist: Mul closes SiLU."""
MISH = ('Neg', 'Sigmoid', 'Mul', 'Mul', 'Add', 'Div', 'Sub')
"""The nodes of Mish as `training.export.heads` writes it, each reading the one before."""


def tail(graph: onnx.GraphProto, with_convolutions: bool = True) -> list[str]:
    """Names of the nodes from the outputs back to the last convolution of each branch.

    Args:
        with_convolutions: whether those convolutions belong to the tail.
    """
    maker = {name: node for node in graph.node for name in node.output}
    waiting = [output.name for output in graph.output]
    seen: dict[str, None] = {}
    while waiting:
        node = maker.get(waiting.pop())
        if node is None or node.name in seen:
            continue
        if node.op_type in COMPUTING and not _weighs_distribution(node, maker):
            if with_convolutions:
                seen[node.name] = None
            continue
        seen[node.name] = None
        waiting += node.input
    return list(seen)


def _weighs_distribution(node: onnx.NodeProto, maker: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a product reads what a softmax wrote: the mean of a distribution over bins, also written as a convolution."""
    source = maker.get(node.input[0])
    while source is not None and source.op_type in MOVING:
        source = maker.get(source.input[0])
    return source is not None and source.op_type == 'Softmax'


def front(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes from the inputs up to and with the first convolution of each branch."""
    reached = {value.name for value in graph.input}
    seen = []
    for node in graph.node:  # in topological order, as ONNX demands
        if reached.isdisjoint(node.input):
            continue
        seen.append(node.name)
        if node.op_type not in COMPUTING:
            reached.update(node.output)
    return seen


def pools_first(graph: onnx.GraphProto) -> bool:
    """Whether a MaxPool reads what a convolution of the front computes, through its activation function at most, as in ResNet."""
    names = {*front(graph)}
    reached = {node.output[0] for node in graph.node if node.name in names and node.op_type in COMPUTING}
    for node in graph.node:
        if reached.isdisjoint(node.input):
            continue
        if node.op_type == 'MaxPool':
            return True
        if node.op_type in ACTIVATIONS:
            reached.update(node.output)
    return False


def products(graph: onnx.GraphProto) -> list[str]:
    """Names of the last products of branches that read what convolutions wrote: 1×1 convolutions over a list of cells.

    They are quantized though they end a branch: ONNX Runtime lets a Gemm, unlike a convolution, read INT8 and write float.
    """
    maker = {name: node for node in graph.node for name in node.output}
    last = {*tail(graph)} - {*tail(graph, with_convolutions=False)}
    return [
        node.name for node in graph.node if node.name in last and node.op_type == 'Gemm' and _reads_map(node, maker)
    ]


def _reads_map(node: onnx.NodeProto, maker: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a convolution computed the first input of a node."""
    source = maker.get(node.input[0])
    while source is not None and source.op_type not in COMPUTING:
        source = maker.get(source.input[0]) if source.input else None
    return source is not None and source.op_type == 'Conv'


def mish(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes of Mish: rounded between one another they would take longer, and lose more."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for value in node.input:
            readers.setdefault(value, []).append(node)
    chains = (_chain(node, readers) for node in graph.node if node.op_type == MISH[0])
    return [name for chain in chains if len(chain) == len(MISH) for name in chain]


def _chain(node: onnx.NodeProto, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> list[str]:
    """Names of nodes in the order of Mish, as far as they are there."""
    names = [node.name]
    for kind in MISH[1:]:
        after = [reader for reader in readers.get(node.output[0], ()) if reader.op_type == kind]
        if not after:
            break
        node = after[0]
        names.append(node.name)
    return names
