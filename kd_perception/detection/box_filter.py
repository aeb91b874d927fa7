"""Which boxes are wanted: by class, score, place and size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kd_perception.detection.detections import Detections
from kd_perception.errors import KdPerceptionError

OFF = 'off'
MAX_CORNERS = 64

Corner = tuple[float, float]


class BoxFilterError(KdPerceptionError):
    """A region or a class threshold that cannot be read; says how it is written."""


@dataclass(frozen=True)
class BoxFilter:
    """What a detection must be to be published.

    Attributes:
        score: lowest score of a class that `class_scores` does not name, 0 … 1.
        class_scores: class name → its own lowest score.
        classes: names of the wanted classes; empty wants all.
        region: corners of a polygon, x and y relative to the image, 0 … 1; a box is inside when its centre is. Empty is the whole
            image.
        min_side: shortest side of a box, pixels of the source image.
    """

    score: float = 0.0
    class_scores: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    region: tuple[Corner, ...] = ()
    min_side: float = 0.0

    @property
    def lowest_score(self) -> float:
        """No box under it is wanted."""
        return min(self.score, *self.class_scores.values()) if self.class_scores else self.score

    def unknown_classes(self, names: Sequence[str]) -> list[str]:
        """The class names in this filter that a network does not have."""
        return sorted({*self.classes, *self.class_scores} - set(names))

    def wanted(self, detections: Detections, names: Sequence[str], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Which detections pass, bool (N,).

        Args:
            detections: of one image.
            names: of the network's classes.
            size: width and height of the image in pixels.
        """
        lowest = np.array([self._score_of(name) for name in names], np.float64)
        passed = detections.scores >= lowest[detections.class_ids]
        sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
        if self.min_side > 0:
            passed &= sides.min(axis=1, initial=np.inf) >= self.min_side
        if self.region:
            passed &= inside((detections.boxes[:, :2] + sides / 2) / np.array(size), self.region)
        result: npt.NDArray[np.bool_] = passed
        return result

    def _score_of(self, name: str) -> float:
        if self.classes and name not in self.classes:
            return math.inf
        return self.class_scores.get(name, self.score)


def inside(points: npt.NDArray[np.floating], polygon: Sequence[Corner]) -> npt.NDArray[np.bool_]:
    """Which points (N, 2) lie in a polygon, by the even-odd rule; a polygon may be of any shape."""
    x, y = points[:, 0], points[:, 1]
    result = np.zeros(len(points), np.bool_)
    for (x0, y0), (x1, y1) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if y0 == y1:
            continue
        result ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return result


def parse_region(text: str) -> tuple[Corner, ...]:
    """Corners from a text such as `0,0.4 1,0.4 1,1 0,1`; `off` is the whole image.

    Raises:
        BoxFilterError: it cannot be read.
    """
    if text == OFF:
        return ()
    try:
        corners = [tuple(float(part) for part in corner.split(',')) for corner in text.split()]
    except ValueError:
        corners = []
    if not 3 <= len(corners) <= MAX_CORNERS or not all(
        len(corner) == 2 and all(0 <= value <= 1 for value in corner) for corner in corners
    ):
        raise BoxFilterError(
            f'region {text!r}: write off, or 3 to {MAX_CORNERS} corners "x,y x,y x,y" relative to the image, from 0,0 (top left) '
            'to 1,1 (bottom right)'
        )
    return tuple((corner[0], corner[1]) for corner in corners)


def parse_class_scores(entries: Sequence[str]) -> dict[str, float]:
    """Thresholds from texts such as `car=0.4`; one empty text is none.

    Raises:
        BoxFilterError: one cannot be read, or a class is named twice.
    """
    scores: dict[str, float] = {}
    for entry in filter(None, entries):
        name, _, number = entry.rpartition('=')
        try:
            score = float(number)
        except ValueError:
            score = math.nan
        if not name or not 0 <= score <= 1 or name in scores:
            raise BoxFilterError(
                f'class_thresholds {entry!r}: write NAME=SCORE with a score from 0 to 1, each class once'
            )
        scores[name] = score
    return scores
