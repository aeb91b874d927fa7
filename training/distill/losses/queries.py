"""A set of queries (RT-DETR, or a head that predicts each object once) teaches a dense head: each confident query is a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.distill.losses.base import DistillationLoss, Takes, Usual, positive, widened
from training.distill.losses.detector_scores import generalised_iou
from training.errors import LossError

ALPHA, BETA = 0.5, 6.0
"""Exponents of score and IoU in the alignment: those of Ultralytics' own loss."""
ONE_TO_ONE_CANDIDATES = 7
_TINY = 1e-9


@dataclass(frozen=True)
class Cells:
    """Where the anchors of a dense head stand.

    Attributes:
        centers: (A, 2), x, y in pixels.
        strides: (A), pixels of a cell.
    """

    centers: Tensor
    strides: Tensor


class QueryTargets(DistillationLoss):
    """Queries as soft objects, assigned to the student's anchors as its own loss assigns true ones.

    DETRs are distilled to each other by matching query to query (DETRDistill, ICCV 2023; KD-DETR, CVPR 2024), for which a dense
    head has no counterpart. Here the confident queries, q with p_q = max_c σ(t_qc) ≥ threshold, take the place of the labels in
    generalised focal loss (Li et al., NeurIPS 2020), assigned by task alignment (Feng et al., "TOOD", ICCV 2021):

    - alignment of query q and anchor a, whose centre lies in the query's box: m_qa = σ(s_a,c)^½ · IoU(b_a, B_q)^6, with c the
      query's best class; q takes its `candidates` best anchors, and an anchor taken by several goes to the largest p_q · IoU, so
      that a duplicate of low score displaces nothing;
    - share u_a = m_qa / max_a m_qa over the anchors of q = q(a), 0 for all other anchors. (TOOD multiplies it by the best IoU,
      so that the score says how good the box is. Here the teacher's score says that already, and from the first step on.);
    - targets y_ac = u_a · σ(t_qc), all classes of the query; weights w_a = u_a · p_q;

    L = [Σ_ac |y − σ(s)|^γ · BCE(σ(s), y) + Σ_a w_a · (w_b · (1 − GIoU(b_a, B_q)) + w_d · D_a)] / Σ_a w_a

    D_a, where the student predicts distributions, is the mean over the four sides of distribution focal loss less the entropy of
    its target, i.e. KL(two bins around the query's side ‖ softmax): same gradient, and 0 where they agree. An image without a
    confident query says nothing, and neither do the assignment and u_a have a gradient.

    Shapes: class logits (N, classes, A) and (N, classes, Q); boxes (N, 4, A) and (N, 4, Q), x1, y1, x2, y2 in pixels.
    Reduction: sum over everything, divided by the sum of the weights, at least 1.

    Args:
        threshold: least score of a query that is a target; lower it for a teacher that is seldom sure.
        candidates: anchors of a query, Ultralytics' 10; on a one-to-one branch it keeps the best one of 7.
        gamma: γ of quality focal loss, the authors' 2.
        box_weight: w_b, the authors' 2.
        distribution_weight: w_d, the authors' 0.25.

    Raises:
        LossError: a setting out of its range.

    Example:
        >>> cells = Cells(torch.tensor([[4.0, 4.0]]), torch.tensor([8.0]))
        >>> box = torch.tensor([[[0.0], [0.0], [8.0], [8.0]]])  # one anchor, one query, the same box
        >>> student, teacher = torch.tensor([[[0.0]]]), torch.tensor([[[2.0]]])
        >>> round(QueryTargets()(student, teacher, box, box, cells).item(), 4)  # |σ(2) − ½|² · ln 2, over 1
        0.1005
    """

    paper = 'Li et al. 2020, arXiv 2006.04388; assigned as in Feng et al. 2021, arXiv 2108.07755'
    takes: ClassVar[Takes] = 'queries'
    usual = Usual(weight=1.0)

    def __init__(
        self,
        threshold: float = 0.3,
        candidates: int = 10,
        gamma: float = 2.0,
        box_weight: float = 2.0,
        distribution_weight: float = 0.25,
    ) -> None:
        super().__init__()
        if not 0 < threshold < 1:
            raise LossError(f'threshold is a score between 0 and 1, not {threshold}')
        positive(candidates=candidates, gamma=gamma)
        self.threshold = threshold
        self.candidates = candidates
        self.gamma = gamma
        self.box_weight = box_weight
        self.distribution_weight = distribution_weight

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        student_boxes: Tensor,
        teacher_boxes: Tensor,
        cells: Cells,
        distributions: Tensor | None = None,
        one_to_one: bool = False,
    ) -> Tensor:
        """The loss of class logits and boxes.

        Args:
            student: class logits (N, classes, A).
            teacher: class logits (N, classes, Q).
            student_boxes: (N, 4, A), pixels.
            teacher_boxes: (N, 4, Q), pixels.
            cells: of the student's anchors.
            distributions: of the student's sides, logits (N, 4·bins, A) with the bins of one side together; None has none.
            one_to_one: the student's branch predicts each object by one anchor.

        Raises:
            LossError: student and teacher have other classes or batches, or boxes and scores do not fit.
        """
        student, student_boxes = widened(student), widened(student_boxes)
        scores, boxes = widened(teacher.detach()).sigmoid(), widened(teacher_boxes.detach()).to(student_boxes)
        _check(student, scores, student_boxes, boxes, cells)
        spoken, wanted, wanted_boxes, weights = self._targets(student, scores, student_boxes, boxes, cells, one_to_one)

        student, wanted = student[spoken], wanted[spoken]
        crossed = F.binary_cross_entropy_with_logits(student, wanted, reduction='none')
        difference = (wanted - student.sigmoid()).abs()
        # Clamped, as the derivative of a power below 1 is not defined at 0; the square needs no such care.
        focus = difference.square() if self.gamma == 2 else difference.clamp(min=1e-12).pow(self.gamma)
        loss = torch.sum(focus * crossed)

        image, anchor = weights.nonzero(as_tuple=True)
        weight, found, box = weights[image, anchor], student_boxes[image, :, anchor], wanted_boxes[image, :, anchor]
        loss = loss + self.box_weight * torch.sum(weight * (1 - generalised_iou(found, box)))
        if distributions is not None:
            sides = _sides(box, cells, anchor)
            bins = widened(distributions)[image, :, anchor].reshape(-1, 4, distributions.shape[1] // 4)
            loss = loss + self.distribution_weight * torch.sum(weight * _distribution_distance(bins, sides).mean(1))
        return loss / weights.sum().clamp(min=1)

    @torch.no_grad()
    def _targets(
        self, student: Tensor, scores: Tensor, student_boxes: Tensor, boxes: Tensor, cells: Cells, one_to_one: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Which images have a confident query (N), and of each anchor scores (N, classes, A), box (N, 4, A) and weight (N, A)."""
        wanted, wanted_boxes, weights = (torch.zeros_like(value) for value in (student, student_boxes, student[:, 0]))
        confident = scores.amax(1) >= self.threshold
        for image, chosen in enumerate(confident):
            if not bool(chosen.any()):
                continue
            own, box = scores[image, :, chosen], boxes[image, :, chosen]
            probabilities = student[image].sigmoid()[own.argmax(0)]
            share, query = self._assign(probabilities, student_boxes[image], own.amax(0), box, cells, one_to_one)
            wanted[image] = share * own[:, query]
            wanted_boxes[image] = box[:, query]
            weights[image] = share * own.amax(0)[query]
        return confident.any(1), wanted, wanted_boxes, weights

    def _assign(
        self, probabilities: Tensor, found: Tensor, confidence: Tensor, boxes: Tensor, cells: Cells, one_to_one: bool
    ) -> tuple[Tensor, Tensor]:
        """Of each anchor its share u (A), 0 where it is nobody's, and its query (A).

        Args:
            probabilities: (q, A) that the student gives to each query's class.
            found: (4, A), the student's boxes.
            confidence: (q).
            boxes: (4, q).
            cells: of the anchors.
            one_to_one: one anchor for a query.
        """
        overlaps = iou(boxes.unsqueeze(2), found.unsqueeze(1)) * _inside(boxes, cells)
        aligned = probabilities.pow(ALPHA) * overlaps.pow(BETA)
        candidates = ONE_TO_ONE_CANDIDATES if one_to_one else self.candidates
        taken = _best(aligned, candidates)
        query = (confidence.unsqueeze(1) * overlaps * taken).argmax(0)
        taken &= torch.arange(len(boxes.T), device=query.device).unsqueeze(1) == query
        if one_to_one:
            taken &= _best(aligned * taken, 1)
        aligned = aligned * taken
        shares = aligned / aligned.amax(1, keepdim=True).clamp(min=torch.finfo(aligned.dtype).tiny)
        return shares.amax(0), query


def _check(student: Tensor, scores: Tensor, student_boxes: Tensor, boxes: Tensor, cells: Cells) -> None:
    if student.ndim != 3 or scores.ndim != 3 or student.shape[:2] != scores.shape[:2]:
        raise LossError(
            f'the student is {tuple(student.shape)} and the teacher {tuple(scores.shape)}: both must be class logits '
            '(N, classes, anchors or queries) of the same classes'
        )
    for whose, logits, its in (('student', student, student_boxes), ('teacher', scores, boxes)):
        if its.shape != (len(logits), 4, logits.shape[2]):
            raise LossError(f"the {whose}'s boxes {tuple(its.shape)} do not fit its scores {tuple(logits.shape)}")
    if cells.centers.shape != (student.shape[2], 2) or cells.strides.shape != (student.shape[2],):
        raise LossError(f'{len(cells.centers)} cells do not fit {student.shape[2]} anchors')


def iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes whose coordinates are axis 0, which broadcast against each other."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a, b
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    common = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - common
    overlap: Tensor = common / union.clamp(min=_TINY)
    return overlap


def _inside(boxes: Tensor, cells: Cells) -> Tensor:
    """Whether each anchor's centre lies in each box (q, A); boxes smaller than two of the finest cells grow to that size."""
    middles, halves = (boxes[:2] + boxes[2:]) / 2, ((boxes[2:] - boxes[:2]) / 2).clamp(min=cells.strides.amin())
    away = (cells.centers.T.unsqueeze(1) - middles.unsqueeze(2)).abs()
    return torch.all(away < halves.unsqueeze(2), 0)


def _best(values: Tensor, count: int) -> Tensor:
    """Marks the largest values of each row that are above 0."""
    places = values.topk(min(count, values.shape[1]), dim=1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, places, True) & (values > 0)


def _sides(boxes: Tensor, cells: Cells, anchor: Tensor) -> Tensor:
    """Left, top, right and bottom (K, 4) of boxes from their anchors' centres, in cells."""
    centers = cells.centers[anchor]
    return torch.cat([centers - boxes[:, :2], boxes[:, 2:] - centers], 1) / cells.strides[anchor].unsqueeze(1)


def _distribution_distance(bins: Tensor, sides: Tensor) -> Tensor:
    """KL (K, 4) of the two bins around each side from the softmax of logits (K, 4, bins)."""
    sides = sides.clamp(0, bins.shape[2] - 1 - 0.01)
    left = sides.long()
    share = torch.stack([left + 1 - sides, sides - left], 2)
    logs = F.log_softmax(bins, 2).gather(2, torch.stack([left, left + 1], 2))
    return torch.sum(torch.xlogy(share, share) - share * logs, 2)
