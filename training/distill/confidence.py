"""How right a teacher is about an image that has labels, and how sure of one that has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.distill.losses.queries import iou
from training.distill.outputs import QUERIES, Branch, Outputs, Shape, decode

NEAR = 0.5
"""Overlap with a true box from which on a prediction is no false alarm."""
LEAST = 1e-6
"""Of probabilities, so that their logarithms are finite."""


@dataclass(frozen=True)
class Truth:
    """The labels of a batch; unlabelled images come behind the labelled ones.

    Attributes:
        boxes: of each labelled image (M, 4), x1, y1, x2, y2 in pixels.
        class_ids: of each labelled image (M).
        size: of all images in pixels, which are square.
    """

    boxes: Sequence[Tensor]
    class_ids: Sequence[Tensor]
    size: int

    @property
    def images(self) -> int:
        """How many have labels."""
        return len(self.boxes)


def errors(outputs: Outputs, shape: Shape, truth: Truth) -> Tensor:
    """A detector's cross-entropy on each labelled image (N), in nats an object.

    An object counts −log of the best p(its class)·IoU over all predictions: it is found, as what it is and where it is. A
    prediction that overlaps no true box by half counts −log(1 − its best p): it is no false alarm.

        L = (Σ_objects −log max_a p_a,c·IoU_a + Σ_others −log(1 − max_c p_a,c)) / max(objects, 1)

    Args:
        outputs: of a YOLO's head, or RT-DETR's queries.
        shape: of that head.
        truth: of the same images.
    """
    branch = judged_branch(outputs)
    relative = QUERIES in outputs.branches
    boxes = branch['boxes'] * truth.size if relative else decode(branch, shape.bins, shape.strides)
    boxes = boxes.transpose(1, 2)
    values = [
        _error(logits, own, *labels)
        for logits, own, *labels in zip(branch['scores'], boxes, truth.boxes, truth.class_ids, strict=True)
    ]
    return torch.stack(values) if values else branch['scores'].new_zeros(0)


def _error(logits: Tensor, boxes: Tensor, true_boxes: Tensor, class_ids: Tensor) -> Tensor:
    """Of one image: logits (C, A), boxes (A, 4), true boxes (M, 4) and their classes (M)."""
    alarms = -F.logsigmoid(-logits.amax(0))
    if not len(true_boxes):
        return alarms.sum()
    overlaps = iou(true_boxes.T.unsqueeze(2), boxes.T.unsqueeze(1))
    found = (logits[class_ids].sigmoid() * overlaps).amax(1).clamp(min=LEAST)
    error: Tensor = (alarms[overlaps.amax(0) < NEAR].sum() - found.log().sum()) / len(true_boxes)
    return error


def doubts(outputs: Outputs) -> Tensor:
    """A detector's entropy on each image (N), in nats for each object that it finds: Σ_a H(p_a) / Σ_a p_a.

    H is the entropy of "object or not", p_a the best class probability of a prediction. It is near 0 where every prediction is
    sure of an object or has none, and large where objects are many at a low probability.
    """
    logits = judged_branch(outputs)['scores'].amax(1)
    likely = logits.sigmoid()
    entropy = -(likely * F.logsigmoid(logits) + (1 - likely) * F.logsigmoid(-logits))
    doubt: Tensor = entropy.sum(1) / likely.sum(1).clamp(min=LEAST)
    return doubt


def judged_branch(outputs: Outputs) -> Branch:
    """The branch by which a teacher is judged."""
    return outputs.branches[QUERIES if QUERIES in outputs.branches else 'one2many']


def rank(mistakes: Tensor) -> Tensor:
    """Weights (K, N) of K teachers from their errors (K, N): (1 − softmax over teachers) / (K − 1), CA-MKD's equation 3."""
    if len(mistakes) == 1:
        return torch.ones_like(mistakes)
    return (1 - mistakes.softmax(0)) / (len(mistakes) - 1)
