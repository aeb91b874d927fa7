"""The operating point of a detector: the lowest score of each class, and which boxes suppress each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from kd_perception.detection.detections import Detections, FloatArray
from kd_perception.errors import KdPerceptionError

PER_CLASS, ALL_CLASSES = 'per_class', 'all_classes'
SUPPRESSIONS = (PER_CLASS, ALL_CLASSES)
"""Whether NMS compares boxes of one class only, or of all: then one object is never reported as two classes."""


class ClassScoreError(KdPerceptionError):
    """A class's own lowest score that cannot be read; says how it is written."""


@dataclass(frozen=True)
class Thresholds:
    """What is reported. Boxes are suppressed first; what stays is judged by its score.

    Attributes:
        score: lowest score of a class that `class_scores` does not name, 0 … 1.
        iou: above this, NMS drops the lower of two boxes, 0 … 1.
        suppression: one of `SUPPRESSIONS`.
        class_scores: class name → its own lowest score, 0 … 1.
    """

    score: float
    iou: float
    suppression: str = PER_CLASS
    class_scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_class_agnostic(self) -> bool:
        """Whether boxes of different classes suppress each other."""
        return self.suppression == ALL_CLASSES

    @property
    def lowest(self) -> float:
        """Nothing under it is reported."""
        return min(self.score, *self.class_scores.values()) if self.class_scores else self.score

    def down_to(self, score: float) -> Thresholds:
        """The same with one lowest score for all classes."""
        return replace(self, score=score, class_scores={})

    def scores_of(self, names: Sequence[str]) -> FloatArray:
        """The lowest score of each class, float32 (C,) as scores are, in the order of the class ids."""
        return np.array([self.class_scores.get(name, self.score) for name in names], np.float32)

    def reported(self, detections: Detections, names: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which detections reach the score of their class, bool (N,); `names` are those of the network's classes."""
        if not self.class_scores:
            return np.asarray(detections.scores >= self.score)
        return np.asarray(detections.scores >= self.scores_of(names)[detections.class_ids])


def suppression_entry(suppression: str) -> dict[str, str]:
    """What a bundle says of its suppression: nothing where it is the usual one, so that earlier versions read the bundle."""
    return {} if suppression == PER_CLASS else {'suppression': suppression}


def parse_class_scores(entries: Iterable[str]) -> dict[str, float]:
    """Lowest scores from texts such as `car=0.4`; an empty text is none.

    Raises:
        ClassScoreError: one cannot be read, or a class is named twice.
    """
    scores: dict[str, float] = {}
    for entry in filter(None, entries):
        name, _, number = entry.rpartition('=')
        try:
            score = float(number)
        except ValueError:
            score = math.nan
        if not name or not 0 <= score <= 1 or name in scores:
            raise ClassScoreError(
                f'class_thresholds {entry!r}: write NAME=SCORE with a score from 0 to 1, each class once'
            )
        scores[name] = score
    return scores
