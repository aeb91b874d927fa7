"""Masked generative distillation: the student's masked map shall generate the teacher's whole one (MGD)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from training.distill.adapters import make_adapter
from training.distill.losses.base import DistillationLoss, Takes, Usual, paired
from training.errors import LossError


class MGD(DistillationLoss):
    """Masked generation: Yang et al., "Masked Generative Distillation", ECCV 2022.

    L = α · Σ (G(m · align(s)) − t)² / N, G = conv3×3 – ReLU – conv3×3

    The mask m, one for all channels of an image, is 0 where a uniform random number exceeds 1 − λ, else 1; it comes from
    torch's global generator. align is a 1×1 convolution where the channels differ.

    Shapes: student (N, C_s, H, W), teacher (N, C_t, H, W). Reduction: sum over channels and positions, mean over the
    batch.

    Args:
        student_channels: C_s.
        teacher_channels: C_t.
        alpha: α; the authors' 2e-5 for one-stage detectors.
        masked: λ, the share that is masked; the authors' 0.65 for one-stage detectors.

    Raises:
        LossError: λ outside 0…1.

    Example:
        >>> loss = MGD(student_channels=2, teacher_channels=4)
        >>> loss(torch.rand(1, 2, 8, 8), torch.rand(1, 4, 8, 8)).item() > 0
        True
    """

    paper = 'Yang et al. 2022, arXiv 2205.01529'
    takes: ClassVar[Takes] = 'map'
    usual = Usual(weight=1.0)

    def __init__(self, student_channels: int, teacher_channels: int, alpha: float = 2e-5, masked: float = 0.65) -> None:
        super().__init__()
        if not 0 <= masked <= 1:
            raise LossError(f'masked is a share from 0 to 1, not {masked}')
        self.alpha = alpha
        self.masked = masked
        same = student_channels == teacher_channels
        self.align = make_adapter('identity' if same else 'conv', student_channels, teacher_channels)
        self.generation = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of two maps."""
        aligned = self.align(student)
        shape = (len(aligned), 1, *aligned.shape[2:])
        seen = torch.rand(shape, device=aligned.device, dtype=torch.float32) <= 1 - self.masked
        generated, teacher = paired(self.generation(aligned * seen), teacher)
        return self.alpha * torch.sum((generated - teacher) ** 2) / len(teacher)
