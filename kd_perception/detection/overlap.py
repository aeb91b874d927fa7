"""How much boxes have in common, in double precision: equal boxes have an IoU of exactly 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Boxes = npt.NDArray[np.floating[Any]]


def iou(first: Boxes, second: Boxes) -> FloatArray:
    """Intersection over union (N, M) of two sets of boxes x1, y1, x2, y2; 0 where both are empty."""
    common, area_a, area_b = _overlap(first, second)
    union = area_a[:, None] + area_b[None] - common
    shares: FloatArray = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return shares


def share_inside(boxes: Boxes, regions: Boxes) -> FloatArray:
    """(N, M) share of each box's area that lies in each region."""
    common, area, _ = _overlap(boxes, regions)
    shares: FloatArray = np.divide(common, area[:, None], out=np.zeros_like(common), where=area[:, None] > 0)
    return shares


def _overlap(first: Boxes, second: Boxes) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Common area (N, M), and the areas (N,) and (M,)."""
    a, b = first.astype(np.float64).reshape(-1, 4), second.astype(np.float64).reshape(-1, 4)
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    common = np.maximum(sides, 0).prod(axis=-1)
    return common, (a[:, 2:] - a[:, :2]).prod(axis=-1), (b[:, 2:] - b[:, :2]).prod(axis=-1)
