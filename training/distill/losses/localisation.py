"""Localisation distillation: the distributions of a box's sides are softened and compared like classes (LD)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from training.distill.losses.base import DistillationLoss, Takes, Usual, paired, positive, softened_divergence
from training.errors import LossError

SIDES = 4


class LD(DistillationLoss):
    """Localisation distillation: Zheng et al., "Localization Distillation for Dense Object Detection", CVPR 2022.

    L = Σ_k w_k · T² · mean_bins(t_k · log(t_k / s_k)) / Σ_k w_k, over the side distributions k, softmax at T

    The *mean* over bins is the authors': the divergence divided by the number of bins.

    Shapes: plain (K, bins), weights (K); a detector's (N, 4·bins, anchors), weights (N, anchors), in which the bins of
    one side lie together (Ultralytics' `boxes`). Reduction: mean over bins, weighted mean over sides. Without weights all
    count alike; a detector's background says little, so weigh by the student's or teacher's best class probability.

    Args:
        temperature: T, the authors' 10.

    Raises:
        LossError: temperature not above 0.

    Example:
        >>> student, teacher = torch.randn(2, 64, 21), torch.randn(2, 64, 21)  # 4 sides of 16 bins, 21 anchors
        >>> LD()(student, teacher, weights=torch.rand(2, 21)).item() > 0
        True
    """

    paper = 'Zheng et al. 2022, arXiv 2102.12252'
    takes: ClassVar[Takes] = 'box distributions'
    usual = Usual(weight=0.25)

    def __init__(self, temperature: float = 10.0) -> None:
        super().__init__()
        positive(temperature=temperature)
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss of logits of bins; `weights` from 0 up, one a distribution or, in a detector, one an anchor."""
        student, teacher = paired(student, teacher)
        student, teacher = _distributions(student), _distributions(teacher)
        per_side = softened_divergence(student, teacher, self.temperature, dim=-1).mean(-1)
        if weights is None:
            return per_side.mean()
        weights = weights.detach().to(per_side)
        if per_side.ndim == 3:
            weights = weights.unsqueeze(1)
        if weights.ndim != per_side.ndim or weights.shape[-1] != per_side.shape[-1] or len(weights) != len(per_side):
            raise LossError(f'weights {tuple(weights.shape)} do not fit the distributions {tuple(student.shape)}')
        weights = weights.expand_as(per_side)
        # With no weight at all there is nothing to learn: 0, not 0 / 0.
        return (weights * per_side).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def _distributions(logits: Tensor) -> Tensor:
    """Bins last: (K, bins), or (N, 4, anchors, bins) of a detector's (N, 4·bins, anchors)."""
    if logits.ndim == 2:
        return logits
    if logits.ndim != 3 or logits.shape[1] % SIDES:
        raise LossError(f'LD takes (K, bins) or (N, 4·bins, anchors), not {tuple(logits.shape)}')
    return logits.reshape(len(logits), SIDES, -1, logits.shape[2]).transpose(2, 3)
