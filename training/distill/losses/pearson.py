"""Losses by Pearson correlation, blind to scale and offset: DIST of class probabilities, PKD of maps."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from training.distill.losses.base import DistillationLoss, Takes, Usual, paired, positive
from training.errors import LossError


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's ρ of each row of `a` (n, m) with the same row of `b`: (n). A constant row has ρ = 0.

    The authors' 1e-8 is added to the product of the lengths: it shows where probabilities hardly vary.
    """
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    lengths: Tensor = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return torch.sum(a * b, 1) / (lengths + 1e-8)


class DIST(DistillationLoss):
    """Relations between and within classes: Huang et al., "Knowledge Distillation from A Stronger Teacher", 2022.

    L = τ² · [β·(1 − mean_n ρ(row n of p_s, row n of p_t)) + γ·(1 − mean_c ρ(column c of p_s, column c of p_t))]

    with p = softmax(logits / τ). Shapes: student and teacher (N, classes); N of 2 at least, or the columns say nothing.
    Reduction: mean over rows, mean over columns.

    Args:
        beta: weight of the rows (between classes), the paper's 1.
        gamma: weight of the columns (within a class), the paper's 1.
        temperature: τ, the paper's 1.

    Raises:
        LossError: temperature not above 0.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
        >>> round(DIST()(-logits, logits).item(), 4)
        3.5338
    """

    paper = 'Huang et al. 2022, arXiv 2205.10536'
    takes: ClassVar[Takes] = 'logits'
    usual = Usual(weight=1.0)

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        positive(temperature=temperature)
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of logits (N, classes)."""
        student, teacher = paired(student, teacher)
        student, teacher = (logits.div(self.temperature).softmax(1) for logits in (student, teacher))
        between = 1 - correlation(student, teacher).mean()
        within = 1 - correlation(student.T, teacher.T).mean()
        return self.temperature**2 * (self.beta * between + self.gamma * within)


class PKD(DistillationLoss):
    """Normalized maps: Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation".

    L = mean((z(s) − z(t))²) / 2, z(f) = (f − mean) / (std + 1e-6) of each channel over batch and positions

    Half the squared distance of two such channels is 1 − ρ, hence the name. std is the unbiased one.

    Shapes: student and teacher (N, C, H, W). Reduction: mean over everything; levels are summed (OnLevels).

    Example:
        >>> feature = torch.rand(2, 3, 4, 4)
        >>> PKD()(feature, 5 * feature + 1).item() < 1e-6
        True
    """

    paper = 'Cao et al. 2022, arXiv 2207.02039'
    takes: ClassVar[Takes] = 'map'
    usual = Usual(weight=6.0)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of two maps."""
        student, teacher = paired(student, teacher)
        if student.ndim != 4 or student[:, 0].numel() < 2:
            raise LossError(f'PKD takes maps (N, C, H, W) of 2 positions at least, not {tuple(student.shape)}')
        return torch.mean((_standardised(student) - _standardised(teacher)) ** 2) / 2


def _standardised(feature: Tensor) -> Tensor:
    channels = feature.transpose(0, 1).flatten(1)
    return (channels - channels.mean(1, keepdim=True)) / (channels.std(1, keepdim=True) + 1e-6)
