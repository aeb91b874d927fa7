"""How far away the object in a box is: the foreground of a depth image inside the box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DepthImage = npt.NDArray[np.uint16] | npt.NDArray[np.float32]

MIN_PIXELS = 8
"""Fewer valid pixels than this say nothing."""
MIN_SHARE = 0.1
"""Nor does a smaller share of the box's pixels."""

_MARGIN = 0.1  # share of a side that is left out at each border: there the background begins
_MOST_PIXELS = 4096  # of a box that are looked at, evenly spread
_STEP = 0.03  # width of the histogram's bins in relative depth
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
    values, seen = _valid(_inner(image, box))
    if len(values) < max(MIN_PIXELS, MIN_SHARE * seen):
        return None
    surface = _foreground(values)
    low, depth, high = np.percentile(surface, (5, 50, 95)).tolist()
    deviation = 1.4826 * float(np.median(np.abs(surface - depth)))
    return BoxDepth(depth, max(deviation, _FLOOR * depth), high - low)


def _inner(image: DepthImage, box: npt.NDArray[np.floating]) -> DepthImage:
    """The box without its border, thinned out where it is large; never less than a pixel of what lies in the image."""
    height, width = image.shape
    x1, y1, x2, y2 = np.asarray(box, np.float64).tolist()
    if not np.isfinite((x1, y1, x2, y2)).all():
        return image[:0]
    margin_x, margin_y = _MARGIN * (x2 - x1), _MARGIN * (y2 - y1)
    left, right = int(np.clip(x1 + margin_x, 0, width)), int(np.clip(np.ceil(x2 - margin_x), 0, width))
    top, bottom = int(np.clip(y1 + margin_y, 0, height)), int(np.clip(np.ceil(y2 - margin_y), 0, height))
    step = max(int(np.ceil(np.sqrt(max(right - left, 0) * max(bottom - top, 0) / _MOST_PIXELS))), 1)
    return image[top:bottom:step, left:right:step]


def _valid(part: DepthImage) -> tuple[npt.NDArray[np.float64], int]:
    """The valid depths in meters, and how many pixels there were."""
    values = part.ravel().astype(np.float64)
    with np.errstate(invalid='ignore'):
        values = values[np.isfinite(values) & (values > 0)]
    return (values / 1000.0 if part.dtype == np.uint16 else values), part.size


def _foreground(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The values around the nearest peak of their histogram that holds enough of them, else around its highest."""
    logs = np.log(values)
    bins = ((logs - logs.min()) / _STEP).astype(np.int64)
    places, counts = np.unique(bins, return_counts=True)
    # What lies within one bin to either side, for each bin that holds anything.
    sums = np.concatenate([[0], np.cumsum(counts)])
    around = sums[np.searchsorted(places, places + 1, 'right')] - sums[np.searchsorted(places, places - 1)]
    enough = np.flatnonzero(around >= _FOREGROUND * len(values))
    if not len(enough):
        peak = int(np.argmax(around))
    else:
        peak = int(enough[0])
        while peak + 1 < len(places) and places[peak + 1] == places[peak] + 1 and around[peak + 1] > around[peak]:
            peak += 1
    surface: npt.NDArray[np.float64] = values[np.abs(bins - places[peak]) <= 1]
    return surface
