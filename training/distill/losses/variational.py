"""Variational information distillation: the teacher's map shall be likely under a Gaussian that the student predicts."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from training.distill.losses.base import DistillationLoss, Takes, Usual, paired, paired_maps, positive

LEAST_VARIANCE = 1e-5


class VID(DistillationLoss):
    """Variational information: Ahn et al., "Variational Information Distillation for Knowledge Transfer", CVPR 2019.

    L = mean(½ · [(μ(s) − t)² / σ² + log σ²]), σ² = softplus(α) + 1e-5, one α a channel

    μ is three 1×1 convolutions with ReLU between them. The loss is a negative log-likelihood without its constant: it may
    be negative, and it is not 0 where student and teacher agree.

    Shapes: student (N, C_s, H, W), teacher (N, C_t, H, W); grids may differ, the finer one is averaged. Reduction: mean
    over everything.

    Args:
        student_channels: C_s.
        teacher_channels: C_t, also of the layers inside μ.
        initial_variance: σ² at first, the authors' 5.

    Raises:
        LossError: a variance not above 1e-5.

    Example:
        >>> loss = VID(student_channels=2, teacher_channels=4)
        >>> loss(torch.rand(1, 2, 4, 4), torch.rand(1, 4, 4, 4)).shape
        torch.Size([])
    """

    paper = 'Ahn et al. 2019, arXiv 1904.05835'
    takes: ClassVar[Takes] = 'map'
    usual = Usual(weight=1.0)

    def __init__(self, student_channels: int, teacher_channels: int, initial_variance: float = 5.0) -> None:
        super().__init__()
        positive(initial_variance=initial_variance - LEAST_VARIANCE)
        self.mean = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        alpha = math.log(math.expm1(initial_variance - LEAST_VARIANCE))
        self.alpha = nn.Parameter(torch.full((teacher_channels, 1, 1), alpha))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of two maps."""
        student, teacher = paired_maps(student, teacher)
        mean, teacher = paired(self.mean(student), teacher)
        variance = F.softplus(self.alpha) + LEAST_VARIANCE
        return torch.mean((mean - teacher) ** 2 / variance + variance.log()) / 2
