"""What columns of numbers can be: boxes as corners or as center and size, in pixels or shares; probabilities, logits, classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

PROBABILITIES, LOGITS, NEITHER = 'probabilities', 'logits', 'neither'
XYXY, CXCYWH = 'xyxy', 'cxcywh'

_ROUNDING = 0.002
"""Probabilities of half-precision and quantized networks leave 0 … 1 by so much."""
_LARGEST_LOGIT = 100.0
_LARGEST_SHARE = 1.6
"""Boxes at the border reach out of the picture; a box in pixels that lies below is smaller than any object."""
_WRONG = 0.01
"""Share of boxes that may have a wrong corner order: of thousands of candidates a few are noise."""
_INSIDE, _OUTSIDE = 0.95, 0.85
"""From the first share on, boxes lie in the picture; below the second they do not."""
_SLACK = 0.1


@dataclass(frozen=True)
class BoxForm:
    """How boxes are written.

    Attributes:
        format: `xyxy` or `cxcywh`.
        normalized: shares of the input's size.
        why: what decided, for people.
    """

    format: str
    normalized: bool
    why: str

    def __str__(self) -> str:
        form = 'corners' if self.format == XYXY else 'center and size'
        return f'{form} {"as shares of the input" if self.normalized else "in pixels"} ({self.why})'


def filled(rows: Array) -> Array:
    """The rows (N, K) that hold anything: padding is zero."""
    kept: Array = rows[(rows != 0).any(axis=1) & np.isfinite(rows).all(axis=1)]
    return kept


def kind_of_scores(scores: Array) -> str:
    """`PROBABILITIES`, `LOGITS` or `NEITHER`.

    Logits of a detector are mostly negative, and far below 0: nearly everywhere is nothing. Scores of a network without an
    activation at its end may fall a little below 0 and never leave −1 … 1; as logits, none of them would be surer than 0.73.
    """
    values = scores[np.isfinite(scores)]
    if not values.size:
        return PROBABILITIES
    low, high = float(values.min()), float(values.max())
    if low >= -1 and high <= 1 + _ROUNDING:
        return PROBABILITIES
    logits = low < -_ROUNDING and max(-low, high) <= _LARGEST_LOGIT and float(np.median(values)) <= 0
    return LOGITS if logits else NEITHER


def are_classes(values: Array, counts: tuple[int, ...]) -> bool:
    """Whether these are class ids: whole numbers from 0 on, below the count of classes where that is known."""
    whole = bool(np.all(values == np.round(values)) and np.all(values >= 0))
    return whole and (not counts or not values.size or float(values.max()) < max(counts))


def are_sorted(scores: Array) -> bool:
    """Whether they fall, or stay."""
    return bool(np.all(np.diff(scores) <= 1e-6))


def in_order(boxes: Array) -> float:
    """Share of boxes x1, y1, x2, y2 whose second corner is right of and below the first; 1 for none."""
    return float((boxes[:, 2:] >= boxes[:, :2]).all(axis=1).mean()) if len(boxes) else 1.0


def largest(boxes: Array) -> float:
    """Largest absolute value; 0 for none."""
    return float(np.abs(boxes).max()) if boxes.size else 0.0


def is_share(reach: float) -> bool:
    """Whether boxes whose largest coordinate this is are shares of the input, not pixels."""
    return reach <= _LARGEST_SHARE


def box_form(
    boxes: Array, size: tuple[int, int], *, format: str = '', normalized: bool | None = None, convention: str = ''
) -> BoxForm | str:
    """Find out how boxes (N, 4) are written.

    Args:
        boxes: of all pictures, without padding.
        size: width and height of the input.
        format: what the user says; empty asks the values.
        normalized: likewise; None asks the values.
        convention: the format that is usual here; decides where the values do not.

    Returns:
        The form, or why there is none.
    """
    if normalized is None:
        normalized = bool(len(boxes)) and is_share(largest(boxes))
    if format:
        return BoxForm(format, normalized, 'as you say')
    scale = np.array(size * 2, np.float64) if normalized else 1.0
    pixels = boxes.astype(np.float64) * scale
    corners, centers = (
        in_order(pixels) >= 1 - _WRONG,
        bool((pixels[:, 2:] >= 0).mean() >= 1 - _WRONG if len(boxes) else 1),
    )
    if not corners and not centers:
        return 'neither corners nor center and size: sides are negative'
    if corners != centers:
        return BoxForm(XYXY if corners else CXCYWH, normalized, f'by the values of {len(boxes)} boxes')
    as_corners, as_centers = _share_inside(pixels, size), _share_inside(_corners(pixels), size)
    if len(boxes) and as_corners >= _INSIDE and as_centers < _OUTSIDE:
        return BoxForm(XYXY, normalized, f'{as_corners:.0%} of {len(boxes)} boxes lie in the picture so')
    if len(boxes) and as_centers >= _INSIDE and as_corners < _OUTSIDE:
        return BoxForm(CXCYWH, normalized, f'{as_centers:.0%} of {len(boxes)} boxes lie in the picture so')
    if convention:
        return BoxForm(convention, normalized, 'as is usual; the values fit and do not decide')
    return 'either corners or center and size; pass --box-format xyxy or --box-format cxcywh'


def _corners(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _share_inside(boxes: npt.NDArray[np.float64], size: tuple[int, int]) -> float:
    """Share of corner boxes that leave the picture by a tenth of it at most."""
    limit = np.array(size * 2, np.float64)
    inside = (boxes >= -_SLACK * limit) & (boxes <= (1 + _SLACK) * limit)
    return float(inside.all(axis=1).mean()) if len(boxes) else 0.0
