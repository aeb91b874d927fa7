"""How far the detections of one way to run a network lie from those of FP32: without it a speed says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kd_perception.detection.detections import Detections
from kd_perception.detection.overlap import iou

SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True)
class Parity:
    """Detections against those of the reference on the same images, at the bundle's threshold.

    Attributes:
        reference: how many detections the reference has.
        missing: how many of them have no counterpart of the same class with an IoU of at least 0.5.
        extra: how many detections have no counterpart in the reference.
        worst_score: largest difference of scores between counterparts; 0 where there are none.
        worst_iou: lowest IoU between counterparts; 1 where there are none.
    """

    reference: int
    missing: int
    extra: int
    worst_score: float
    worst_iou: float


def compare(reference: Sequence[Detections], found: Sequence[Detections]) -> Parity:
    """Compare the detections of the same images."""
    missing = extra = 0
    scores, overlaps = [0.0], [1.0]
    for ours, theirs in zip(reference, found, strict=True):
        pairs = _pairs(ours, theirs)
        missing += len(ours) - len(pairs)
        extra += len(theirs) - len(pairs)
        scores += [abs(float(ours.scores[i] - theirs.scores[j])) for i, j, _ in pairs]
        overlaps += [overlap for _, _, overlap in pairs]
    return Parity(sum(map(len, reference)), missing, extra, max(scores), min(overlaps))


def _pairs(ours: Detections, theirs: Detections) -> list[tuple[int, int, float]]:
    """Counterparts, the best overlapping first; each detection has at most one."""
    overlap = iou(ours.boxes, theirs.boxes) * (ours.class_ids[:, None] == theirs.class_ids[None])
    pairs = []
    while overlap.size and overlap.max() >= SAME_OBJECT_IOU:
        i, j = (int(index) for index in np.unravel_index(overlap.argmax(), overlap.shape))
        pairs.append((i, j, float(overlap[i, j])))
        overlap[i] = overlap[:, j] = 0
    return pairs
