"""Losses on a classifier's logits: KD and its decoupled form, DKD."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from training.distill.losses.base import DistillationLoss, Takes, Usual, paired, positive, softened_divergence
from training.errors import LossError


class KD(DistillationLoss):
    """Softened class probabilities: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.

    L = T² · Σ_n KL(softmax(t_n / T) ‖ softmax(s_n / T)) / N

    Shapes: student and teacher (N, classes). Reduction: sum over classes, mean over the batch.

    Args:
        temperature: T; 4 is the setting of the CRD comparison (RepDistiller).

    Raises:
        LossError: temperature not above 0.

    Example:
        >>> student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> round(KD(temperature=1)(student, teacher).item(), 4)
        1.5232
    """

    paper = 'Hinton et al. 2015, arXiv 1503.02531'
    takes: ClassVar[Takes] = 'logits'
    usual = Usual(weight=0.9)

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        positive(temperature=temperature)
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of logits (N, classes)."""
        student, teacher = paired(student, teacher)
        return softened_divergence(student, teacher, self.temperature, dim=1).sum() / len(student)


class DKD(DistillationLoss):
    """KD taken apart into the true class and the others: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022.

    L = T² · Σ_n [α · KL(b(t_n) ‖ b(s_n)) + β · KL(o(t_n) ‖ o(s_n))] / N

    with b = (probability of the true class, of all others) and o = softmax over the other classes alone, logits / T.

    Shapes: student and teacher (N, classes), labels (N). Reduction: sum over classes, mean over the batch.

    Args:
        alpha: weight of the true class's term; the paper's 1.
        beta: weight of the other classes' term; the paper's 8 (CIFAR-100; it grows with the teacher's confidence).
        temperature: T, the paper's 4.

    Raises:
        LossError: temperature not above 0.

    Example:
        >>> student, teacher = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[0.0, 2.0, 1.0]])
        >>> round(DKD()(student, teacher, torch.tensor([1])).item(), 4)
        5.01
    """

    paper = 'Zhao et al. 2022, arXiv 2203.08679'
    takes: ClassVar[Takes] = 'logits, labels'
    usual = Usual(weight=1.0, ramp_epochs=20)

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__()
        positive(temperature=temperature)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of logits (N, classes) whose true classes are `labels` (N)."""
        student, teacher = paired(student, teacher)
        if student.ndim != 2 or student.shape[1] < 2 or labels.shape != student.shape[:1]:
            raise LossError(
                f'DKD takes logits (N, 2 classes or more) and labels (N), not {tuple(student.shape)} and '
                f'{tuple(labels.shape)}'
            )
        others = torch.ones_like(student, dtype=torch.bool).scatter_(1, labels[:, None], False)
        target = softened_divergence(
            self._true_against_others(student, others), self._true_against_others(teacher, others), 1.0, dim=1
        ).sum()
        non_target = softened_divergence(
            self._others_alone(student, others), self._others_alone(teacher, others), 1.0, dim=1
        ).sum()
        return (self.alpha * target + self.beta * non_target) * self.temperature**2 / len(student)

    def _true_against_others(self, logits: Tensor, others: Tensor) -> Tensor:
        """Two log-probabilities a row; log-softmax leaves them as they are."""
        log_probabilities = (logits / self.temperature).log_softmax(1)
        true = log_probabilities[~others]
        rest = log_probabilities[others].reshape(len(logits), -1).logsumexp(1)
        return torch.stack([true, rest], 1)

    def _others_alone(self, logits: Tensor, others: Tensor) -> Tensor:
        return logits[others].reshape(len(logits), -1) / self.temperature
