"""A contact sheet: a dozen pictures of the run on one page."""

from __future__ import annotations

import numpy as np

from kd_perception.detection.drawing import fit
from kd_perception.detection.image import BgrImage

COLUMNS, ROWS = 3, 4
_WIDTH = 480
_GAP = 8
_GROUND = 24


class ContactSheet:
    """Keeps a picture for every twelfth of the run, the first that comes in it.

    Args:
        frames: expected length of the run.
    """

    def __init__(self, frames: int) -> None:
        self._step = max(1.0, frames / (COLUMNS * ROWS))
        self._pictures: dict[int, BgrImage] = {}

    def wants(self, frame: int) -> bool:
        """Whether the sheet has a free place for frame number `frame`."""
        place = int(frame / self._step)
        return place < COLUMNS * ROWS and place not in self._pictures

    def add(self, frame: int, picture: BgrImage) -> None:
        """Keep a picture of frame number `frame`."""
        self._pictures[int(frame / self._step)] = picture

    def page(self) -> BgrImage | None:
        """All pictures in order; None without any."""
        pictures = [self._pictures[place] for place in sorted(self._pictures)]
        if not pictures:
            return None
        columns = min(COLUMNS, len(pictures))
        rows = [_row(pictures[at : at + columns], columns) for at in range(0, len(pictures), columns)]
        return np.concatenate([np.full((_GAP, rows[0].shape[1], 3), _GROUND, np.uint8), *rows])


def _row(pictures: list[BgrImage], columns: int) -> BgrImage:
    """Pictures side by side, as high as the highest, with a gap right and below."""
    height = max(max(1, round(_WIDTH * p.shape[0] / p.shape[1])) for p in pictures)
    row = np.full((height + _GAP, columns * (_WIDTH + _GAP) + _GAP, 3), _GROUND, np.uint8)
    for index, picture in enumerate(pictures):
        x = _GAP + index * (_WIDTH + _GAP)
        row[:height, x : x + _WIDTH] = fit(picture, (_WIDTH, height))
    return row
