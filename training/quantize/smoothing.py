"""Channels of unlike range, equalised where they are rounded: exact whatever stands before, free where scales are per channel.

What a convolution reads is divided by a factor a channel before it is rounded, and the weights of that channel are multiplied
by it (SmoothQuant, Xiao et al., ICML 2023). The division becomes part of the rounding: a scale a channel going in, one for all
coming out, which is what INT8 kernels of convolutions want. Unlike equalisation through the layer before, it passes SiLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from training.quantize.calibration import Image
from training.quantize.candidate import Candidate, channel_extremes, groups_of
from training.quantize.network import constants, is_depthwise, makers, readers
from training.quantize.shared_rounding import groups

FloatArray = npt.NDArray[np.float32]

SHARE_OF_ACTIVATIONS = 0.5
"""How much of the unlikeness goes from the activations into the weights, 0 … 1."""
MOST = 64.0
FEWEST_CHANNELS = 5
"""A picture's channels are alike."""


def smoothed(candidate: Candidate, images: Sequence[Image]) -> tuple[Candidate, int]:
    """Equalise the channels of what dense convolutions read; the float network computes the same.

    Where values are joined or cut they share one rounding instead (`training.quantize.shared_rounding`), and what depthwise
    convolutions alone read has scales of its own.

    Returns:
        The candidate, and how many activations were equalised. Ranges are missing: calibrate anew.
    """
    graph = candidate.model.graph
    known, reading = constants(graph), readers(graph)
    quantized = {node.name for node in candidate.quantized}
    extremes = channel_extremes(candidate.model, _dense_inputs(candidate), images)
    copy = onnx.ModelProto()
    copy.CopyFrom(candidate.model)
    weights = {name: numpy_helper.to_array(tensor).copy() for name, tensor in known.items()}
    count = 0
    for tensor, (low, high) in extremes.items():
        behind = [node for node in reading[tensor] if node.name in quantized]
        if len(low) < FEWEST_CHANNELS or any(len(reading[node.input[1]]) > 1 for node in behind):
            continue
        factors = _factors(low, high, [weights[node.input[1]] for node in behind if groups_of(node) == 1])
        for node in behind:
            along = (slice(None), None, None, None) if groups_of(node) > 1 else (None, slice(None), None, None)
            weights[node.input[1]] = weights[node.input[1]] * factors[along]
        _divide(copy, tensor, factors, {node.name for node in behind})
        count += 1
    changed = {name: value for name, value in weights.items() if value.dtype == np.float32}
    return replace(candidate, model=copy, ranges={}, channel_ranges={}).with_weights(changed), count


def _dense_inputs(candidate: Candidate) -> list[str]:
    """What quantized convolutions of one group read, and beside them at most depthwise ones."""
    graph = candidate.model.graph
    known, reading = constants(graph), readers(graph)
    inputs = list(dict.fromkeys(node.input[0] for node in candidate.quantized))
    shared = {name for group in groups(graph, inputs) for name in (*group.read, *group.made)}
    quantized = {node.name for node in candidate.quantized}
    found = []
    for tensor in inputs:
        behind = [node for node in reading[tensor] if node.name in quantized]
        dense = [groups_of(node) == 1 for node in behind]
        plain = all(one or is_depthwise(node, known[node.input[1]]) for one, node in zip(dense, behind, strict=True))
        if tensor in makers(graph) and tensor not in shared and plain and any(dense):
            found.append(tensor)
    return found


def _factors(low: FloatArray, high: FloatArray, dense: Sequence[FloatArray]) -> FloatArray:
    """What each channel is divided by, about 1 in the mean."""
    reach = np.maximum(high, 0) - np.minimum(low, 0)
    alive = reach > 1e-6 * reach.max(initial=0)
    if not alive.any():
        return np.ones(len(low), np.float32)
    # Weights have a scale for each channel that they write: what counts is their share of its largest.
    shares = [np.abs(w) / np.maximum(np.abs(w).max(axis=(1, 2, 3), keepdims=True), 1e-12) for w in dense]
    largest = np.max([share.max(axis=(0, 2, 3)) for share in shares], axis=0)
    largest = np.maximum(largest, 1e-6)
    factors = np.where(alive, reach, 1) ** SHARE_OF_ACTIVATIONS / largest ** (1 - SHARE_OF_ACTIVATIONS)
    factors = np.where(alive, factors / np.exp(np.log(factors[alive]).mean()), 1)
    return np.clip(factors, 1 / MOST, MOST).astype(np.float32)


def _divide(model: onnx.ModelProto, tensor: str, factors: FloatArray, behind: set[str]) -> None:
    """Put a division of a tensor's channels before some of the nodes that read it."""
    graph = model.graph
    divided, constant = f'{tensor}_equalised', f'{tensor}_factors'
    graph.initializer.append(numpy_helper.from_array((1 / factors).reshape(1, -1, 1, 1), constant))
    for node in graph.node:
        if node.name in behind:
            node.input[0] = divided
    place = next(number for number, node in enumerate(graph.node) if tensor in node.output)
    graph.node.insert(place + 1, helper.make_node('Mul', [tensor, constant], [divided], name=divided))
    shape = next((value for value in graph.value_info if value.name == tensor), None)
    if shape is not None:
        known = graph.value_info.add()
        known.CopyFrom(shape)
        known.name = divided
