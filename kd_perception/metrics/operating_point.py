"""How a detector behaves at one score threshold, and whether its scores mean what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_perception.detection.detections import FloatArray
from kd_perception.metrics.matching import Judged

CALIBRATION_BINS = 10


@dataclass(frozen=True)
class OperatingPoint:
    """Behavior at a score threshold and IoU 0.5, all classes together.

    Attributes:
        threshold: the lowest score that counts.
        precision: right ÷ found; 0 when nothing is found.
        recall: right ÷ objects; 0 when there are none.
        f1: harmonic mean of the two.
        false_alarms_per_image: wrong detections ÷ images.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    false_alarms_per_image: float


def operating_point(judged: Judged, threshold: float, lowest: FloatArray | None = None) -> OperatingPoint:
    """Behavior at a given threshold; `lowest` (C,) are those of each class where they differ."""
    kept = judged.scores >= (threshold if lowest is None else lowest[judged.class_ids])
    found, right, objects = int(kept.sum()), int(judged.right[kept].sum()), int(judged.objects.sum())
    precision = right / found if found else 0.0
    recall = right / objects if objects else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return OperatingPoint(threshold, precision, recall, f1, (found - right) / judged.images if judged.images else 0.0)


def at_recall(judged: Judged, recall: float) -> OperatingPoint | None:
    """Behavior at the highest threshold that reaches `recall`; None where no threshold does."""
    objects = int(judged.objects.sum())
    reached = np.cumsum(judged.right) >= max(recall * objects - 1e-9, 1)
    if not objects or not reached.any():
        return None
    return operating_point(judged, float(judged.scores[int(reached.argmax())]))


def at_false_alarms(judged: Judged, per_image: float) -> OperatingPoint | None:
    """Behavior at the lowest threshold with at most so many false alarms per image; None where even the highest has more."""
    last = np.append(np.diff(judged.scores) != 0, True)[: len(judged.scores)]  # equal scores are kept or left together
    allowed = last & (np.cumsum(~judged.right) <= per_image * judged.images + 1e-9)
    if not allowed.any():
        return None
    return operating_point(judged, float(judged.scores[np.flatnonzero(allowed)[-1]]))


@dataclass(frozen=True)
class ReliabilityBin:
    """Detections of similar score: a calibrated detector's precision equals its mean score."""

    low: float
    high: float
    detections: int
    mean_score: float
    precision: float


@dataclass(frozen=True)
class Calibration:
    """Detection calibration error over confidence (D-ECE; Küppers et al., "Multivariate Confidence Calibration for Object
    Detection", CVPR Workshops 2020, with the score as the only dimension).

    Attributes:
        error: Σ over bins of the bin's share of detections times |precision − mean score|, 0 … 1.
        min_score: only detections from here on are regarded.
        bins: non-empty bins of equal width from `min_score` to 1.
    """

    error: float
    min_score: float
    bins: tuple[ReliabilityBin, ...]


def calibration(judged: Judged, min_score: float) -> Calibration:
    """D-ECE of the detections with at least `min_score`."""
    kept = judged.scores >= min_score
    scores, right = judged.scores[kept], judged.right[kept]
    edges = np.linspace(min_score, 1.0, CALIBRATION_BINS + 1)
    indices = np.clip(np.digitize(scores, edges) - 1, 0, CALIBRATION_BINS - 1)
    bins = tuple(
        ReliabilityBin(
            low=float(edges[index]),
            high=float(edges[index + 1]),
            detections=int(members.sum()),
            mean_score=float(scores[members].mean()),
            precision=float(right[members].mean()),
        )
        for index in range(CALIBRATION_BINS)
        if (members := indices == index).any()
    )
    error = sum(b.detections * abs(b.precision - b.mean_score) for b in bins) / max(len(scores), 1)
    return Calibration(error, min_score, bins)


def precision_recall_curve(judged: Judged, points: int = 101) -> list[tuple[float, float, float]]:
    """(recall, precision, threshold) from the highest score to the lowest, thinned to at most `points`."""
    objects = int(judged.objects.sum())
    if not objects or not len(judged.scores):
        return []
    hits = np.cumsum(judged.right)
    recall, precision = hits / objects, hits / np.arange(1, len(hits) + 1)
    rows = np.unique(np.linspace(0, len(hits) - 1, points).round().astype(int))
    return [(float(recall[i]), float(precision[i]), float(judged.scores[i])) for i in rows]
