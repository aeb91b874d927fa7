"""ByteTrack (Zhang et al., ECCV 2022, algorithm 1) with motion by time.

Frames may be missing, late or irregular: boxes are predicted to the frame's own stamp, and a track that is not seen is kept for
seconds, not for a number of frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from kd_perception.detection.detections import NO_TRACK, Detections, TrackIds
from kd_perception.detection.overlap import iou
from kd_perception.tracking.motion import BoxMotion, Floats

OTHER_CLASS = 0.3
"""What a pair of boxes of different classes loses of its IoU: a van may be called a truck for a frame, and stays one object."""


CLASS_MEMORY_S = 2.0
"""After so many seconds a detection counts half for the class of its track."""


@dataclass(frozen=True)
class TrackerSettings:
    """How tracks begin, go on and end.

    Attributes:
        high_score: from this score on a detection may begin a track, 0 … 1.
        low_score: detections from this score on, but under `high_score`, only continue a track.
        match_iou: least IoU of a strong detection with the predicted box.
        weak_match_iou: the same for a weak detection, which must fit better.
        keep_s: seconds for which a track that is not seen is kept.
        publish_score: from this score on a detection that continues a track is published, though it be under the score of its
            class; below 0 that score holds for all.
        votes: a detection has the class for which its track's scores speak, of the last seconds, in place of its own.
    """

    high_score: float = 0.5
    low_score: float = 0.1
    match_iou: float = 0.2
    weak_match_iou: float = 0.5
    keep_s: float = 1.0
    publish_score: float = -1.0
    votes: bool = True

    def published(self, detections: Detections, reported: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which tracked detections are published, bool (N,); `reported` are those that reach the score of their class."""
        if self.publish_score < 0 or detections.track_ids is None:
            return reported
        continued = (detections.track_ids != NO_TRACK) & (detections.scores >= self.publish_score)
        return np.asarray(reported | continued)


@dataclass
class _Tracks:
    """All tracks, a row each; `votes` (N, classes) are the sums of their scores, in which older ones count less."""

    motion: BoxMotion
    ids: TrackIds
    class_ids: npt.NDArray[np.int32]
    seen: Floats
    confirmed: npt.NDArray[np.bool_]
    votes: Floats

    def select(self, which: npt.NDArray[np.bool_]) -> _Tracks:
        return _Tracks(
            self.motion.select(which),
            self.ids[which],
            self.class_ids[which],
            self.seen[which],
            self.confirmed[which],
            self.votes[which],
        )

    def joined(self, other: _Tracks) -> _Tracks:
        return _Tracks(
            self.motion.joined(other.motion),
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.class_ids, other.class_ids]),
            np.concatenate([self.seen, other.seen]),
            np.concatenate([self.confirmed, other.confirmed]),
            np.concatenate([self.votes, other.votes]),
        )


def _no_tracks() -> _Tracks:
    return _Tracks(
        BoxMotion.starting_at(np.zeros((0, 4))),
        np.zeros(0, np.int64),
        np.zeros(0, np.int32),
        np.zeros(0),
        np.zeros(0, np.bool_),
        np.zeros((0, 0)),
    )


