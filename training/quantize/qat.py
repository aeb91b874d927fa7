"""Quantization-aware training: a network that computes as INT8 will, while it trains in float.

Convolutions read rounded activations and have rounded weights. For ONNX Runtime what they write is rounded before and behind the
activation function; OpenVINO and TensorRT compute that function in the convolution, and only what the next one reads is rounded,
for TensorRT with zero point 0. Gradients pass the rounding as if it were not there (straight through, Bengio 2013), and stop
where a value was clipped. Batch norms are folded into the weights and keep their statistics, as Jacob et al. (CVPR 2018) end
their training.

The ranges are set once, on calibration images, and stay: the weights learn to live with them, and the graph gets the same ones
(but halves of a tensor, as C2f reads them, are rounded with the range of the whole). So the state of a network in training has
the float network's tensors, and every trainer takes it, saves it and resumes it as it is.

    prepared = prepare_qat(network, images, settings)   # then train `prepared`
    network, ranges = finish_qat(prepared)
    export(network, width, height, fp32)
    quantize(fp32, int8, images, settings, onnx_ranges(fp32, network, ranges))
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from training import torchvision_nms
from training.errors import QuantizationError
from training.models.yolov4.network import YOLOv4
from training.quantize.calibration import Image, Range
from training.quantize.qdq import FUSING, QuantizeSettings, weight_levels

torchvision_nms.ensure()

from ultralytics.nn.modules.conv import Conv, DWConv  # noqa: E402

PLACES = ('input', 'before', 'behind')
"""Where a convolution's activations are rounded: what it reads, and what it writes before and behind its activation function."""
LEVELS = 255
Places = Mapping[str, Range]


