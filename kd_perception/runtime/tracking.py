"""Trackers of live frames: one a source, begun anew with another model."""

from __future__ import annotations

from kd_perception.detection.detections import Detections
from kd_perception.runtime.model import Model
from kd_perception.tracking.bytetrack import ByteTracker, TrackerSettings


class Tracking:
    """The trackers of all sources. Used by the worker's thread alone."""

    def __init__(self, sources: int) -> None:
        self._trackers = [ByteTracker() for _ in range(sources)]
        self._model: Model | None = None

    def update(
        self, slot: int, model: Model, detections: Detections, seconds: float, settings: TrackerSettings
    ) -> Detections:
        """The detections of a frame with the ids of their objects, and the classes for which their tracks vote.

        Args:
            slot: of the frame's source.
            model: that found them; another one than before begins all tracks anew.
            detections: down to `settings.low_score`.
            seconds: when the picture was taken.
            settings: may change from frame to frame.
        """
        if model is not self._model:
            self._model = model
            for tracker in self._trackers:
                tracker.reset()
        tracker = self._trackers[slot]
        tracker.settings = settings
        return tracker.track(detections, seconds)