@dataclass
class ByteTracker:
    """Gives detections the ids of the objects that they show. One camera, frames in the order in which they were taken.

    A track is confirmed, and its id published, by its second detection; in the first frame at once. Ids begin at 1
    and are never given twice.

    Attributes:
        settings: may be replaced between frames.
    """

    settings: TrackerSettings = field(default_factory=TrackerSettings)
    _tracks: _Tracks = field(default_factory=_no_tracks, repr=False)
    _now: float = field(default=-np.inf, repr=False)
    _last_seen: float = field(default=-np.inf, repr=False)
    _next_id: int = field(default=1, repr=False)

    def track(self, detections: Detections, seconds: float) -> Detections:
        """Take in a frame, see `update`: its detections with their ids, and with the classes of their tracks where these vote."""
        ids = self.update(detections, seconds)
        if not self.settings.votes or not len(self._tracks.ids) or not ids.any():
            return replace(detections, track_ids=ids)
        order = np.argsort(self._tracks.ids)
        rows = order[np.searchsorted(self._tracks.ids, ids, sorter=order).clip(max=len(order) - 1)]
        voted = self._tracks.votes.argmax(axis=1)[rows]
        return replace(detections, track_ids=ids, class_ids=np.where(ids != NO_TRACK, voted, detections.class_ids))

    def update(self, detections: Detections, seconds: float) -> TrackIds:
        """Take in a frame.

        Args:
            detections: of the frame, down to `low_score`; boxes in source pixels.
            seconds: the frame's stamp. A stamp that lies before the last one begins anew when it is further back than `keep_s`
                (a bag that starts again), and is else taken as the last one's.

        Returns:
            The id of each detection, int64 (N,); `NO_TRACK` for those of no confirmed track.
        """
        first = self._advance(seconds)
        now = self._now
        boxes = detections.boxes.astype(np.float64)
        rows = np.full(len(detections), -1, np.intp)
        strong = detections.scores >= self.settings.high_score
        weak = ~strong & (detections.scores >= self.settings.low_score)
        self._make_room(int(detections.class_ids.max(initial=-1)) + 1)
        similarity = self._similarity(boxes, detections.class_ids)
        free = np.ones(len(self._tracks.ids), np.bool_)
        _match(similarity, strong, free, self.settings.match_iou, rows)
        # A weak detection does not bring back a track that was lost: there it is more often noise.
        free &= self._tracks.seen >= self._last_seen
        _match(similarity, weak, free, self.settings.weak_match_iou, rows)
        self._continue(rows, boxes, detections, now)
        ids = np.where(rows >= 0, self._tracks.ids[rows] if len(self._tracks.ids) else 0, NO_TRACK)
        begun = np.flatnonzero(strong & (rows < 0))
        new = self._begin(boxes[begun], detections.select(begun), now, first)
        if first:
            ids[begun] = new
        self._last_seen = now
        return ids.astype(np.int64)

    def reset(self) -> None:
        """Forget all tracks, as with another model; ids go on."""
        self._tracks, self._now, self._last_seen = _no_tracks(), -np.inf, -np.inf

    def _advance(self, seconds: float) -> bool:
        """Move all tracks to a stamp and drop those unseen for too long; whether this is a first frame."""
        if seconds < self._now - self.settings.keep_s:
            self.reset()
        if np.isneginf(self._now):
            self._now = seconds
            return True
        step = max(0.0, seconds - self._now)
        self._now += step
        tracks = self._tracks
        # An unconfirmed track lives for one more frame only.
        kept = (tracks.seen >= self._now - self.settings.keep_s) & (tracks.confirmed | (tracks.seen >= self._last_seen))
        self._tracks = tracks if kept.all() else tracks.select(kept)
        self._tracks.motion.advance(step)
        self._tracks.votes *= 0.5 ** (step / CLASS_MEMORY_S)
        return False

    def _make_room(self, classes: int) -> None:
        """Columns of the votes for so many classes."""
        missing = classes - self._tracks.votes.shape[1]
        if missing > 0:
            self._tracks.votes = np.pad(self._tracks.votes, ((0, 0), (0, missing)))

    def _similarity(self, boxes: Floats, class_ids: npt.NDArray[np.int32]) -> Floats:
        """IoU of each track's predicted box with each detection, lowered where the classes differ: (tracks, detections)."""
        overlap = iou(self._tracks.motion.boxes(), boxes)
        overlap -= OTHER_CLASS * (self._tracks.class_ids[:, None] != class_ids[None])
        return overlap

    def _continue(self, rows: npt.NDArray[np.intp], boxes: Floats, detections: Detections, now: float) -> None:
        found = np.flatnonzero(rows >= 0)
        which = rows[found]
        self._tracks.motion.correct(which, boxes[found])
        self._tracks.class_ids[which] = detections.class_ids[found]
        self._tracks.votes[which, detections.class_ids[found]] += detections.scores[found]
        self._tracks.seen[which] = now
        self._tracks.confirmed[which] = True

    def _begin(self, boxes: Floats, detections: Detections, now: float, confirmed: bool) -> TrackIds:
        count = len(boxes)
        ids = np.arange(self._next_id, self._next_id + count, dtype=np.int64)
        self._next_id += count
        if count:
            votes = np.zeros((count, self._tracks.votes.shape[1]))
            votes[np.arange(count), detections.class_ids] = detections.scores
            new = _Tracks(
                BoxMotion.starting_at(boxes),
                ids,
                detections.class_ids.copy(),
                np.full(count, now),
                np.full(count, confirmed),
                votes,
            )
            self._tracks = self._tracks.joined(new)
        return ids


def _match(
    similarity: Floats,
    detections: npt.NDArray[np.bool_],
    tracks: npt.NDArray[np.bool_],
    least: float,
    rows: npt.NDArray[np.intp],
) -> None:
    """Pair free tracks with some detections, the best overlapping first; what is paired is written into `tracks` and `rows`."""
    candidates = np.where(tracks[:, None] & (detections & (rows < 0))[None], similarity, -1.0)
    i, j = np.nonzero(candidates >= least)
    for pair in np.argsort(-candidates[i, j], kind='stable'):
        track, detection = i[pair], j[pair]
        if tracks[track] and rows[detection] < 0:
            tracks[track] = False
            rows[detection] = track
