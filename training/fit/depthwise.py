"""Depthwise convolutions in float32 where the others are trained in bfloat16 on a CPU.

oneDNN's bfloat16 gradients of depthwise convolutions are a reference that is 2 to 20 times slower than float32's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Float32Depthwise(nn.Conv2d):
    """A convolution that autocast leaves alone."""

    def forward(self, value: Tensor) -> Tensor:
        """(N, C, H, W), of any precision, → float32."""
        with torch.autocast(value.device.type, enabled=False):
            return super().forward(value.float())


def depthwise_in_float32(network: nn.Module) -> None:
    """Let the depthwise convolutions that are trained compute in float32; parameters and names stay as they are."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1 and module.weight.requires_grad:
            module.__class__ = Float32Depthwise