class Rounding(nn.Module):
    """Rounds to 256 levels between two limits; until they are set it only watches the values.

    Args:
        symmetric: 255 levels that reach as far below 0 as above.

    Attributes:
        low: smallest value, at most 0.
        high: largest, at least 0.
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, *, symmetric: bool = False) -> None:
        super().__init__()
        self.watching = True
        self.symmetric = symmetric
        for name in ('low', 'high'):
            self.register_buffer(name, torch.zeros(()), persistent=False)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Values of any shape, rounded."""
        if self.watching:
            self.low.copy_(torch.minimum(self.low, value.detach().amin()))
            self.high.copy_(torch.maximum(self.high, value.detach().amax()))
            return value
        if self.symmetric:
            scale = (torch.maximum(-self.low, self.high) / 127).clamp_min(torch.finfo(torch.float32).tiny)
            zero = torch.zeros_like(scale, dtype=torch.int32)
            return torch.fake_quantize_per_tensor_affine(value, scale, zero, -127, 127)
        scale = ((self.high - self.low) / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        zero = (-self.low / scale).round().int()
        return torch.fake_quantize_per_tensor_affine(value, scale, zero, 0, LEVELS)

    @property
    def limits(self) -> Range:
        """What it was set to."""
        return float(self.low), float(self.high)


class RoundedConv(Conv):
    """A convolution with batch norm and activation function that computes as its INT8 form will. Made of a `Conv` by `_round`."""

    roundings: nn.ModuleDict
    reads_rounded: bool
    per_channel: bool
    levels: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See Conv.forward."""
        device = x.device.type
        with torch.autocast(device, enabled=False):
            return self._forward(x.float(), getattr(x, 'is_rounded', False))

    def _forward(self, x: torch.Tensor, is_rounded: bool) -> torch.Tensor:
        if 'input' in self.roundings:
            x = self.roundings['input'](x)
        elif not is_rounded:
            self.reads_rounded = False
        weight, bias = folded(self)
        if not any(cast(Rounding, rounding).watching for rounding in self.roundings.values()):
            weight = self._rounded(weight)
        value = self.conv._conv_forward(x, weight, bias)
        if 'before' in self.roundings:
            value = self.roundings['before'](value)
        value = self.act(value)
        if 'behind' in self.roundings:
            value = self.roundings['behind'](value)
        value.is_rounded = 'behind' in self.roundings or (
            'before' in self.roundings and isinstance(self.act, nn.Identity)
        )
        return cast(torch.Tensor, value)

    def _rounded(self, weight: torch.Tensor) -> torch.Tensor:
        reach = weight.detach().abs()
        if not self.per_channel:
            scale = (reach.amax() / self.levels).clamp_min(1e-12)
            zero = torch.zeros_like(scale, dtype=torch.int32)
            return torch.fake_quantize_per_tensor_affine(weight, scale, zero, -self.levels, self.levels)
        scale = (reach.amax(dim=(1, 2, 3)) / self.levels).clamp_min(1e-12)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -self.levels, self.levels)


def prepare_qat(network: nn.Module, images: Sequence[Image], settings: QuantizeSettings | None = None) -> nn.Module:
    """A copy of a network that computes as INT8 will, in training and in evaluation.

    The first convolution and those that end the head's branches stay in float, as `QuantizeSettings` leaves them by default.

    Args:
        network: a detector of Ultralytics, not fused.
        images: calibration images as the network sees them, uint8 (H, W, 3), BGR.
        settings: how the trained network will be quantized: target, granularity and width of weights, operators.

    Raises:
        QuantizationError: no images, settings that cannot be trained for, a fused network, or one without convolutions that
            can be trained like this, such as a YOLOv4.
    """
    if not images:
        raise QuantizationError('calibration needs images')
    if isinstance(network, YOLOv4):
        raise QuantizationError(
            'qat trains networks of Ultralytics alone; for a YOLOv4 take '
            'python -m training quantize BUNDLE PICTURES --max-map-drop 0.02'
        )
    settings = settings or QuantizeSettings()
    _check(settings)
    network = copy.deepcopy(network)
    training = network.training
    rounded = list(_convolutions(network))
    if not rounded:
        raise QuantizationError(
            'the network has no convolution with batch norm that could be trained in INT8; a fused network has none: load it anew'
        )
    for convolution in rounded:
        _round(convolution, settings)
    network.eval()
    with torch.no_grad():
        network(_pixels(images[0], network))  # finds what reads values that nobody rounds
        for convolution in rounded:
            if not convolution.reads_rounded:
                convolution.roundings['input'] = _rounding(convolution, settings)
        for image in images:
            network(_pixels(image, network))
    for module in network.modules():
        if isinstance(module, Rounding):
            module.watching = False
    return network.train(training)


def finish_qat(network: nn.Module) -> tuple[nn.Module, dict[str, Places]]:
    """The float network with the trained weights, and the ranges they were trained for.

    Returns:
        The network, a copy with the original layers; and by the name of each convolution's module its ranges by place (`PLACES`).

    Raises:
        QuantizationError: not a network of `prepare_qat`.
    """
    network = copy.deepcopy(network)
    ranges: dict[str, Places] = {}
    for name, module in network.named_modules():
        if isinstance(module, RoundedConv):
            ranges[name] = {place: cast(Rounding, rounding).limits for place, rounding in module.roundings.items()}
            cast(Any, module).__class__ = DWConv if module.conv.groups > 1 else Conv
            del module.roundings, module.reads_rounded, module.per_channel, module.levels
    if not ranges:
        raise QuantizationError('the network was not prepared by prepare_qat')
    return network, ranges


def onnx_ranges(file: Path, network: nn.Module, ranges: Mapping[str, Places]) -> dict[str, Range]:
    """The ranges by the names of an exported network's tensors. A convolution is known by its weights.

    Args:
        file: the network as `training.export.onnx_export.export` wrote it.
        network: what was exported.
        ranges: of `finish_qat`.

    Raises:
        QuantizationError: the file is not this network.
    """
    graph = onnx.load(file).graph
    constants = {constant.name: constant for constant in graph.initializer}
    convolutions = [
        (node, numpy_helper.to_array(constants[node.input[1]]))
        for node in graph.node
        if node.op_type == 'Conv' and node.input[1] in constants
    ]
    found: dict[str, Range] = {}
    for name, places in ranges.items():
        with torch.no_grad():
            weight = folded(cast(Conv, network.get_submodule(name)))[0].cpu().numpy()
        node = next((node for node, value in convolutions if _same(value, weight)), None)
        if node is None:
            raise QuantizationError(f'{file} has no convolution with the weights of {name}; export the network again')
        tensors = {'input': node.input[0], 'before': node.output[0], 'behind': _behind(graph, node.output[0])}
        found |= {tensors[place]: limits for place, limits in places.items()}
    return found


def folded(block: Conv) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution with its batch norm's statistics folded in."""
    norm: Any = block.bn
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    offset = 0 if block.conv.bias is None else block.conv.bias
    return block.conv.weight * gain[:, None, None, None], norm.bias + (offset - norm.running_mean) * gain


def _convolutions(network: nn.Module) -> Iterator[RoundedConv]:
    """The blocks of convolution, batch norm and activation function alone; not the one that reads the pixels."""
    for module in network.modules():
        if not isinstance(module, Conv) or type(module).forward is not Conv.forward:
            continue
        if hasattr(module, 'bn') and module.conv.in_channels != 3:
            yield cast(RoundedConv, module)


def _round(block: RoundedConv, settings: QuantizeSettings) -> None:
    block.__class__ = RoundedConv
    places = []
    if settings.target not in FUSING:
        places.append('before')
        if not isinstance(block.act, nn.Identity) and settings.kinds >= {'Sigmoid', 'Mul'}:
            places.append('behind')
    block.roundings = nn.ModuleDict({place: _rounding(block, settings) for place in places})
    block.reads_rounded = True
    block.per_channel, block.levels = settings.per_channel, weight_levels(settings)


def _rounding(block: Conv, settings: QuantizeSettings) -> Rounding:
    return Rounding(symmetric=settings.target == 'tensorrt').to(block.conv.weight.device)


def _check(settings: QuantizeSettings) -> None:
    """Refuse what the graph would have and the training would not."""
    if not settings.first_convolution_float or not settings.last_convolutions_float:
        raise QuantizationError(
            'qat trains with the first and the last convolutions in float: leave first_convolution_float and '
            'last_convolutions_float at true'
        )
    if settings.float_nodes or settings.mixed is not None:
        raise QuantizationError('qat trains every other layer in INT8: leave float_nodes and mixed out')
    if 'Conv' not in settings.kinds:
        raise QuantizationError(f'qat rounds convolutions, operators has none: {", ".join(settings.operators)}')


def _pixels(image: Image, network: nn.Module) -> torch.Tensor:
    """An image as the torch network takes it: RGB in 0 … 1."""
    device = next(network.parameters()).device
    rgb = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(rgb)[None].to(device).float() / 255


def _same(first: Any, second: Any) -> bool:
    return first.shape == second.shape and bool(np.allclose(first, second, rtol=1e-4, atol=1e-6))


def _behind(graph: onnx.GraphProto, tensor: str) -> str:
    """The output of the activation function that reads a tensor; of SiLU, the product's."""
    readers = [node for node in graph.node if tensor in node.input]
    product = next((node for node in readers if node.op_type == 'Mul'), None)
    return str((product or readers[0]).output[0])
