"""Attention transfer: where a map is active, not in which channel (AT)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.distill.losses.base import DistillationLoss, Takes, Usual, paired_maps, positive


def attention(feature: Tensor, power: float) -> Tensor:
    """The attention of maps (N, C, H, W): mean over channels of |f|^power, flattened, each row of length 1: (N, H·W)."""
    return F.normalize(feature.abs().pow(power).mean(1).flatten(1))


class AT(DistillationLoss):
    """Attention maps: Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017.

    L = mean((a(s) − a(t))²), a(f) = v / ‖v‖₂, v = flat(mean_c |f|^p)

    Shapes: student (N, C_s, H, W), teacher (N, C_t, H, W); grids may differ, the finer one is averaged. Reduction: mean
    over batch and positions; several layers are summed (OnLevels).

    Args:
        power: p, the paper's 2.

    Raises:
        LossError: power not above 0.

    Example:
        >>> feature = torch.rand(2, 3, 4, 4)
        >>> AT()(feature, 5 * feature).item() < 1e-12  # scale does not count
        True
    """

    paper = 'Zagoruyko and Komodakis 2017, arXiv 1612.03928'
    takes: ClassVar[Takes] = 'map'
    of_places = True
    usual = Usual(weight=1000.0)

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        positive(power=power)
        self.power = power

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of two maps."""
        student, teacher = paired_maps(student, teacher)
        return torch.mean((attention(student, self.power) - attention(teacher, self.power)) ** 2)
