"""Repairs that change weights, not the network: equalised channels, and rounding that answers for its errors.

Equalisation: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (ICCV 2019), with the
channels' measured reach as in SmoothQuant (Xiao et al., ICML 2023). Rounding: Frantar et al., "GPTQ" (ICLR 2023), after Hassibi
and Stork's optimal brain surgeon; like AdaRound it lets weights round up or down so that what the layer writes stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from tqdm import tqdm

from training.quantize.calibration import Image, run
from training.quantize.candidate import Candidate, channel_extremes, groups_of
from training.quantize.network import attribute, constants, is_depthwise, makers, readers
from training.quantize.qdq import weight_levels

FloatArray = npt.NDArray[np.float32]

MOST_EQUALISED = 64.0
"""A channel's weights are scaled by at most so much, up or down."""
LINEAR = frozenset({'Relu', 'LeakyRelu'})
"""Activation functions through which a positive factor passes."""
POSITIONS = 96
"""Of a convolution's window in each image, from which rounding learns what it reads."""
DAMPING = 0.01
MOST_INPUTS = 2400
"""Convolutions with larger windows are rounded to the nearest."""


def equalised(candidate: Candidate, images: Sequence[Image]) -> tuple[Candidate, int]:
    """Scale the channels between two convolutions so that all of them fill the range; the float network computes the same.

    Only where nothing but ReLU or leaky ReLU stands between.

    Returns:
        The candidate, and how many activations were equalised. Its ranges are those of before: calibrate anew.
    """
    graph = candidate.model.graph
    known, maker, reading = constants(graph), makers(graph), readers(graph)
    outputs = {output.name for output in graph.output}
    pairs: dict[str, tuple[onnx.NodeProto, list[onnx.NodeProto]]] = {}
    for node in candidate.quantized:
        before = maker.get(node.input[0])
        if before is not None and before.op_type in LINEAR and len(reading[before.input[0]]) == 1:
            before = maker.get(before.input[0])
        behind = reading[node.input[0]]
        plain = all(other.op_type == 'Conv' and other.input[1] in known for other in behind)
        if before is None or before.op_type != 'Conv' or before.input[1] not in known or not plain:
            continue
        if node.input[0] in outputs or not all(_one_group_or_depthwise(other, known) for other in behind):
            continue
        if len(reading[before.output[0]]) == 1 or before.output[0] == node.input[0]:
            pairs[node.input[0]] = before, behind
    if not pairs:
        return candidate, 0
    reaches = channel_extremes(candidate.model, list(pairs), images)
    weights = {name: numpy_helper.to_array(tensor).copy() for name, tensor in known.items()}
    for tensor, (before, behind) in pairs.items():
        reach = np.maximum(np.abs(reaches[tensor][0]), np.abs(reaches[tensor][1]))
        factors = _factors(reach, [weights[other.input[1]] for other in behind])
        weights[before.input[1]] /= factors[:, None, None, None]
        if len(before.input) > 2 and before.input[2] in weights:
            weights[before.input[2]] = weights[before.input[2]] / factors
        for other in behind:
            depthwise = groups_of(other) > 1
            weights[other.input[1]] *= factors[:, None, None, None] if depthwise else factors[None, :, None, None]
    changed = {name: value for name, value in weights.items() if value.dtype == np.float32}
    return candidate.with_weights(changed), len(pairs)


