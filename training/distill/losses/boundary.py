"""Activation boundaries: the student's neurons shall be on and off where the teacher's are (AB)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.distill.adapters import make_adapter
from training.distill.losses.base import DistillationLoss, Takes, Usual, paired, positive
from training.errors import LossError


class AB(DistillationLoss):
    """Activation boundaries: Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden
    Neurons", AAAI 2019.

    L = 3/1000 · Σ_i 2^(i−L+1) · Σ [(s + m)²·1(s > −m ∧ t ≤ 0) + (s − m)²·1(s ≤ m ∧ t > 0)] / N, layers i = 0 … L−1

    Takes activations before their ReLU, front layer first; the last layer has weight 1. For the initialisation stage
    only, before the student is trained for its task.

    Shapes: sequences of student (N, C_s, H, W) and teacher (N, C_t, H, W), or one map each. Reduction: sum over
    everything but the batch, mean over the batch.

    Args:
        margin: m, the paper's 1.
        student_channels: C_s of each layer; None, with teacher_channels None, compares without connectors.
        teacher_channels: C_t of each layer; connectors are 1×1 convolutions with batch norm, as in the paper.

    Raises:
        LossError: margin not above 0, or lists of different length.

    Example:
        >>> round(AB()(torch.tensor([[0.5, 2.0]]), torch.tensor([[-1.0, 1.0]])).item(), 6)  # 3/1000 · 1.5²
        0.00675
    """

    paper = 'Heo et al. 2019, arXiv 1811.03233'
    takes: ClassVar[Takes] = 'maps'
    usual = Usual(weight=1.0, initialization_only=True)

    def __init__(
        self,
        margin: float = 1.0,
        student_channels: Sequence[int] | None = None,
        teacher_channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        positive(margin=margin)
        self.margin = margin
        student_channels, teacher_channels = student_channels or (), teacher_channels or ()
        if len(student_channels) != len(teacher_channels):
            raise LossError(f'{len(student_channels)} student layers, but {len(teacher_channels)} of the teacher')
        self.connectors = nn.ModuleList(
            make_adapter('conv_bn', *pair) for pair in zip(student_channels, teacher_channels, strict=True)
        )

    def forward(self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> Tensor:
        """The loss of the layers' activations, from the front to the back."""
        students = [student] if isinstance(student, Tensor) else list(student)
        teachers = [teacher] if isinstance(teacher, Tensor) else list(teacher)
        connected = len(self.connectors) or len(students)
        if not len(students) == len(teachers) == connected:
            raise LossError(f'{len(students)} student maps, {len(teachers)} of the teacher, {connected} connectors')
        if self.connectors:
            students = [connector(map_) for connector, map_ in zip(self.connectors, students, strict=True)]
        last = len(students) - 1
        layers = [
            self._layer(*pair) * 2.0 ** (index - last)
            for index, pair in enumerate(zip(students, teachers, strict=True))
        ]
        return torch.stack(layers).sum() * 3 / 1000

    def _layer(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = paired(student, teacher)
        should_be_off = (student > -self.margin) & (teacher <= 0)
        should_be_on = (student <= self.margin) & (teacher > 0)
        return torch.sum(
            (student + self.margin) ** 2 * should_be_off + (student - self.margin) ** 2 * should_be_on
        ) / len(student)
