"""Detections drawn on an image: a box, a class and a score each, readable on any ground, and a header line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from kd_perception.detection.detections import NO_TRACK, Detections, FloatArray
from kd_perception.detection.image import BgrImage

Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]

PALETTE: tuple[Color, ...] = (
    (0, 159, 230),
    (233, 180, 86),
    (115, 158, 0),
    (167, 121, 204),
    (66, 228, 240),
    (0, 94, 213),
    (178, 114, 0),
    (230, 230, 230),
)
"""Class colors, BGR: the Okabe–Ito set, distinct also for the color-blind. Classes beyond the eighth begin again."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BLACK: Color = (0, 0, 0)
_WHITE: Color = (255, 255, 255)
_SMALL = 0.02  # of the image's area: objects that a label would hide


@dataclass(frozen=True)
class _Style:
    """Sizes in pixels that fit the image.

    Attributes:
        line: width of a box's line.
        scale: OpenCV's font scale.
        stroke: width of the letters' strokes.
        margin: around a text.
    """

    line: int
    scale: float
    stroke: int
    margin: int

    @classmethod
    def of(cls, image: BgrImage) -> _Style:
        side = math.sqrt(image.shape[0] * image.shape[1])
        return cls(
            line=max(2, round(side / 500)),
            scale=max(0.35, side / 2200),
            stroke=max(1, round(side / 1100)),
            margin=max(2, round(side / 400)),
        )


def draw(
    image: BgrImage, detections: Detections, class_names: Sequence[str], *, header: str = '', labels: bool = True
) -> BgrImage:
    """Draw on `image` itself; the caller hands in a copy where the frame is still needed.

    A label stands where it covers no small object and no label of a higher score. Where there is no such place it is
    left out; the box's color still tells the class.

    Args:
        image: uint8 (height, width, 3) BGR, contiguous.
        detections: boxes in the image's pixels.
        class_names: name of each class id; an id beyond them is shown as a number.
        header: a line of ASCII text for the upper left corner, e.g. the latency; empty for none.
        labels: write class and score at the boxes.

    Returns:
        `image`.
    """
    style = _Style.of(image)
    boxes = [_corners(box) for box in detections.boxes]
    for box, class_id in zip(boxes, detections.class_ids, strict=True):
        _draw_box(image, box, color_of(int(class_id)), style)
    taken = [box for box in boxes if _area(box) < _SMALL * image.shape[0] * image.shape[1]]
    if header:
        taken.append(_draw_text(image, header, style.margin, style.margin, (32, 32, 32), style))
    if labels:
        for i in (-detections.scores).argsort(kind='stable'):
            color = color_of(int(detections.class_ids[i]))
            _draw_label(image, label_of(detections, i, class_names), boxes[i], color, style, taken)
    return image


def color_of(class_id: int) -> Color:
    """The color of a class, BGR."""
    return PALETTE[class_id % len(PALETTE)]


def label_of(detections: Detections, i: int, class_names: Sequence[str]) -> str:
    """Class, id where it is known, and score of a detection; a class id beyond the names is shown as a number."""
    class_id = int(detections.class_ids[i])
    name = class_names[class_id] if 0 <= class_id < len(class_names) else str(class_id)
    return f'{name}{_number(detections, i)} {detections.scores[i]:.2f}'


def _number(detections: Detections, i: int) -> str:
    """The number of the object that a detection shows, where it is known."""
    if detections.track_ids is None or detections.track_ids[i] == NO_TRACK:
        return ''
    return f' {detections.track_ids[i]}'


def _corners(box: FloatArray) -> Rectangle:
    # OpenCV's integers are 32 bit, so a box far outside is brought near first.
    x1, y1, x2, y2 = (round(min(max(float(v), -1e5), 1e5)) for v in box)
    return x1, y1, x2, y2


def _draw_box(image: BgrImage, box: Rectangle, color: Color, style: _Style) -> None:
    # The dark line below the colored one keeps the box visible on a ground of its own color.
    cv2.rectangle(image, box[:2], box[2:], _BLACK, style.line + 2)
    cv2.rectangle(image, box[:2], box[2:], color, style.line)


def _draw_label(
    image: BgrImage, text: str, box: Rectangle, color: Color, style: _Style, taken: list[Rectangle]
) -> None:
    """Write a label above, below, right or left of its box, at the first place that is free; remember it in `taken`."""
    width, height = _text_size(text, style)
    gap = style.line
    x1, y1, x2, y2 = box
    along = min(max(x1 - gap, 0), image.shape[1] - width)
    for x, y in ((along, y1 - height - gap), (along, y2 + gap), (x2 + gap, y1 - gap), (x1 - width - gap, y1 - gap)):
        place = (x, y, x + width, y + height)
        inside = x >= 0 and y >= 0 and place[2] <= image.shape[1] and place[3] <= image.shape[0]
        if inside and not any(_overlap(place, other) for other in taken):
            taken.append(_draw_text(image, text, x, y, color, style))
            return


def _draw_text(image: BgrImage, text: str, x: int, y: int, ground: Color, style: _Style) -> Rectangle:
    """Write text on a filled rectangle whose upper left corner is x, y; returns the rectangle."""
    width, height = _text_size(text, style)
    cv2.rectangle(image, (x, y), (x + width - 1, y + height - 1), ground, cv2.FILLED)
    luminance = 0.114 * ground[0] + 0.587 * ground[1] + 0.299 * ground[2]
    ink = _BLACK if luminance > 110 else _WHITE
    base = (x + style.margin, y + height - style.margin - _descent(style))
    cv2.putText(image, text, base, _FONT, style.scale, ink, style.stroke, cv2.LINE_AA)
    return x, y, x + width, y + height


def _text_size(text: str, style: _Style) -> tuple[int, int]:
    (width, height), _ = cv2.getTextSize(text, _FONT, style.scale, style.stroke)
    return width + 2 * style.margin, height + _descent(style) + 2 * style.margin


def _descent(style: _Style) -> int:
    return max(1, round(4 * style.scale))


def _area(box: Rectangle) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def fit(picture: BgrImage, size: tuple[int, int]) -> BgrImage:
    """The picture shrunk or grown to fill `size` (width, height) as far as its shape allows, on a dark ground."""
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    scale = min(size[0] / width, size[1] / height)
    inner = (min(size[0], max(1, round(width * scale))), min(size[1], max(1, round(height * scale))))
    x, y = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    fitted = np.full((size[1], size[0], 3), 24, np.uint8)
    fitted[y : y + inner[1], x : x + inner[0]] = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA)
    return fitted
