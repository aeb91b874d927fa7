"""Weight rounding that is learned: each weight goes up or down so that what its convolution writes stays.

AdaRound (Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020): a weight is
`scale * (floor(w / scale) + h(v))`, h the stretched sigmoid of its equation 23. v is learned from the squared error behind the
activation function, with what the layers before write in INT8 (equation 25); the regularizer of equation 24 drives h to 0 or 1.
The shift of each channel's mean that is left goes into the bias. Pictures that did not teach decide for each layer whether its
learned rounding is better than the nearest one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch.nn import functional
from tqdm import tqdm

from training.quantize.activations import activation_functions
from training.quantize.calibration import Image, run
from training.quantize.candidate import Candidate, biased, groups_of
from training.quantize.layer_reads import LayerReads, part
from training.quantize.network import attribute, constants, makers, readers
from training.quantize.qdq import weight_levels
from training.quantize.repairs import output_places, windows

FloatArray = npt.NDArray[np.float32]
Function = Callable[[torch.Tensor], torch.Tensor]

PLACES = 128
"""Of what a convolution writes in each image, from which it learns."""
ITERATIONS = 300
MOST_WORK = 1e9
"""Iterations times weights of a network; larger networks have fewer iterations, so that the time stays bounded."""
FEWEST_ITERATIONS = 100
BATCH = 256
LEARNING_RATE = 0.1
STRETCH = (-0.1, 1.1)
"""Ends of the stretched sigmoid, gamma and zeta."""
REGULARIZER = 10.0
"""Its weight beside the squared error, which is 1 for the nearest rounding."""
SHARPNESS = (20.0, 2.0)
"""The regularizer's exponent beta at first and at last."""
WITHOUT_REGULARIZER = 0.2
"""Share of the iterations in which the error alone is learned from."""
JUDGED_SHARE = 4
"""One of so many images judges."""


