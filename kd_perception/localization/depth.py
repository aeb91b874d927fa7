"""How far away the object in a box is: the foreground of a depth image inside the box."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DepthImage = npt.NDArray[np.uint16] | npt.NDArray[np.float32]

MIN_PIXELS = 8
"""Fewer valid pixels than this say nothing."""
MIN_SHARE = 0.1
"""Nor does a smaller share of the box's pixels."""

_MARGIN = 0.1  # share of a side that is left out at each border: there the background begins
_MOST_PIXELS = 1024  # of a box that are looked at, evenly spread
_THICKNESS = 1.09  # farthest over nearest depth of one surface
_FOREGROUND = 0.2  # the nearest surface with this share of the valid pixels is the object
_FLOOR = 0.01  # least standard deviation in relative depth: no depth camera is better


@dataclass(frozen=True)
class BoxDepth:
    """Depth along the optical axis in meters: of the object's visible surface, its standard deviation, and its extent."""

    depth: float
    deviation: float
    extent: float


def box_depth(image: DepthImage, box: npt.NDArray[np.floating]) -> BoxDepth | None:
    """The median of the foreground mode of a box: of the nearest surface that fills a fair share of it.

    Args:
        image: (height, width), uint16 in millimeters or float32 in meters; 0, NaN, infinite and negative values are invalid.
        box: x1, y1, x2, y2 in pixels of the depth image.

    Returns:
        None where too few pixels are valid.
    """
    part = _inner(image, box)
    values = _valid(part)
    if len(values) < max(MIN_PIXELS, MIN_SHARE * part.size):
        return None
    surface = _foreground(values)
    count = len(surface)
    low, depth, high = surface[[count // 20, count // 2, (19 * count) // 20]].tolist()
    distances = np.abs(surface - depth)
    distances.partition(count // 2)
    deviation = 1.4826 * float(distances[count // 2])  # from the median distance, as for a normal distribution
    return BoxDepth(depth, max(deviation, _FLOOR * depth), high - low)


def _inner(image: DepthImage, box: npt.NDArray[np.floating]) -> DepthImage:
    """The box without its border, thinned out where it is large."""
    height, width = image.shape
    x1, y1, x2, y2 = box.tolist()
    if not (math.isfinite(x1) and math.isfinite(y1) and math.isfinite(x2) and math.isfinite(y2)):
        return image[:0]
    margin_x, margin_y = _MARGIN * (x2 - x1), _MARGIN * (y2 - y1)
    left, right = max(math.floor(x1 + margin_x), 0), min(max(math.ceil(x2 - margin_x), 0), width)
    top, bottom = max(math.floor(y1 + margin_y), 0), min(max(math.ceil(y2 - margin_y), 0), height)
    pixels = max(right - left, 0) * max(bottom - top, 0)
    step = math.ceil(math.sqrt(pixels / _MOST_PIXELS)) | 1  # odd: holes in every second row or column do not hit it
    return image[top:bottom:step, left:right:step]


def _valid(part: DepthImage) -> npt.NDArray[np.float64]:
    """The valid depths in meters, sorted."""
    values = part.ravel()
    valid = values[(values > 0) & (values < np.inf)].astype(np.float64)
    valid.sort()
    return valid / 1000.0 if part.dtype == np.uint16 else valid


def _foreground(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of sorted depths the nearest surface that holds enough of them, where it is densest; else the densest of all."""
    counts = np.searchsorted(values, values * _THICKNESS, 'right') - np.arange(len(values))
    enough = counts >= _FOREGROUND * len(values)
    first = int(enough.argmax())
    if not enough[first]:
        first = int(counts.argmax())
    start = first + int(counts[first : first + counts[first]].argmax())
    surface: npt.NDArray[np.float64] = values[start : start + counts[start]]
    return surface
