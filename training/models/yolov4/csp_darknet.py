"""CSPDarknet53, the backbone of YOLOv4 (Bochkovskiy 2020), and as a classifier with 26,617,184 parameters below its head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.models.yolov4.layers import ConvBN

STAGES = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
"""Channels and residual blocks of each stage; every stage halves the map."""


class Residual(nn.Module):
    """1×1 down, 3×3 up, added to the input."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            ConvBN(channels, hidden, 1, activation='mish'), ConvBN(hidden, channels, 3, activation='mish')
        )

    def forward(self, value: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        result: Tensor = value + self.block(value)
        return result


class CrossStage(nn.Module):
    """One cross-stage-partial stage: half of the channels pass by the residual blocks (Wang 2019).

    The first stage keeps all channels on both ways, as Darknet's configuration has it.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, *, first: bool) -> None:
        super().__init__()
        width = outputs if first else outputs // 2
        hidden = outputs // 2
        self.down = ConvBN(inputs, outputs, 3, 2, activation='mish')
        self.beside = ConvBN(outputs, width, 1, activation='mish')
        self.before = ConvBN(outputs, width, 1, activation='mish')
        self.blocks = nn.Sequential(*(Residual(width, hidden) for _ in range(blocks)))
        self.behind = ConvBN(width, width, 1, activation='mish')
        self.merge = ConvBN(2 * width, outputs, 1, activation='mish')

    def forward(self, value: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H/2, W/2)."""
        value = self.down(value)
        deep = self.behind(self.blocks(self.before(value)))
        result: Tensor = self.merge(torch.cat([deep, self.beside(value)], 1))
        return result


class CSPDarknet53(nn.Module):
    """The backbone: RGB (N, 3, H, W) in 0 … 1 → maps at strides 8, 16 and 32."""

    channels = (256, 512, 1024)
    strides = (8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(3, 32, 3, activation='mish')
        inputs = (32, *(channels for channels, _ in STAGES))
        self.stages = nn.ModuleList(
            CrossStage(before, channels, blocks, first=number == 0)
            for number, (before, (channels, blocks)) in enumerate(zip(inputs, STAGES, strict=False))
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps (N, 256, H/8, W/8), (N, 512, H/16, W/16), (N, 1024, H/32, W/32)."""
        value = self.stem(image)
        maps = []
        for stage in self.stages:
            value = stage(value)
            maps.append(value)
        return maps[2], maps[3], maps[4]
