"""Which detections are right: greedy matching by score, with crowds and ignored regions judged neither way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections
from kd_perception.detection.overlap import iou, share_inside

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Judged:
    """Every detection that may be judged, over all images, by falling score.

    Attributes:
        scores: float64 (N,).
        right: bool (N,), true where the detection found an object.
        class_ids: int32 (N,).
        objects: int (C,), objects of each class, crowds left out.
        images: number of images.
    """

    scores: FloatArray
    right: BoolArray
    class_ids: npt.NDArray[np.int32]
    objects: npt.NDArray[np.int64]
    images: int

    def of_class(self, class_id: int) -> Judged:
        """Only what concerns one class."""
        mine = self.class_ids == class_id
        return Judged(
            self.scores[mine],
            self.right[mine],
            self.class_ids[mine],
            self.objects[class_id : class_id + 1],
            self.images,
        )


def judge(
    detections: Sequence[Detections], truth: Sequence[GroundTruth], class_count: int, iou_threshold: float = 0.5
) -> Judged:
    """Judge every detection once. Greedy matching by score makes the verdicts valid at any score threshold."""
    scores, rights, classes = [], [], []
    for found, there in zip(detections, truth, strict=True):
        real = there.objects.select(~there.crowd)
        right = match(found, real, iou_threshold)
        counts = right | ~excused(found, there)
        scores.append(found.scores[counts])
        rights.append(right[counts])
        classes.append(found.class_ids[counts])
    all_scores = np.concatenate([np.zeros(0), *scores])
    order = np.argsort(-all_scores, kind='stable')
    ids = np.concatenate([np.zeros(0, np.int32), *(there.objects.class_ids[~there.crowd] for there in truth)])
    return Judged(
        scores=all_scores[order],
        right=np.concatenate([np.zeros(0, np.bool_), *rights])[order],
        class_ids=np.concatenate([np.zeros(0, np.int32), *classes])[order],
        objects=np.bincount(ids, minlength=class_count),
        images=len(truth),
    )


def match(detections: Detections, objects: Detections, iou_threshold: float) -> BoolArray:
    """Which detections found an object: bool (N,)."""
    return assign(detections, objects, iou_threshold) >= 0


def assign(detections: Detections, objects: Detections, iou_threshold: float) -> npt.NDArray[np.int64]:
    """By falling score, each detection takes the free object of its class with the highest IoU.

    Returns:
        int (N,), in the order of `detections`: index of the object, -1 where there is none.
    """
    overlaps = iou(detections.boxes, objects.boxes)
    overlaps[detections.class_ids[:, None] != objects.class_ids[None]] = 0
    taken = np.full(len(detections), -1, np.int64)
    if not len(objects):
        return taken
    for index in np.argsort(-detections.scores, kind='stable'):
        best = int(overlaps[index].argmax())
        if overlaps[index, best] >= iou_threshold:
            taken[index] = best
            overlaps[:, best] = 0
    return taken


def excused(detections: Detections, truth: GroundTruth) -> BoolArray:
    """Detections of which half or more lies in a crowd of their class or in an ignored region."""
    crowd = truth.objects.select(truth.crowd)
    inside_crowd = share_inside(detections.boxes, crowd.boxes)
    inside_crowd[detections.class_ids[:, None] != crowd.class_ids[None]] = 0
    inside = np.concatenate([inside_crowd, share_inside(detections.boxes, truth.ignored)], axis=1)
    return np.asarray((inside >= 0.5).any(axis=1))
