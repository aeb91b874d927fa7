"""Quantization-aware training of any ONNX network: it trains as INT8 computes, the float network is its teacher.

No labels and no torch network of its maker are needed: in INT8 the last convolutions shall write what they write in float.
Ranges stay; weights and biases of the quantized convolutions move by steps of their own grid (straight through, Bengio 2013).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from tqdm import tqdm

from training.errors import QuantizationError
from training.quantize.calibration import Image
from training.quantize.candidate import Candidate, biased
from training.quantize.float_parts import tail
from training.quantize.network import constants
from training.quantize.qdq import weight_levels
from training.quantize.torch_graph import TorchGraph

FloatArray = npt.NDArray[np.float32]

PICTURES_A_STEP = 4
LEARNING_RATE = 0.01
"""In steps of the grid on which a weight is rounded."""
FINAL_SHARE = 0.05
"""Of the learning rate, at the end."""


@dataclass
class _Learned:
    """Weight and bias of one convolution as they train, in steps of their grids.

    Attributes:
        node: the convolution in the float network.
        weight: its float weights at first, (O, I, h, w).
        scale: of each channel, (O, 1, 1, 1).
        bias: at first, (O,).
        unit: what a step of the bias is.
        moved: steps by which the weights have moved.
        shifted: steps by which the biases have.
    """

    node: onnx.NodeProto
    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor
    unit: float
    moved: torch.Tensor
    shifted: torch.Tensor

    def now(self, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rounded weights and biases, with gradients."""
        zero = torch.zeros(len(self.weight), dtype=torch.int32)
        moved = self.weight + self.moved * self.scale
        rounded = torch.fake_quantize_per_channel_affine(moved, self.scale.reshape(-1), zero, 0, -levels, levels)
        return rounded, self.bias + self.shifted * self.unit


def tuned(candidate: Candidate, teacher: Candidate, images: Sequence[Image], steps: int) -> Candidate | None:
    """Train a candidate's weights and biases.

    Args:
        candidate: at which the training begins.
        teacher: of the float network.
        images: as the network takes them; labels are not asked for.
        steps: of the optimizer, each with `PICTURES_A_STEP` pictures.

    Returns:
        The trained candidate; None where the weights have one scale for all channels.

    Raises:
        QuantizationError: torch does not know all of the network's operators here.
    """
    if not candidate.settings.per_channel:
        return None
    candidate = replace(candidate, model=biased(candidate.model))
    levels, written = weight_levels(candidate.settings), candidate.written()
    wanted = _last_convolutions(teacher.model.graph)
    if not wanted:
        raise QuantizationError('no trainable network: its branches do not end with convolutions')
    student, taught = TorchGraph(written, wanted), TorchGraph(teacher.model, wanted)
    learned = _learned(candidate, levels)
    reads = {node.name: node.input for node in written.graph.node}
    parameters = [parameter for one in learned for parameter in (one.moved, one.shifted)]
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: FINAL_SHARE + (1 - FINAL_SHARE) * (1 + np.cos(np.pi * step / steps)) / 2
    )
    draw = np.random.default_rng(0)
    for _ in tqdm(range(steps), 'tuning', unit='step', leave=False, disable=None):
        optimizer.zero_grad()
        for number in draw.integers(len(images), size=PICTURES_A_STEP):
            picture = torch.from_numpy(images[number][None].copy())
            with torch.no_grad():
                targets = taught(picture)
            replaced = {}
            for one in learned:
                names = reads[one.node.name][1:3]
                replaced |= dict(zip(names, one.now(levels), strict=True))
            (loss(student(picture, replaced), targets) / PICTURES_A_STEP).backward()
        optimizer.step()
        schedule.step()
    return _taken(candidate, learned, levels)


def loss(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean squared error of outputs, each over the variance of what is wanted of it."""
    terms = [
        (one - target).square().mean() / target.var().clamp_min(1e-6) for one, target in zip(found, wanted, strict=True)
    ]
    return torch.stack(terms).mean()


def _last_convolutions(graph: onnx.GraphProto) -> list[str]:
    """Names of what the last convolution of each branch writes."""
    last = {*tail(graph, True)} - {*tail(graph, False)}
    return [node.output[0] for node in graph.node if node.name in last]


def _learned(candidate: Candidate, levels: int) -> list[_Learned]:
    known = constants(candidate.model.graph)
    found = []
    for node in candidate.learnable:
        weight = torch.from_numpy(numpy_helper.to_array(known[node.input[1]]).copy())
        reach = weight.abs().amax((1, 2, 3)).numpy() / levels
        scale = np.maximum(candidate.weight_scales.get(node.input[1], reach), 1e-12).astype(np.float32)
        bias = torch.from_numpy(numpy_helper.to_array(known[node.input[2]]).copy())
        low, high = candidate.ranges.get(node.output[0], (0.0, float(bias.abs().mean()) + 1e-3))
        found.append(
            _Learned(
                node,
                weight,
                torch.from_numpy(scale)[:, None, None, None],
                bias,
                (high - low) / 255,
                torch.zeros_like(weight, requires_grad=True),
                torch.zeros_like(bias, requires_grad=True),
            )
        )
    return found


def _taken(candidate: Candidate, learned: Sequence[_Learned], levels: int) -> Candidate:
    """The candidate with the trained values, its weights on the grid on which they were trained."""
    changed: dict[str, FloatArray] = {}
    scales = dict(candidate.weight_scales)
    with torch.no_grad():
        for one in learned:
            weight, bias = one.now(levels)
            changed |= {one.node.input[1]: weight.numpy(), one.node.input[2]: bias.numpy()}
            scales[one.node.input[1]] = one.scale.reshape(-1).numpy()
    return replace(candidate.with_weights(changed), weight_scales=scales)
