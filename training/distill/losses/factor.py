"""Factor transfer: the student's translation shall resemble the teacher's paraphrase (FT)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from training.distill.losses.attention import attention
from training.distill.losses.base import DistillationLoss, Takes, Usual, paired_maps, widened
from training.errors import LossError


class FT(DistillationLoss):
    """Factors: Kim et al., "Paraphrasing Complex Network: Network Compression via Factor Transfer", NeurIPS 2018.

    L = mean |a(F_s) − a(F_t)|, a as in AT, F_s = translator(s), F_t = paraphraser(t)

    The paraphraser, an autoencoder of the teacher's map, is trained first with `reconstruction`; the loss leaves it as it
    is. The translator is trained with the student.

    Shapes: student (N, C_s, H, W), teacher (N, C_t, H, W); grids may differ, the finer one is averaged. Reduction: mean
    over batch and positions.

    Args:
        student_channels: C_s.
        teacher_channels: C_t.
        ratio: channels of a factor over C_t, the paper's 0.5.

    Raises:
        LossError: a ratio that leaves no channel.

    Example:
        >>> loss = FT(student_channels=2, teacher_channels=4)
        >>> student, teacher = torch.rand(2, 2, 4, 4), torch.rand(2, 4, 4, 4)
        >>> loss.reconstruction(teacher).backward()  # the first stage, before the student's training
        >>> loss(student, teacher).item() > 0
        True
    """

    paper = 'Kim et al. 2018, arXiv 1802.04977'
    takes: ClassVar[Takes] = 'map'
    of_places = True
    usual = Usual(weight=200.0)

    def __init__(self, student_channels: int, teacher_channels: int, ratio: float = 0.5) -> None:
        super().__init__()
        factors = int(teacher_channels * ratio)
        if factors < 1:
            raise LossError(f'a ratio of {ratio} leaves no channel of {teacher_channels}: raise it')
        self.translator = nn.Sequential(
            *_layer(student_channels, student_channels, normalized=True),
            *_layer(student_channels, factors, normalized=True),
            *_layer(factors, factors, normalized=True),
        )
        self.paraphraser = nn.Sequential(
            *_layer(teacher_channels, teacher_channels),
            *_layer(teacher_channels, factors),
            *_layer(factors, factors),
        )
        self.decoder = nn.Sequential(
            *_layer(factors, factors, transposed=True),
            *_layer(factors, teacher_channels, transposed=True),
            *_layer(teacher_channels, teacher_channels, transposed=True),
        )

    def reconstruction(self, teacher: Tensor) -> Tensor:
        """The first stage's loss: mean squared error of the teacher's map from its factors."""
        teacher = widened(teacher.detach())
        return F.mse_loss(self.decoder(self.paraphraser(teacher)), teacher)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of two maps."""
        with torch.no_grad():
            wanted = self.paraphraser(teacher)
        return factor_distance(self.translator(student), wanted)


def factor_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean absolute difference of two factors' attention.

    Example:
        >>> factor = torch.rand(2, 3, 4, 4)
        >>> factor_distance(factor, 2 * factor).item() < 1e-6
        True
    """
    student, teacher = paired_maps(student, teacher)
    return torch.mean((attention(student, 2) - attention(teacher, 2)).abs())


def _layer(inputs: int, outputs: int, *, normalized: bool = False, transposed: bool = False) -> list[nn.Module]:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layers: list[nn.Module] = [kind(inputs, outputs, 3, padding=1)]
    if normalized:
        layers.append(nn.BatchNorm2d(outputs))
    return [*layers, nn.LeakyReLU(0.1)]
