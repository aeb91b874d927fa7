"""A frame on its way: where it is from, what may change from one to the next, and its one count."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kd_perception.detection.box_filter import BoxFilter
from kd_perception.detection.detections import Detections
from kd_perception.detection.image import BgrImage
from kd_perception.detection.stage_times import StageTimes
from kd_perception.detection.thresholds import Thresholds
from kd_perception.runtime.frame_counters import FrameCounters
from kd_perception.tracking.bytetrack import TrackerSettings


class Source(Protocol):
    """Where frames are from and where their results go: a camera. All but `counters` is used by the worker's thread."""

    @property
    def slot(self) -> int:
        """Its place in the queue: 0, 1, …"""
        ...

    @property
    def counters(self) -> FrameCounters:
        """What became of its frames."""
        ...

    def seconds(self, message: Any) -> float:
        """When the picture was taken, in seconds; 0 where nobody says."""
        ...

    def age_ms(self, message: Any) -> float:
        """How old a message is, in ms."""
        ...

    def decode(self, message: Any) -> BgrImage:
        """The picture; raises ImageError where there is none."""
        ...

    def rejects(self, reason: str) -> None:
        """Take note of why the newest picture could not be decoded; empty when it could."""
        ...

    def publish(self, message: Any, detections: Detections, classes: tuple[str, ...]) -> None:
        """Send the detections of a message; `classes` are the names of their class ids."""
        ...

    def published(self, times: StageTimes, at: float) -> None:
        """Take note of the stage times of a frame that was published at a moment in monotonic seconds."""
        ...

    def publish_extras(
        self, message: Any, image: BgrImage, detections: Detections, times: StageTimes, classes: tuple[str, ...]
    ) -> None:
        """Send what costs time and is made only while somebody listens; the frame itself is out and counted."""
        ...


@dataclass(frozen=True)
class FrameOptions:
    """What may change from frame to frame.

    Attributes:
        max_age_ms: older frames are dropped as stale; 0 drops none.
        score: lowest score of all classes; negative takes the bundle's, and those that it has for single classes.
        iou: of NMS; negative takes the bundle's.
        suppression: one of `SUPPRESSIONS`; empty takes the bundle's.
        class_scores: class name → its own lowest score, in place of any other.
        max_detections: most boxes per frame.
        boxes: which of them are published.
        tracker: how objects are tracked; None tracks none.
    """

    max_age_ms: float = 0.0
    score: float = -1.0
    iou: float = -1.0
    suppression: str = ''
    class_scores: Mapping[str, float] = field(default_factory=dict)
    max_detections: int = 300
    boxes: BoxFilter = field(default_factory=BoxFilter)
    tracker: TrackerSettings | None = None

    def thresholds(self, bundle: Thresholds) -> Thresholds:
        """What is published: the thresholds, those of the bundle where nothing else is asked for."""
        base = bundle if self.score < 0 else bundle.down_to(self.score)
        return Thresholds(
            base.score,
            bundle.iou if self.iou < 0 else self.iou,
            self.suppression or bundle.suppression,
            {**base.class_scores, **self.class_scores},
        )

    def detector_thresholds(self, bundle: Thresholds) -> Thresholds:
        """What the detector works with: a tracker also uses what is too weak to be published."""
        published = self.thresholds(bundle)
        tracked = published.lowest if self.tracker is None else self.tracker.low_score
        return published.down_to(min(published.lowest, tracked))


class Frame:
    """A message as the callback left it, until it is counted once.

    Attributes:
        source: whose it is.
        message: the image.
        transport_ms: camera stamp → callback.
        received: monotonic seconds at the callback.
    """

    def __init__(self, source: Source, message: Any, transport_ms: float, received: float) -> None:
        self.source = source
        self.message = message
        self.transport_ms = transport_ms
        self.received = received
        self.decoding_since: float | None = None
        self._lock = threading.Lock()
        self._is_claimed = False
        self._is_decoded = False

    def claim(self, *, undecoded: bool = False) -> bool:
        """True for the first caller alone: worker and watchdog must not both count the frame.

        Args:
            undecoded: claim it only if it has not gone to the engine.
        """
        with self._lock:
            if self._is_claimed or (undecoded and self._is_decoded):
                return False
            self._is_claimed = True
            return True

    def enter_engine(self) -> bool:
        """Decoding is done; False if the frame was given up meanwhile, so that it must not go to the engine."""
        with self._lock:
            self._is_decoded = not self._is_claimed
            return self._is_decoded
