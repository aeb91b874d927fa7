"""The flow of solution procedure: how one layer's channels lead to the next layer's (FSP)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from training.distill.losses.base import DistillationLoss, Takes, Usual, on_one_grid, paired, widened
from training.errors import LossError


class FSP(DistillationLoss):
    """Flow of solution procedure: Yim et al., "A Gift from Knowledge Distillation", CVPR 2017.

    L = Σ_layers mean((G(s_i, s_i+1) − G(t_i, t_i+1))²), G(f, g) = mean_hw f ⊗ g

    Student and teacher must have equal channels at these layers. For the initialisation stage only.

    Shapes: sequences of two or more maps (N, C_i, H_i, W_i); of two neighbours the finer one is averaged onto the coarser
    grid. Reduction: mean over batch and pairs of channels, sum over neighbours.

    Example:
        >>> student = [torch.rand(1, 2, 8, 8), torch.rand(1, 4, 4, 4)]
        >>> FSP()(student, student).item()
        0.0
    """

    paper = 'Yim et al. 2017, CVPR'
    takes: ClassVar[Takes] = 'maps'
    usual = Usual(weight=50.0, initialization_only=True)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The loss of the layers' maps, from the front to the back."""
        if len(student) != len(teacher) or len(student) < 2:
            raise LossError(f'FSP takes two or more maps of each, not {len(student)} and {len(teacher)}')
        flows = [
            paired(_flow(*of_student), _flow(*of_teacher))
            for of_student, of_teacher in zip(pairwise(student), pairwise(teacher), strict=True)
        ]
        return torch.stack([torch.mean((found - wanted) ** 2) for found, wanted in flows]).sum()


def _flow(bottom: Tensor, top: Tensor) -> Tensor:
    bottom, top = on_one_grid(widened(bottom), widened(top))
    return torch.einsum('nchw,ndhw->ncd', bottom, top) / bottom[0, 0].numel()
