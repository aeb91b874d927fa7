"""Augmentation in numpy and OpenCV alone: mosaic, scale, translation, rotation, flips and colour; nothing of Ultralytics.

Where a network shall be free of its licence, `augment: {by: opencv}` takes these in place of its own. What is made is a square.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, radians, sin

import cv2
import numpy as np
import numpy.typing as npt

from training.data.augment import AugmentSettings

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
GRAY = 114
"""Of what no picture covers."""
LEAST_SIDE = 2.0
LEAST_VISIBLE = 0.1
"""A box of which less than this share is left, or whose side has less than LEAST_SIDE pixels, is no object any more."""


@dataclass(frozen=True)
class Labelled:
    """A picture with its boxes.

    Attributes:
        image: BGR uint8 (H, W, 3).
        class_ids: float32 (M).
        boxes: float32 (M, 4), x1 y1 x2 y2 in pixels.
    """

    image: Image
    class_ids: Floats
    boxes: Floats


def augmented(
    index: int,
    picture: Callable[[int], Labelled],
    count: int,
    size: int,
    settings: AugmentSettings,
    rng: np.random.Generator,
    *,
    mosaic: bool,
) -> Labelled:
    """One sample of a training.

    Args:
        index: of its picture.
        picture: gives the picture of a number; its longer side has `size` pixels.
        count: of pictures, from which a mosaic draws its other three.
        size: pixels of the square that is made.
        settings: how much.
        rng: all that is random comes from it.
        mosaic: whether mosaics are made at all.
    """
    if mosaic and rng.random() < settings.mosaic:
        others = (int(number) for number in rng.integers(count, size=3))
        whole = _mosaic([picture(number) for number in (index, *others)], size, rng)
    else:
        whole = picture(index)
    sample = _moved(whole, size, settings, rng)
    image = _recolored(sample.image, settings, rng)
    boxes = sample.boxes.copy()
    if rng.random() < settings.flipud:
        image = image[::-1]
        boxes[:, [1, 3]] = size - boxes[:, [3, 1]]
    if rng.random() < settings.fliplr:
        image = image[:, ::-1]
        boxes[:, [0, 2]] = size - boxes[:, [2, 0]]
    return Labelled(np.ascontiguousarray(image), sample.class_ids, boxes)


def _mosaic(pictures: list[Labelled], size: int, rng: np.random.Generator) -> Labelled:
    """Four pictures around a point near the middle of a square of twice the size."""
    canvas = np.full((2 * size, 2 * size, 3), GRAY, np.uint8)
    x, y = (int(value) for value in rng.uniform(size / 2, 3 * size / 2, 2))
    class_ids, boxes = [], []
    for number, part in enumerate(pictures):
        height, width = part.image.shape[:2]
        left, top = x - width * (number % 2 == 0), y - height * (number < 2)
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, 2 * size), min(top + height, 2 * size)
        canvas[y1:y2, x1:x2] = part.image[y1 - top : y2 - top, x1 - left : x2 - left]
        class_ids.append(part.class_ids)
        boxes.append(part.boxes + np.array([left, top, left, top], np.float32))
    cut, kept = _cut(np.concatenate(boxes), 2 * size)
    return Labelled(canvas, np.concatenate(class_ids)[kept], cut[kept])


def _moved(whole: Labelled, size: int, settings: AugmentSettings, rng: np.random.Generator) -> Labelled:
    """Zoomed, turned and shifted around its middle into the square."""
    height, width = whole.image.shape[:2]
    zoom = rng.uniform(1 - settings.scale, 1 + settings.scale)
    angle = radians(rng.uniform(-settings.degrees, settings.degrees))
    middle = rng.uniform(0.5 - settings.translate, 0.5 + settings.translate, 2) * size
    turn = zoom * np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    matrix = np.hstack([turn, (middle - turn @ [width / 2, height / 2])[:, None]])
    image = cv2.warpAffine(whole.image, matrix, (size, size), borderValue=(GRAY, GRAY, GRAY))
    x1, y1, x2, y2 = whole.boxes.astype(np.float64).T
    corners = np.stack([np.stack([x1, x2, x2, x1], 1), np.stack([y1, y1, y2, y2], 1)], 1)
    corners = np.einsum('ij,mjk->mik', matrix[:, :2], corners) + matrix[:, 2][None, :, None]
    found = np.concatenate([corners.min(2), corners.max(2)], 1)
    cut, kept = _cut(found.astype(np.float32), size)
    return Labelled(np.asarray(image, np.uint8), whole.class_ids[kept], cut[kept])


def _cut(boxes: Floats, side: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Boxes (M, 4) cut at the borders of a square, and which of them still are objects."""
    cut = boxes.clip(0, side)
    sides, before = cut[:, 2:] - cut[:, :2], (boxes[:, 2:] - boxes[:, :2]).clip(1e-9)
    return cut, (sides >= LEAST_SIDE).all(1) & (sides.prod(1) >= LEAST_VISIBLE * before.prod(1))


def _recolored(image: Image, settings: AugmentSettings, rng: np.random.Generator) -> Image:
    """Hue turned, saturation and brightness multiplied."""
    gains = rng.uniform(-1, 1, 3) * [settings.hsv_h, settings.hsv_s, settings.hsv_v]
    if not gains.any():
        return image
    values = np.arange(256)
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    turned = ((values + 180 * gains[0]) % 180).astype(np.uint8)
    tables = turned, *((values * (1 + gain)).clip(0, 255).astype(np.uint8) for gain in gains[1:])
    channels = [cv2.LUT(channel, table) for channel, table in zip((hue, saturation, value), tables, strict=True)]
    return np.asarray(cv2.cvtColor(cv2.merge(channels), cv2.COLOR_HSV2BGR), np.uint8)
