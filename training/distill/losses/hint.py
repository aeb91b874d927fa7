"""The hint loss: the student's map, seen through a regressor, shall equal the teacher's (FitNet)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from training.distill.adapters import make_adapter
from training.distill.losses.base import DistillationLoss, Takes, Usual, paired


class FitNet(DistillationLoss):
    """Hints: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015.

    L = mean((reg(s) − t)²)

    Shapes: student (N, C_s, H, W), teacher (N, C_t, H, W). Reduction: mean over everything.

    Args:
        student_channels: C_s; None, with teacher_channels None, compares without a regressor.
        teacher_channels: C_t.
        adapter: the regressor; RepDistiller's is a 1×1 convolution with batch norm and ReLU.

    Raises:
        LossError: no such adapter.

    Example:
        >>> FitNet()(torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2, 2), 3.0)).item()
        9.0
    """

    paper = 'Romero et al. 2015, arXiv 1412.6550'
    takes: ClassVar[Takes] = 'map'
    usual = Usual(weight=100.0)

    def __init__(
        self,
        student_channels: int | None = None,
        teacher_channels: int | None = None,
        adapter: str = 'conv_bn_relu',
    ) -> None:
        super().__init__()
        self.regressor: nn.Module = nn.Identity()
        if student_channels is not None and teacher_channels is not None:
            self.regressor = make_adapter(adapter, student_channels, teacher_channels)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of two maps."""
        student, teacher = paired(self.regressor(student), teacher)
        return torch.mean((student - teacher) ** 2)
