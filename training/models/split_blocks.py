"""Blocks of Ultralytics that cut a convolution's output in two, replaced by ones with two convolutions."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from training import torchvision_nms
from training.models.kept_channels import keep_features, keep_outputs

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


def split_blocks(network: nn.Module) -> None:
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
    """Whether `split_blocks` went over the network."""
    return any(isinstance(module, SplitBlock) for module in network.modules())


def behind(network: nn.Module, convolution: str) -> nn.BatchNorm2d | None:
    """The batch normalization of a convolution's block, None where the block has none."""
    block = network.get_submodule(convolution.rpartition('.')[0])
    normalization = getattr(block, 'bn', None)
    return normalization if isinstance(block, Conv) and isinstance(normalization, nn.BatchNorm2d) else None
