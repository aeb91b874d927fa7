"""Detections: the one value type that every part of the package speaks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
TrackIds = npt.NDArray[np.int64]

NO_TRACK = 0
"""The track id of a detection that belongs to no confirmed track."""


@dataclass(frozen=True, eq=False)
class Detections:
    """Axis-aligned boxes of one image, N may be 0.

    Attributes:
        boxes: float32 (N, 4), corners x1, y1, x2, y2 in pixels of the source image.
        scores: float32 (N,), in [0, 1].
        class_ids: int32 (N,), indices into the bundle's `classes`.
        track_ids: int64 (N,), the object that each one shows, from 1 on, `NO_TRACK` where that is not known; None where nobody
            tracks.
    """

    boxes: FloatArray
    scores: FloatArray
    class_ids: IntArray
    track_ids: TrackIds | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, dtype=np.float32).reshape(-1, 4)
        scores = np.asarray(self.scores, dtype=np.float32).reshape(-1)
        class_ids = np.asarray(self.class_ids, dtype=np.int32).reshape(-1)
        if not len(boxes) == len(scores) == len(class_ids):
            raise ValueError(f'{len(boxes)} boxes, {len(scores)} scores and {len(class_ids)} class ids do not match')
        if self.track_ids is not None:
            track_ids = np.asarray(self.track_ids, dtype=np.int64).reshape(-1)
            if len(track_ids) != len(boxes):
                raise ValueError(f'{len(boxes)} boxes and {len(track_ids)} track ids do not match')
            object.__setattr__(self, 'track_ids', track_ids)
        object.__setattr__(self, 'boxes', boxes)
        object.__setattr__(self, 'scores', scores)
        object.__setattr__(self, 'class_ids', class_ids)

    @classmethod
    def empty(cls) -> Detections:
        """No detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.scores)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        return (
            np.array_equal(self.boxes, other.boxes)
            and np.array_equal(self.scores, other.scores)
            and np.array_equal(self.class_ids, other.class_ids)
            and _same_tracks(self.track_ids, other.track_ids)
        )

    def select(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.integer] | slice) -> Detections:
        """The detections named by a mask, an index array or a slice, in that order."""
        track_ids = None if self.track_ids is None else self.track_ids[which]
        return Detections(self.boxes[which], self.scores[which], self.class_ids[which], track_ids)

    def clipped(self, width: int, height: int) -> Detections:
        """Boxes cut to an image of `width` × `height` pixels; those left without area are dropped."""
        limit = np.array([width, height, width, height], np.float32)
        boxes = np.clip(self.boxes, 0, limit)
        inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return replace(self, boxes=boxes).select(inside)


def _same_tracks(ours: TrackIds | None, theirs: TrackIds | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return np.array_equal(ours, theirs)
