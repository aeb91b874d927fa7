"""The channel structure of a network: which convolutions are how wide, as plain values that rebuild a pruned network.

A C2f block runs one convolution and cuts its output in two equal halves, so both could only be pruned alike. `split` turns
that convolution into two with the same weights: the outputs stay as they were, and each half gets channels of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from training import torchvision_nms
from training.errors import PruneError

torchvision_nms.ensure()

from ultralytics.nn.modules import C2PSA, C2f  # noqa: E402
from ultralytics.nn.modules.conv import Conv  # noqa: E402


class SplitBlock(nn.Module):
    """A block whose first convolution is two.

    Args:
        block: the block; its layers are taken over, not copied.
    """

    def __init__(self, block: C2f | C2PSA) -> None:
        super().__init__()
        self.first, self.second = halves(block.cv1)
        self.m = block.m
        self.cv2 = block.cv2
        _take_place(self, block)


class SplitC2f(SplitBlock):
    """A C2f block (v8), or one of its kind (C3k2 of 11 and 26)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See C2f.forward."""
        maps = [self.first(x), self.second(x)]
        maps.extend(block(maps[-1]) for block in self.m)
        mixed: torch.Tensor = self.cv2(torch.cat(maps, 1))
        return mixed


class SplitC2PSA(SplitBlock):
    """The attention block of 11 and 26."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See C2PSA.forward."""
        mixed: torch.Tensor = self.cv2(torch.cat((self.first(x), self.m(self.second(x))), 1))
        return mixed


