"""Pictures cut into a grid of overlapping tiles, for objects that are small in large pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kd_perception.detection.detections import Detections
from training.data.class_rules import MIN_SIDE
from training.data.dataset import LabeledImage
from training.ranges import SHARE, Range

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class GridSettings:
    """How pictures are cut.

    Attributes:
        size: side of a tile in pixels; a picture that is smaller along a side gives tiles that are as small there.
        overlap: neighbouring tiles share at least this many pixels.
        min_visible: an object cut by the tile's border stays one if this share of its box is inside; what is left of the
            others becomes a region in which nobody is judged.
        empty_share: share of the tiles without objects that is kept.
    """

    size: int = 640
    overlap: int = 64
    min_visible: float = 0.5
    empty_share: float = 1.0

    def __post_init__(self) -> None:
        Range(least=32).check(size=self.size)
        Range(least=0, below=self.size).check(overlap=self.overlap)
        Range(above=0, most=1).check(min_visible=self.min_visible)
        SHARE.check(empty_share=self.empty_share)


@dataclass(frozen=True)
class Tile:
    """A tile and where it lies in its parent: x1, y1, x2, y2."""

    place: Box
    item: LabeledImage


def grid(width: int, height: int, settings: GridSettings) -> list[Box]:
    """The places x1, y1, x2, y2 of the tiles of a picture: row by row, evenly spread, all of it covered."""
    return [
        (x, y, min(x + settings.size, width), min(y + settings.size, height))
        for y in _starts(height, settings)
        for x in _starts(width, settings)
    ]


def tiles_of(picture: LabeledImage, settings: GridSettings) -> Iterator[Tile]:
    """All tiles of a picture, named after it and their place."""
    height, width = picture.image.shape[:2]
    for place in grid(width, height, settings):
        name = f'{picture.name}_x{place[0]}_y{place[1]}'
        yield Tile(place, cut(picture, place, settings.min_visible, name))


def cut(picture: LabeledImage, place: Box, min_visible: float, name: str) -> LabeledImage:
    """A piece of a picture with what is inside."""
    x1, y1, x2, y2 = place
    objects, seen, slivers = _inside(picture.objects.boxes, place, min_visible)
    crowds, crowds_seen, more_slivers = _inside(picture.crowds.boxes, place, min_visible)
    ignored, _, _ = _inside(picture.ignored, place, 0.0)
    return LabeledImage(
        name,
        np.ascontiguousarray(picture.image[y1:y2, x1:x2]),
        Detections(objects, picture.objects.scores[seen], picture.objects.class_ids[seen]),
        Detections(crowds, picture.crowds.scores[crowds_seen], picture.crowds.class_ids[crowds_seen]),
        np.concatenate([ignored, slivers, more_slivers]),
    )


def _starts(length: int, settings: GridSettings) -> list[int]:
    if length <= settings.size:
        return [0]
    count = -(-(length - settings.overlap) // (settings.size - settings.overlap))
    return [round(start) for start in np.linspace(0, length - settings.size, count)]


def _inside(
    boxes: npt.NDArray[np.float32], place: Box, min_visible: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Boxes cut to the tile in its own pixels, which of all these are, and what the tile's border left of the others."""
    low, high = np.array(place[:2], np.float32), np.array(place[2:], np.float32)
    cut_boxes = np.clip(boxes, np.tile(low, 2), np.tile(high, 2)) - np.tile(low, 2)
    sides, whole = cut_boxes[:, 2:] - cut_boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    # Rounding must not make a sliver of a box that is inside as a whole.
    large = (sides >= MIN_SIDE - 1e-3).all(axis=1)
    seen = large & (sides.prod(axis=1) >= (min_visible - 1e-6) * whole.prod(axis=1))
    return cut_boxes[seen], seen, cut_boxes[large & ~seen]