@dataclass(frozen=True)
class Layer:
    """What one convolution learns from: G groups, each with R places, K values read and O channels written.

    Attributes:
        weight: float weights (G, O, K).
        scale: of each channel (G, O, 1).
        bias: (G, 1, O).
        read: what it reads in the INT8 network (G, R, K), image after image.
        wanted: what it writes in the float network (G, R, O), before the activation function.
        function: the activation function behind it.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor
    read: torch.Tensor
    wanted: torch.Tensor
    function: Function


def learned(candidate: Candidate, images: Sequence[Image]) -> Candidate | None:
    """Learn the rounding of each quantized convolution's weights, in the network's order.

    Args:
        candidate: its model computes what the float network computes, its ranges are set.
        images: as the network takes them.

    Returns:
        The candidate with weights on their grid; None where they have one scale for all channels.
    """
    if not candidate.settings.per_channel:
        return None
    candidate = replace(candidate, model=biased(candidate.model))
    known, functions = constants(candidate.model.graph), _functions(candidate.model.graph)
    levels = weight_levels(candidate.settings)
    nodes = candidate.learnable
    size = sum(int(np.prod(known[node.input[1]].dims)) for node in nodes)
    iterations = int(np.clip(MOST_WORK / max(size, 1), FEWEST_ITERATIONS, ITERATIONS))
    written = candidate.written()
    reads = {node.name: node.input[0] for node in written.graph.node}
    read = LayerReads(written, [reads[node.name] for node in nodes], images).read
    wanted = _float_outputs(candidate.model, nodes, images)
    changed: dict[str, FloatArray] = {}
    scales = dict(candidate.weight_scales)
    for node in tqdm(nodes, 'learning to round', unit='layer', leave=False, disable=None):
        weight = numpy_helper.to_array(known[node.input[1]])
        values = read(reads[node.name])
        if output_places(values[0], node, weight.shape) != wanted[node.name].shape:
            continue  # padded in another way
        scale = np.maximum(np.abs(weight).max(axis=(1, 2, 3)) / levels, 1e-12).astype(np.float32)
        bias = numpy_helper.to_array(known[node.input[2]])
        layer = _layer(
            node, weight, scale, bias, values, wanted.pop(node.name), functions.get(node.output[0], _identity)
        )
        new, shifted = learn(layer, levels, iterations)
        changed[node.input[1]] = new.reshape(weight.shape).numpy()
        changed[node.input[2]] = shifted.reshape(bias.shape).numpy()
        scales[node.input[1]] = scale
        _patch(written, node, changed)
    return replace(candidate.with_weights(changed), weight_scales=scales)


def learn(layer: Layer, levels: int, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounded weights (G, O, K) and biases (G, 1, O) of one convolution; rounded to the nearest where learning gains nothing."""
    judged = max(layer.read.shape[1] // JUDGED_SHARE, 1)
    taught = max(layer.read.shape[1] - judged, 1)
    least = torch.floor(layer.weight / layer.scale)
    nearest = torch.clamp(torch.round(layer.weight / layer.scale), -levels, levels)
    up = _learned_up(layer, least, nearest, taught, levels, iterations)
    choices = []
    for steps in (nearest, torch.clamp(least + up, -levels, levels)):
        weight = steps * layer.scale
        shift = (_written(layer, weight, slice(0, taught)) - layer.wanted[:, :taught]).mean(1, keepdim=True)
        found = layer.function(_written(layer, weight, slice(-judged, None)) - shift)
        error = functional.mse_loss(found, layer.function(layer.wanted[:, -judged:]))
        choices.append((float(error), weight, layer.bias - shift))
    return min(choices, key=lambda choice: choice[0])[1:]


def _learned_up(
    layer: Layer, least: torch.Tensor, nearest: torch.Tensor, taught: int, levels: int, iterations: int
) -> torch.Tensor:
    """Which weights are rounded up, 0 or 1."""
    low, high = STRETCH
    share = (layer.weight / layer.scale - least).clamp(0.01, 0.99)
    value = torch.logit((share - low) / (high - low)).requires_grad_()
    draw = torch.Generator().manual_seed(0)
    wanted = layer.function(layer.wanted[:, :taught])
    plain = functional.mse_loss(
        layer.function(_written(layer, nearest * layer.scale, slice(0, taught))), wanted
    ).clamp_min(1e-12)
    optimizer = torch.optim.Adam([value], LEARNING_RATE)
    for number in range(iterations):
        soft = (torch.sigmoid(value) * (high - low) + low).clamp(0, 1)
        weight = (least + soft).clamp(-levels, levels) * layer.scale
        rows = torch.randint(taught, (min(BATCH, taught),), generator=draw)
        loss = functional.mse_loss(layer.function(_written(layer, weight, rows)), wanted[:, rows]) / plain
        progress = (number / iterations - WITHOUT_REGULARIZER) / (1 - WITHOUT_REGULARIZER)
        if progress >= 0:
            sharpness = SHARPNESS[0] + (SHARPNESS[1] - SHARPNESS[0]) * progress
            loss = loss + REGULARIZER * (1 - (2 * soft - 1).abs().pow(sharpness)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (value.detach() >= 0).float()


def _written(layer: Layer, weight: torch.Tensor, rows: torch.Tensor | slice) -> torch.Tensor:
    """What the convolution writes (G, R, O) with other weights."""
    return layer.read[:, rows] @ weight.transpose(1, 2) + layer.bias


@dataclass(frozen=True)
class _FloatOutputs:
    """What a convolution writes in the float network.

    Attributes:
        shape: height and width.
        rows: at the places of `_places` (R, channels), image after image.
    """

    shape: tuple[int, ...]
    rows: FloatArray


def _float_outputs(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], images: Sequence[Image]
) -> dict[str, _FloatOutputs]:
    """By the name of each convolution."""
    rows: dict[str, list[FloatArray]] = {node.name: [] for node in nodes}
    shapes: dict[str, tuple[int, ...]] = {}
    network = part(model, [node.output[0] for node in nodes])
    for number, outputs in enumerate(run(network, images, 'what float layers write')):
        for node, output in zip(nodes, outputs, strict=True):
            shapes[node.name] = output.shape[2:]
            places = _places(number, output.shape[2:])
            rows[node.name].append(output[0].reshape(output.shape[1], -1)[:, places].T)
    return {name: _FloatOutputs(shapes[name], np.concatenate(found)) for name, found in rows.items()}


def _places(image: int, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Numbers of the places of an image at which a layer of this height and width is looked at."""
    count = int(np.prod(shape))
    return np.random.default_rng(image).choice(count, min(PLACES, count), replace=False)


def _layer(
    node: onnx.NodeProto,
    weight: FloatArray,
    scale: FloatArray,
    bias: FloatArray,
    values: Sequence[FloatArray],
    wanted: _FloatOutputs,
    function: Function,
) -> Layer:
    count = groups_of(node)
    read = [windows(value, node, weight.shape, _places(image, wanted.shape)) for image, value in enumerate(values)]
    return Layer(
        torch.from_numpy(weight.reshape(count, len(weight) // count, -1).copy()),
        torch.from_numpy(scale.reshape(count, -1, 1)),
        torch.from_numpy(bias.reshape(count, 1, -1).copy()),
        torch.from_numpy(np.concatenate(read, 1)),
        torch.from_numpy(wanted.rows.reshape(len(wanted.rows), count, -1).transpose(1, 0, 2).copy()),
        function,
    )


def _patch(written: onnx.ModelProto, node: onnx.NodeProto, values: Mapping[str, FloatArray]) -> None:
    """Put the weights and the bias of a convolution into the INT8 network, whatever these are stored as."""
    maker, known = makers(written.graph), constants(written.graph)
    quantized = next(other for other in written.graph.node if other.name == node.name)
    for name, source in zip(node.input[1:], quantized.input[1:], strict=True):
        scale: FloatArray | None = None
        while source in maker:
            back = maker[source]
            scale = numpy_helper.to_array(known[back.input[1]])
            source = back.input[0]
        tensor = known[source]
        value = values[name]
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if scale is not None and np.issubdtype(kind, np.integer):
            along = scale.reshape(-1, *[1] * (value.ndim - 1))
            value = np.clip(np.round(value / along), np.iinfo(kind).min, np.iinfo(kind).max)
        tensor.CopyFrom(numpy_helper.from_array(value.astype(kind), tensor.name))


def _functions(graph: onnx.GraphProto) -> dict[str, Function]:
    """By the name of a tensor the activation function that alone reads it."""
    found: dict[str, Function] = {one.reads: _BY_KIND[one.kind] for one in activation_functions(graph)}
    reading = readers(graph)
    for node in graph.node:
        if node.op_type == 'Relu' and len(reading[node.input[0]]) == 1:
            found[node.input[0]] = functional.relu
        elif node.op_type == 'LeakyRelu' and len(reading[node.input[0]]) == 1:
            found[node.input[0]] = _leaky(attribute(node, 'alpha', 0.01))
    return found


def _leaky(slope: float) -> Function:
    return lambda value: functional.leaky_relu(value, slope)


def _identity(value: torch.Tensor) -> torch.Tensor:
    return value


_BY_KIND: dict[str, Function] = {'SiLU': functional.silu, 'HardSwish': functional.hardswish, 'GELU': functional.gelu}
