"""Neuron selectivity: which patterns over positions the channels prefer, in whatever order they stand (NST)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.distill.losses.base import DistillationLoss, Takes, Usual, paired_maps


class NST(DistillationLoss):
    """Neuron selectivity: Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017.

    L = mean k(t, t) + mean k(s, s) − 2 · mean k(s, t), k(a, b) = ⟨a, b⟩², a and b channels with length 1 over H·W

    This is the maximum mean discrepancy between the channels of student and teacher, whose numbers may differ.

    Shapes: student (N, C_s, H, W), teacher (N, C_t, H, W). Reduction: mean over batch and pairs of channels.

    Example:
        >>> feature = torch.rand(2, 3, 4, 4)
        >>> abs(NST()(feature, feature.flip(1)).item()) < 1e-6  # the order of channels does not count
        True
    """

    paper = 'Huang and Wang 2017, arXiv 1707.01219'
    takes: ClassVar[Takes] = 'map'
    of_places = True
    usual = Usual(weight=50.0)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of two maps."""
        student, teacher = (F.normalize(feature.flatten(2), dim=2) for feature in paired_maps(student, teacher))
        return _kernel(teacher, teacher) + _kernel(student, student) - 2 * _kernel(student, teacher)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return torch.mean((a @ b.transpose(1, 2)) ** 2)
