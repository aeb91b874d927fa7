"""Which boxes are wanted: by class, place and size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kd_perception.detection.detections import Detections
from kd_perception.errors import KdPerceptionError

OFF = 'off'
MAX_CORNERS = 64

Corner = tuple[float, float]


class BoxFilterError(KdPerceptionError):
    """A region that cannot be read; says how it is written."""


@dataclass(frozen=True)
class BoxFilter:
    """What a detection must be to be published.

    Attributes:
        classes: names of the wanted classes; empty wants all.
        region: corners of a polygon, x and y relative to the image, 0 … 1; a box is inside when its center is. Empty is the whole
            image.
        min_side: shortest side of a box, pixels of the source image.
    """

    classes: tuple[str, ...] = ()
    region: tuple[Corner, ...] = ()
    min_side: float = 0.0

    def wanted(self, detections: Detections, names: Sequence[str], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Which detections pass, bool (N,).

        Args:
            detections: of one image.
            names: of the network's classes.
            size: width and height of the image in pixels.
        """
        passed = np.ones(len(detections), np.bool_)
        if self.classes:
            passed &= np.array([name in self.classes for name in names], np.bool_)[detections.class_ids]
        sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
        if self.min_side > 0:
            passed &= sides.min(axis=1, initial=np.inf) >= self.min_side
        if self.region:
            passed &= inside((detections.boxes[:, :2] + sides / 2) / np.array(size), self.region)
        return passed


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
