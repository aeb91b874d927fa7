"""A contact sheet: a dozen pictures of the run on one page."""

from __future__ import annotations

import numpy as np

from kd_perception.core.image import BgrImage
from kd_perception.demo.fitting import fit

COLUMNS, ROWS = 3, 4
_WIDTH = 560
_GAP = 8


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
        """All pictures in order, in cells of the first one's shape; None without any."""
        pictures = [self._pictures[place] for place in sorted(self._pictures)]
        if not pictures:
            return None
        height, width = pictures[0].shape[:2]
        cell = (_WIDTH, max(1, round(_WIDTH * height / width)))
        columns = min(COLUMNS, len(pictures))
        rows = -(-len(pictures) // columns)
        page = np.full((rows * (cell[1] + _GAP) + _GAP, columns * (cell[0] + _GAP) + _GAP, 3), 24, np.uint8)
        for index, picture in enumerate(pictures):
            x = _GAP + index % columns * (cell[0] + _GAP)
            y = _GAP + index // columns * (cell[1] + _GAP)
            page[y : y + cell[1], x : x + cell[0]] = fit(picture, cell)
        return page
