"""One loss on each feature level of a detector (P3, P4, P5 …), summed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.distill.adapters import IndexMatched
from training.distill.losses.base import DistillationLoss
from training.errors import LossError


class OnLevels(nn.Module):
    """A loss of maps on several levels: L = Σ_levels w_level · L_level(adapter(s_level), t_level).

    Args:
        losses: one of each level; losses with parameters must not be shared between levels.
        adapters: of the student's map, one of each level; None leaves it.
        matched: of the teacher's map, one of each level, for a student pruned from it; None leaves it.
        weights: w of each level, to favour the finer levels with their small objects; None weighs all by 1.

    Raises:
        LossError: no level, or lists of different length.

    Example:
        >>> from training.distill.losses.channel_wise import CWD
        >>> students = [torch.rand(1, 2, 8, 8), torch.rand(1, 4, 4, 4)]
        >>> teachers = [torch.rand(1, 2, 8, 8), torch.rand(1, 4, 4, 4)]
        >>> both = OnLevels([CWD(), CWD()])(students, teachers)
        >>> both.equal(CWD()(students[0], teachers[0]) + CWD()(students[1], teachers[1]))
        True
    """

    def __init__(
        self,
        losses: Sequence[DistillationLoss],
        adapters: Sequence[nn.Module] | None = None,
        matched: Sequence[IndexMatched] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not losses:
            raise LossError('there is no feature level to distil')
        for what, given in (('adapters', adapters), ('matchings', matched), ('weights', weights)):
            if given is not None and len(given) != len(losses):
                raise LossError(f'{len(losses)} levels, but {len(given)} {what}')
        self.weights = tuple(weights or [1.0] * len(losses))
        self.losses = nn.ModuleList(losses)
        self.adapters = nn.ModuleList(adapters or [nn.Identity() for _ in losses])
        self.matched = nn.ModuleList(matched or [nn.Identity() for _ in losses])

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        """The sum over the levels.

        Raises:
            LossError: not as many maps as levels.
        """
        if not len(students) == len(teachers) == len(self.losses):
            raise LossError(
                f'{len(self.losses)} levels, but {len(students)} maps of the student and {len(teachers)} of the teacher'
            )
        levels = zip(self.weights, self.losses, self.adapters, self.matched, students, teachers, strict=True)
        return torch.stack(
            [
                weight * loss(adapter(student), match(teacher))
                for weight, loss, adapter, match, student, teacher in levels
            ]
        ).sum()
