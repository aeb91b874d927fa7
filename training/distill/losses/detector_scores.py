"""Losses on the outputs of detectors that score each class by a sigmoid: BCKD (CrossKD's class term) and binary KD.

The axis of classes and of box coordinates is 1: (K, classes), or a detector's (N, classes, anchors).
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.distill.losses.base import DistillationLoss, Takes, Usual, paired, positive
from training.errors import LossError

ANCHORS = ('score', 'all')


class BCKD(DistillationLoss):
    """Classes as independent binary maps: Yang et al., "Bridging Cross-task Protocol Inconsistency for Distillation in
    Dense Object Detection", ICCV 2023; the class term is also CrossKD's (Wang et al., CVPR 2024).

    L = [w_c · Σ |σ(t) − σ(s)|^β · BCE(σ(s), σ(t)) + w_b · Σ_a max_c |σ(t) − σ(s)| · (1 − GIoU(box_s, box_t))] / n_pos

    The first factor is differentiated too, as in focal losses; the second, the boxes' weight, is not.

    Shapes: logits (K, classes) or (N, classes, anchors); boxes x1, y1, x2, y2 in any unit, (K, 4) or (N, 4, anchors).
    Reduction: sum over everything, divided by the number of positive anchors.

    Args:
        beta: β, the authors' 1.
        class_weight: w_c, the authors' 1.
        box_weight: w_b, the authors' 4.

    Example:
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[4.0, -4.0]])
        >>> round(BCKD()(student, teacher).item(), 4)
        0.6682
    """

    paper = 'Yang et al. 2023, arXiv 2308.14286; Wang et al. 2024, arXiv 2306.11369'
    takes: ClassVar[Takes] = 'class scores'
    usual = Usual(weight=1.0)

    def __init__(self, beta: float = 1.0, class_weight: float = 1.0, box_weight: float = 4.0) -> None:
        super().__init__()
        positive(beta=beta)
        self.beta = beta
        self.class_weight = class_weight
        self.box_weight = box_weight

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        positives: float | Tensor = 1.0,
        student_boxes: Tensor | None = None,
        teacher_boxes: Tensor | None = None,
    ) -> Tensor:
        """The loss of class logits, and of boxes where both are given; fewer than 1 positive count as 1."""
        student, teacher = paired(student, teacher)
        wanted = teacher.sigmoid()
        difference = (wanted - student.sigmoid()).abs()
        crossed = F.binary_cross_entropy_with_logits(student, wanted, reduction='none')
        # x^1 is left out: its derivative at 0 is defined, that of a general power is not.
        focus = difference if self.beta == 1 else difference.clamp(min=1e-12).pow(self.beta)
        loss = self.class_weight * torch.sum(focus * crossed)
        if student_boxes is not None and teacher_boxes is not None:
            weight = difference.detach().amax(1)
            loss = loss + self.box_weight * torch.sum(weight * _box_distance(student_boxes, teacher_boxes, weight))
        return loss / torch.as_tensor(positives, dtype=loss.dtype, device=loss.device).clamp(min=1)


class CrossKD(BCKD):
    """Wang et al., "CrossKD: Cross-Head Knowledge Distillation for Object Detection", CVPR 2024.

    BCKD's formula, but the student's side is what the rest of the teacher's head makes of the first layer of the student's head.
    So the student's own predictions are left to the labels, with which the teacher may disagree. In the trainer,
    `training.distill.cross_head` leads it there.

    Shapes: as BCKD's.

    Example:
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[4.0, -4.0]])
        >>> round(CrossKD()(student, teacher).item(), 4)
        0.6682
    """

    paper = 'Wang et al. 2024, arXiv 2306.11369'
    takes: ClassVar[Takes] = 'cross head'
    usual = Usual(weight=1.0)


class BinaryKD(DistillationLoss):
    """KD for sigmoid scores: each class of each anchor is a softened yes or no.

    L = T² · Σ_a w_a · Σ_c KL(Bernoulli(σ(t / T)) ‖ Bernoulli(σ(s / T))) / n_pos

    w_a is the teacher's best probability at the anchor, max_c σ(t). Without it (`anchors: all`, w_a = 1) a temperature raises
    the background: σ(−8) is 0.0003, but σ(−8 / 3) is 0.06, at thousands of anchors. At T = 1 the gradient is that of
    weighted binary cross-entropy with the teacher's probabilities as targets; unlike that, the loss is 0 where student and
    teacher agree. This is the logit term of the YOLOv8 study of arXiv 2604.26857 as far as it is described.

    Shapes: (K, classes) or (N, classes, anchors). Reduction: sum over everything, divided by the number of positive
    anchors.

    Args:
        temperature: T.
        anchors: `score` weighs anchors by the teacher's best probability, `all` counts each alike.

    Raises:
        LossError: temperature not above 0, or another word for the anchors.

    Example:
        >>> student, teacher = torch.tensor([[0.0]]), torch.tensor([[2.0]])
        >>> round(BinaryKD(temperature=1, anchors='all')(student, teacher).item(), 4)
        0.3278
    """

    paper = 'Hinton et al. 2015, arXiv 1503.02531, for sigmoids'
    takes: ClassVar[Takes] = 'class scores'
    usual = Usual(weight=1.0)
    revision = 1  # anchors were not weighted before

    def __init__(self, temperature: float = 1.0, anchors: str = 'score') -> None:
        super().__init__()
        positive(temperature=temperature)
        if anchors not in ANCHORS:
            raise LossError(f'anchors must be one of {", ".join(ANCHORS)}, not {anchors!r}')
        self.temperature = temperature
        self.anchors = anchors

    def forward(self, student: Tensor, teacher: Tensor, positives: float | Tensor = 1.0) -> Tensor:
        """The loss of class logits; fewer than 1 positive count as 1."""
        student, teacher = paired(student, teacher)
        certain = teacher.sigmoid().amax(1, keepdim=True)
        weight = certain if self.anchors == 'score' else torch.ones_like(certain)
        student, teacher = student / self.temperature, teacher / self.temperature
        yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
        no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
        loss = self.temperature**2 * torch.sum(weight * (yes + no))
        return loss / torch.as_tensor(positives, dtype=loss.dtype, device=loss.device).clamp(min=1)


def _box_distance(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """1 − GIoU of boxes whose coordinates are axis 1."""
    student, teacher = paired(student, teacher)
    if student.ndim < 2 or student.shape[1] != 4 or student[:, 0].shape != weight.shape:
        raise LossError(f'boxes {tuple(student.shape)} do not fit scores of {tuple(weight.shape)} anchors')
    return 1 - generalised_iou(student, teacher)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of boxes x1, y1, x2, y2 (axis 1), pair by pair: −1 (far apart) to 1 (equal).

    Example:
        >>> a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3]])
        >>> round(generalised_iou(a, b).item(), 4)  # 1 / 7 − 2 / 9
        -0.0794
    """
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.unbind(1), b.unbind(1)
    overlap = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0) * (
        torch.minimum(ay2, by2) - torch.maximum(ay1, by1)
    ).clamp(min=0)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - overlap
    hull = (torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)) * (torch.maximum(ay2, by2) - torch.minimum(ay1, by1))
    least = torch.finfo(union.dtype).eps
    return overlap / union.clamp(min=least) - (hull - union) / hull.clamp(min=least)