def halves(block: Conv) -> tuple[Conv, Conv]:
    """Two convolution blocks that compute the two halves of a block's output channels."""
    count = block.conv.out_channels
    return narrowed(block, range(count // 2)), narrowed(block, range(count // 2, count))


def narrowed(block: Conv, outputs: Sequence[int]) -> Conv:
    """A copy of a convolution block with some of its output channels."""
    block = copy.deepcopy(block)
    keep_outputs(block.conv, outputs)
    if hasattr(block, 'bn'):
        keep_features(block.bn, outputs)
    return block


def split(network: nn.Module) -> None:
    """Replace every block that cuts a convolution's output by one with two convolutions; outputs stay exactly the same."""
    for name, module in list(network.named_modules()):
        kind = SplitC2PSA if isinstance(module, C2PSA) else SplitC2f if _is_c2f(module) else None
        if kind is not None:
            parent, _, attribute = name.rpartition('.')
            setattr(network.get_submodule(parent), attribute, kind(module))


def _is_c2f(module: nn.Module) -> bool:
    return isinstance(module, C2f) and type(module).forward is C2f.forward


def _take_place(new: nn.Module, old: nn.Module) -> None:
    """Copy what Ultralytics' forward pass and our exporter read of a layer: its number, and where its input comes from."""
    new.training = old.training
    for attribute in ('f', 'i', 'type', 'np'):
        if hasattr(old, attribute):
            setattr(new, attribute, getattr(old, attribute))


def is_split(network: nn.Module) -> bool:
    """Whether `split` went over the network."""
    return any(isinstance(module, SplitBlock) for module in network.modules())


def keep_outputs(convolution: nn.Conv2d, kept: Sequence[int] | npt.NDArray[np.int64]) -> None:
    """Keep some output channels of a convolution; of a depthwise one, the channels."""
    index = torch.as_tensor(np.asarray(kept), dtype=torch.long)
    convolution.weight = nn.Parameter(_chosen(convolution.weight, 0, index), convolution.weight.requires_grad)
    if convolution.bias is not None:
        convolution.bias = nn.Parameter(_chosen(convolution.bias, 0, index), convolution.bias.requires_grad)
    if convolution.groups > 1:
        convolution.groups = convolution.in_channels = len(index)
    convolution.out_channels = len(index)


def keep_inputs(convolution: nn.Conv2d, kept: Sequence[int] | npt.NDArray[np.int64]) -> None:
    """Keep some input channels of a convolution that is not grouped."""
    index = torch.as_tensor(np.asarray(kept), dtype=torch.long)
    convolution.weight = nn.Parameter(_chosen(convolution.weight, 1, index), convolution.weight.requires_grad)
    convolution.in_channels = len(index)


def keep_features(normalization: nn.BatchNorm2d, kept: Sequence[int] | npt.NDArray[np.int64]) -> None:
    """Keep some channels of a batch normalization."""
    index = torch.as_tensor(np.asarray(kept), dtype=torch.long)
    for name in ('weight', 'bias'):
        value = getattr(normalization, name)
        setattr(normalization, name, nn.Parameter(_chosen(value, 0, index), value.requires_grad))
    for name in ('running_mean', 'running_var'):
        setattr(normalization, name, _chosen(getattr(normalization, name), 0, index))
    normalization.num_features = len(index)


def _chosen(value: torch.Tensor, dimension: int, index: torch.Tensor) -> torch.Tensor:
    return value.detach().index_select(dimension, index.to(value.device)).clone()


def describe(network: nn.Module) -> dict[str, Any]:
    """The channel structure as plain values.

    Returns:
        `split`: whether the blocks are split; `convolutions`: name → [inputs, outputs]. The batch normalization behind a
        convolution is as wide as its outputs.
    """
    widths = {name: [layer.in_channels, layer.out_channels] for name, layer in convolutions(network).items()}
    return {'split': is_split(network), 'convolutions': widths}


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions by name."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}


def restore(network: nn.Module, description: Mapping[str, Any]) -> None:
    """Bring a freshly built network to a described structure; its weights are then to be loaded.

    Args:
        network: as its architecture builds it.
        description: see `describe`; it comes from a file and is checked.

    Raises:
        PruneError: the description does not fit the network.
    """
    widths, is_wanted_split = description.get('convolutions'), description.get('split')
    if not isinstance(widths, Mapping) or not isinstance(is_wanted_split, bool):
        raise PruneError('the channel structure must hold "split" and "convolutions"')
    if is_wanted_split:
        split(network)
    layers = convolutions(network)
    if widths.keys() != layers.keys():
        odd = sorted(str(name) for name in widths.keys() ^ layers.keys())
        raise PruneError(f'the channel structure is of another architecture: {odd[0]} is only in one of them')
    for name, layer in layers.items():
        _narrow(network, name, layer, widths[name])


def _narrow(network: nn.Module, name: str, layer: nn.Conv2d, width: Any) -> None:
    if not isinstance(width, list) or len(width) != 2 or not all(type(count) is int for count in width):
        raise PruneError(f'the channel structure of {name} must be [inputs, outputs], not {width!r}')
    inputs, outputs = width
    if not (1 <= inputs <= layer.in_channels and 1 <= outputs <= layer.out_channels):
        raise PruneError(f'{name} cannot have {inputs} inputs and {outputs} outputs: at most {_widest(layer)}')
    is_narrower = (inputs, outputs) != (layer.in_channels, layer.out_channels)
    if layer.groups > 1 and is_narrower and not (is_depthwise(layer) and inputs == outputs):
        raise PruneError(f'{name} works in {layer.groups} groups and cannot have {inputs} inputs, {outputs} outputs')
    if layer.groups == 1 and inputs < layer.in_channels:
        keep_inputs(layer, range(inputs))
    if outputs < layer.out_channels:
        keep_outputs(layer, range(outputs))
        normalization = behind(network, name)
        if normalization is not None:
            keep_features(normalization, range(outputs))


def _widest(layer: nn.Conv2d) -> str:
    return f'{layer.in_channels} inputs and {layer.out_channels} outputs'


def is_depthwise(layer: nn.Conv2d) -> bool:
    """Whether each output channel has an input channel of its own."""
    return 1 < layer.groups == layer.in_channels == layer.out_channels


def behind(network: nn.Module, convolution: str) -> nn.BatchNorm2d | None:
    """The batch normalization of a convolution's block, None where the block has none."""
    block = network.get_submodule(convolution.rpartition('.')[0])
    normalization = getattr(block, 'bn', None)
    return normalization if isinstance(block, Conv) and isinstance(normalization, nn.BatchNorm2d) else None
