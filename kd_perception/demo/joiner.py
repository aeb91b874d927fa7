"""Joins what belongs to one frame by its stamp: image, detections and latency come on three topics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kd_perception.detection.detections import Detections


@dataclass
class Row:
    """What is known of one frame; `stamp` is in nanoseconds."""

    stamp: int
    image: Any = None
    detections: Detections | None = None
    latency: dict[str, float] | None = None

    def is_complete(self) -> bool:
        """Whether all three are there."""
        return self.image is not None and self.detections is not None and self.latency is not None


class Joiner:
    """Gives out frames in the order of their stamps, as soon as image, detections and latency are there.

    A frame that was never detected goes when a later one is complete. `capacity` bounds what is kept.
    """

    def __init__(self, capacity: int = 90) -> None:
        self._rows: dict[int, Row] = {}
        self._capacity = capacity
        self._given = -1

    def add(self, stamp: int, **part: Any) -> list[Row]:
        """Take in one part (image=, detections= or latency=) of the frame with this stamp; returns frames that are ready."""
        if stamp <= self._given:
            return []
        row = self._rows.setdefault(stamp, Row(stamp))
        for name, value in part.items():
            setattr(row, name, value)
        if row.is_complete():
            return self._give_out(stamp)
        while len(self._rows) > self._capacity:
            del self._rows[min(self._rows)]
        return []

    def flush(self) -> list[Row]:
        """The remaining frames that can be shown."""
        return self._give_out(max(self._rows, default=-1))

    def _give_out(self, last: int) -> list[Row]:
        """Frames up to the stamp `last` with an image and detections; a lost latency does not hold them up."""
        ready = [self._rows.pop(stamp) for stamp in sorted(self._rows) if stamp <= last]
        self._given = max(self._given, last)
        return [row for row in ready if row.image is not None and row.detections is not None]