def _one_group_or_depthwise(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> bool:
    return groups_of(node) == 1 or is_depthwise(node, known[node.input[1]])


def _factors(reach: FloatArray, behind: Sequence[FloatArray]) -> FloatArray:
    """What each channel is divided by: all of its reach for depthwise convolutions, else as much as their weights bear."""
    dead = reach <= 1e-6 * reach.max(initial=0)
    reach = np.where(dead, 1, reach)
    if all(weight.shape[1] == 1 for weight in behind):
        factors = reach
    else:
        largest = np.max([np.abs(w).max(axis=(1, 2, 3) if w.shape[1] == 1 else (0, 2, 3)) for w in behind], axis=0)
        factors = np.sqrt(reach / np.maximum(largest, 1e-6 * largest.max(initial=1e-6)))
    factors = factors / np.exp(np.log(factors[~dead]).mean() if (~dead).any() else 0)
    factors = np.where(dead, 1, factors)
    return np.clip(factors, 1 / MOST_EQUALISED, MOST_EQUALISED).astype(np.float32)


def rounded(candidate: Candidate, images: Sequence[Image]) -> Candidate:
    """Round the weights of each quantized convolution so that the errors of one are made up for by the next ones."""
    known = constants(candidate.model.graph)
    changed, scales = {}, dict(candidate.weight_scales)
    levels = weight_levels(candidate.settings)
    windows = _windows(candidate, images)
    for node in tqdm(candidate.quantized, 'rounding weights', unit='layer', leave=False, disable=None):
        if not candidate.settings.per_channel or node.name not in windows:
            continue
        weight = numpy_helper.to_array(known[node.input[1]])
        scale = np.maximum(np.abs(weight).max(axis=(1, 2, 3)) / levels, 1e-12).astype(np.float32)
        changed[node.input[1]] = _round_weight(weight, scale, windows[node.name], levels)
        scales[node.input[1]] = scale
    return replace(candidate.with_weights(changed), weight_scales=scales)


def _round_weight(weight: FloatArray, scale: FloatArray, moments: FloatArray, levels: int) -> FloatArray:
    """Weights (O, I, h, w) on their grid; `moments` (G, K, K) are the mean products of what each group of them reads."""
    groups = len(moments)
    rows = weight.reshape(groups, weight.shape[0] // groups, -1).astype(np.float64)
    steps = scale.reshape(groups, -1).astype(np.float64)
    done = np.stack([_round_rows(rows[g], steps[g], moments[g], levels) for g in range(groups)])
    return done.reshape(weight.shape).astype(np.float32)


def _round_rows(
    rows: npt.NDArray[np.float64], steps: npt.NDArray[np.float64], moments: FloatArray, levels: int
) -> npt.NDArray[np.float64]:
    """GPTQ: column by column, the error of each is spread over those that are still to come."""
    columns = rows.shape[1]
    damped = moments.astype(np.float64) + DAMPING * max(float(np.mean(np.diag(moments))), 1e-12) * np.eye(columns)
    order = np.argsort(-np.diag(damped))
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    work, done = rows[:, order].copy(), np.empty_like(rows)
    for k in range(columns):
        done[:, k] = np.clip(np.round(work[:, k] / steps), -levels, levels) * steps
        error = (work[:, k] - done[:, k]) / upper[k, k]
        work[:, k + 1 :] -= np.outer(error, upper[k, k + 1 :])
    result = np.empty_like(rows)
    result[:, order] = done
    return result


def _windows(candidate: Candidate, images: Sequence[Image]) -> dict[str, FloatArray]:
    """By the name of each quantized convolution, the mean products (G, K, K) of the values in its window."""
    known = constants(candidate.model.graph)
    nodes = [node for node in candidate.quantized if int(np.prod(known[node.input[1]].dims[1:])) <= MOST_INPUTS]
    copy = onnx.ModelProto()
    copy.CopyFrom(candidate.model)
    del copy.graph.output[:]
    names = list(dict.fromkeys(node.input[0] for node in nodes))
    copy.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    draw = np.random.default_rng(0)
    sums: dict[str, FloatArray] = {}
    for values in run(copy, images, 'what convolutions read'):
        read = dict(zip(names, values, strict=True))
        for node in nodes:
            moments = _moments(read[node.input[0]], node, known[node.input[1]].dims, draw)
            sums[node.name] = sums[node.name] + moments if node.name in sums else moments
    return {name: total / len(images) for name, total in sums.items()}


def _moments(value: FloatArray, node: onnx.NodeProto, shape: Sequence[int], draw: np.random.Generator) -> FloatArray:
    """Mean products (G, K, K) of one image's activation (1, C, H, W) over some places of the window."""
    down, across = output_places(value, node, shape)
    places = draw.choice(down * across, min(POSITIONS, down * across), replace=False)
    rows = windows(value, node, shape, places)
    return np.asarray(rows.transpose(0, 2, 1) @ rows / len(places), np.float32)


def output_places(value: FloatArray, node: onnx.NodeProto, shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns that a convolution writes when it reads an activation (1, C, H, W) with weights of a shape."""
    top, left, bottom, right = (int(pad) for pad in attribute(node, 'pads', [0, 0, 0, 0]))
    strides, spread = attribute(node, 'strides', [1, 1]), attribute(node, 'dilations', [1, 1])
    high, wide = (int(spread[k]) * (int(shape[2 + k]) - 1) + 1 for k in range(2))
    padded = value.shape[2] + top + bottom, value.shape[3] + left + right
    return (padded[0] - high) // int(strides[0]) + 1, (padded[1] - wide) // int(strides[1]) + 1


def windows(value: FloatArray, node: onnx.NodeProto, shape: Sequence[int], places: npt.NDArray[np.int64]) -> FloatArray:
    """What each group of a convolution reads (G, places, K) of one image's activation (1, C, H, W).

    Args:
        value: the activation.
        node: the convolution.
        shape: of its weights.
        places: numbers of places that it writes, row by row.
    """
    top, left, bottom, right = (int(pad) for pad in attribute(node, 'pads', [0, 0, 0, 0]))
    strides, spread = attribute(node, 'strides', [1, 1]), attribute(node, 'dilations', [1, 1])
    across = output_places(value, node, shape)[1]
    padded = np.pad(value[0], ((0, 0), (top, bottom), (left, right)))
    size = tuple(int(spread[k]) * (int(shape[2 + k]) - 1) + 1 for k in range(2))
    views = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(1, 2))[..., :: spread[0], :: spread[1]]
    taken = views[:, (places // across) * int(strides[0]), (places % across) * int(strides[1])]  # (C, places, h, w)
    groups = groups_of(node)
    rows = taken.reshape(groups, len(value[0]) // groups, len(places), -1).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(rows.reshape(groups, len(places), -1))
