"""Channel-wise distillation: each channel is a distribution over positions (CWD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from training.distill.losses.base import DistillationLoss, Takes, Usual, paired, positive, softened_divergence
from training.errors import LossError


@dataclass(frozen=True)
class Preset:
    """Settings that belong together: temperature, and the weight on features and on logit maps."""

    temperature: float
    feature_weight: float
    logit_weight: float


PRESETS: Mapping[str, Preset] = MappingProxyType({'paper': Preset(4.0, 50.0, 3.0), 'repo': Preset(1.0, 5.0, 10.0)})
"""`paper`: as printed; `repo`: as in the authors' and OpenMMLab's configurations."""


class CWD(DistillationLoss):
    """Channel-wise knowledge distillation: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", 2021.

    L = τ² / (N·C) · Σ_n Σ_c KL(softmax_HW(t_nc / τ) ‖ softmax_HW(s_nc / τ))

    Shapes: student and teacher (N, C, H, W), features or logit maps. Reduction: sum over positions, mean over batch and
    channels.

    Args:
        temperature: τ; None takes the preset's.
        preset: a key of PRESETS; it says which weight belongs to which temperature.

    Attributes:
        preset: the chosen Preset, with the weights.

    Raises:
        LossError: temperature not above 0, or no such preset.

    Example:
        >>> student, teacher = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.0, 2.0]]]])
        >>> round(CWD()(student, teacher).item(), 4)
        0.3278
    """

    paper = 'Shu et al. 2021, arXiv 2011.13256'
    takes: ClassVar[Takes] = 'map'
    of_places = True
    usual = Usual(weight=PRESETS['repo'].feature_weight)

    def __init__(self, temperature: float | None = None, preset: str = 'repo') -> None:
        super().__init__()
        if preset not in PRESETS:
            raise LossError(f'CWD has no preset {preset!r}; presets are {", ".join(PRESETS)}')
        self.preset = PRESETS[preset]
        self.temperature = self.preset.temperature if temperature is None else temperature
        positive(temperature=self.temperature)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of two maps."""
        student, teacher = paired(student, teacher)
        if student.ndim != 4:
            raise LossError(f'CWD takes maps (N, C, H, W), not {tuple(student.shape)}')
        divergence = softened_divergence(student.flatten(2), teacher.flatten(2), self.temperature, dim=2)
        return torch.mean(divergence.sum(2))
