"""Losses on the relations between a batch's samples: SP, CC, RKD and PKT.

They compare how the samples lie to each other, so student and teacher may have features of different length.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from training.distill.losses.base import DistillationLoss, Takes, Usual, paired_samples

PKT_EPSILON = 1e-7


class SP(DistillationLoss):
    """Similarity preserving: Tung, Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019.

    L = ‖G(t) − G(s)‖²_F / N², G(f) = f·fᵀ with rows of length 1

    Shapes: student (N, …), teacher (N, …), flattened. Reduction: mean over the N² pairs.

    Example:
        >>> feature = torch.rand(3, 2, 4, 4)
        >>> SP()(feature, torch.cat([feature, feature], 1)).item() < 1e-12  # a doubled feature relates alike
        True
    """

    paper = 'Tung and Mori 2019, arXiv 1907.09682'
    takes: ClassVar[Takes] = 'vectors'
    usual = Usual(weight=3000.0)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of two batches of features."""
        student, teacher = paired_samples(student, teacher)
        return torch.mean((F.normalize(teacher @ teacher.T) - F.normalize(student @ student.T)) ** 2)


class CC(DistillationLoss):
    """Correlation congruence, as RepDistiller has it: Peng et al., "Correlation Congruence for Knowledge Distillation".

    L = mean_n Σ_d δ_n,d · δ_n+1,d, δ = |A·s − B·t|

    A and B are linear embeddings, both trained. Neighbours in the batch are the pairs.

    Shapes: student (N, …) of student_features values, teacher (N, …) of teacher_features. Reduction: sum over the
    embedding, mean over the N − 1 pairs.

    Args:
        student_features: values of a student's sample.
        teacher_features: values of a teacher's sample.
        features: length of the embedding, RepDistiller's 128.

    Example:
        >>> loss = CC(student_features=8, teacher_features=16)
        >>> loss(torch.rand(4, 8), torch.rand(4, 16)).item() > 0
        True
    """

    paper = 'Peng et al. 2019, arXiv 1904.01802'
    takes: ClassVar[Takes] = 'vectors'
    usual = Usual(weight=0.02)

    def __init__(self, student_features: int, teacher_features: int, features: int = 128) -> None:
        super().__init__()
        self.student_embedding = nn.Linear(student_features, features)
        self.teacher_embedding = nn.Linear(teacher_features, features)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of two batches of features."""
        student, teacher = paired_samples(student, teacher, least=2)
        difference = (self.student_embedding(student) - self.teacher_embedding(teacher)).abs()
        return torch.mean((difference[:-1] * difference[1:]).sum(1))


class RKD(DistillationLoss):
    """Relational distances and angles: Park et al., "Relational Knowledge Distillation", CVPR 2019.

    L = w_d · smoothL1(d(s), d(t)) + w_a · smoothL1(∠(s), ∠(t))

    d are the distances of all N² pairs over the mean of the positive ones, ∠ the cosines of the angles in all N³
    triplets. Means run over all pairs and triplets, the degenerate ones (distance and cosine 0) included.

    Shapes: student (N, …), teacher (N, …), flattened; memory N³ + N²·D, so pool maps first.

    Args:
        distance_weight: w_d, the paper's 25.
        angle_weight: w_a, the paper's 50.

    Example:
        >>> feature = torch.rand(4, 8)
        >>> RKD()(feature, 3 * feature).item() < 1e-6  # scale does not count
        True
    """

    paper = 'Park et al. 2019, arXiv 1904.05068'
    takes: ClassVar[Takes] = 'vectors'
    usual = Usual(weight=1.0)

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of two batches of features."""
        student, teacher = paired_samples(student, teacher)
        student_distances, student_angles = _distances_and_angles(student)
        teacher_distances, teacher_angles = _distances_and_angles(teacher)
        distance = F.smooth_l1_loss(student_distances, teacher_distances)
        angle = F.smooth_l1_loss(student_angles, teacher_angles)
        return self.distance_weight * distance + self.angle_weight * angle


def _distances_and_angles(samples: Tensor) -> tuple[Tensor, Tensor]:
    edges = samples.unsqueeze(0) - samples.unsqueeze(1)
    distances = torch.linalg.vector_norm(edges, dim=2)
    apart = distances > 0
    mean = distances[apart].mean() if bool(apart.any()) else distances.new_ones(())
    directions = F.normalize(edges, dim=2)
    return distances / mean, directions @ directions.transpose(1, 2)


class PKT(DistillationLoss):
    """Probabilities of being neighbours: Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge
    Transfer", ECCV 2018.

    L = mean_ij p_t · log((p_t + ε) / (p_s + ε)), p = rows of (cos + 1) / 2, each divided by its sum; ε = 1e-7

    Shapes: student (N, …), teacher (N, …), flattened. Reduction: mean over the N² pairs.

    Example:
        >>> feature = torch.rand(4, 8)
        >>> abs(PKT()(feature, 3 * feature).item()) < 1e-6
        True
    """

    paper = 'Passalis and Tefas 2018, arXiv 1803.10837'
    takes: ClassVar[Takes] = 'vectors'
    usual = Usual(weight=30000.0)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of two batches of features."""
        student, teacher = paired_samples(student, teacher)
        found, wanted = _neighborhood(student), _neighborhood(teacher)
        return torch.mean(wanted * torch.log((wanted + PKT_EPSILON) / (found + PKT_EPSILON)))


def _neighborhood(samples: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(samples, dim=1, keepdim=True)
    directions = samples / (lengths + PKT_EPSILON)
    similarity = (directions @ directions.T + 1) / 2
    return F.normalize(similarity, p=1, dim=1)
