"""Cross-head predictions (CrossKD): what the rest of the teacher's head makes of the first layer of the student's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import LossError

BRANCHES = ('cv3', 'cv2')
"""Of Ultralytics' head: classes, sides of boxes."""


def cross_layers(network: Any) -> tuple[str, ...]:
    """The first layers of a YOLO's head: those of the class branches, level by level, then those of the box branches.

    Raises:
        LossError: another head.
    """
    number, head = len(network.model) - 1 if hasattr(network, 'model') else 0, head_of(network)
    if head is None:
        raise LossError(
            'crosskd leads a YOLO through the head of another: RT-DETR and YOLOv4 are distilled by their maps'
        )
    return tuple(f'model.{number}.{name}.{level}.0' for name in BRANCHES for level in range(len(getattr(head, name))))


def head_of(network: Any) -> Any:
    """A YOLO's head with branches of several layers, else None."""
    head = network.model[-1] if hasattr(network, 'model') else None
    return head if all(hasattr(head, name) for name in BRANCHES) and hasattr(head, 'reg_max') else None


class CrossHead(nn.Module):
    """The rest of a teacher's head, which is not trained and stays the teacher's, behind adapters, which are.

    Args:
        head: the teacher's.
        channels: of the student's maps, in the order of `cross_layers`.
    """

    def __init__(self, head: Any, channels: Sequence[int]) -> None:
        super().__init__()
        # In a plain list: as modules of this one, its layers would be trained and saved with the adapters.
        self._rest = [branch[1:] for name in BRANCHES for branch in getattr(head, name)]
        inputs = [
            next(layer for layer in rest.modules() if isinstance(layer, nn.Conv2d)).in_channels for rest in self._rest
        ]
        self.adapters = nn.ModuleList(
            nn.Identity() if own == wanted else nn.Conv2d(own, wanted, 1)
            for own, wanted in zip(channels, inputs, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits (N, classes, anchors) and distributions of the sides (N, 4·bins, anchors), float32."""
        found = []
        for adapter, rest, feature in zip(self.adapters, self._rest, maps, strict=True):
            precision = next(rest.parameters()).dtype
            found.append(rest(adapter(feature).to(precision)).flatten(2).float())
        half = len(found) // 2
        return torch.cat(found[:half], 2), torch.cat(found[half:], 2)
