"""Layers that CSPDarknet53 and YOLOv4's neck are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvBN(nn.Sequential):
    """Convolution without bias, batch norm, activation: Darknet's `[convolutional]` with `batch_normalize=1`.

    Args:
        activation: `mish`, `leaky` (0.1), `relu6`, `relu` or `linear`.
        groups: of the convolution.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, activation: str = 'leaky', groups: int = 1
    ) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            make_activation(activation),
        )


class DepthwiseConvBN(nn.Sequential):
    """A 3×3 convolution of each channel for itself and a 1×1 convolution: what the light neck has instead of full 3×3."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            ConvBN(inputs, inputs, 3, stride, activation='relu6', groups=inputs),
            ConvBN(inputs, outputs, 1, activation='relu6'),
        )


def make_activation(name: str) -> nn.Module:
    """An activation by its Darknet name.

    Raises:
        KeyError: no such activation.
    """
    kinds = {'mish': nn.Mish, 'relu': nn.ReLU, 'relu6': nn.ReLU6, 'linear': nn.Identity}
    return nn.LeakyReLU(0.1, inplace=True) if name == 'leaky' else kinds[name]()


class SpatialPyramidPooling(nn.Module):
    """The map beside its maxima over 5, 9 and 13 cells: four times the channels (He 2015, as in YOLOv4)."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in (13, 9, 5))

    def forward(self, value: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 4·C, H, W)."""
        return torch.cat([*(pool(value) for pool in self.pools), value], 1)
