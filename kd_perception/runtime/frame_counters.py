"""What became of every frame, how many come in a second, and how long each stage took over the last frames."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kd_perception.detection.stage_times import STAGES, StageTimes

DROP_CAUSES: tuple[str, ...] = ('superseded', 'stale', 'undecodable', 'skipped', 'disabled', 'failed')
"""Every reason for which a received frame may go unpublished."""


@dataclass
class FrameCounts:
    """How many frames came in and what became of them.

    `received == published + sum(dropped.values()) + pending` holds at every moment; `pending` is the frame in the queue plus
    the one in work, so it is 0 when the detector rests.
    """

    received: int = 0
    published: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROP_CAUSES, 0))

    @property
    def pending(self) -> int:
        """Frames received whose fate is still open."""
        return self.received - self.published - sum(self.dropped.values())


class FrameCounters:
    """Thread-safe `FrameCounts`: the callback's and the worker's entries never get lost between each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = FrameCounts()

    def receive(self) -> None:
        """A frame came in."""
        with self._lock:
            self._counts.received += 1

    def publish(self) -> None:
        """A frame's detections went out."""
        with self._lock:
            self._counts.published += 1

    def drop(self, cause: str) -> None:
        """A frame was dropped for one of `DROP_CAUSES`; any other cause is a KeyError."""
        with self._lock:
            self._counts.dropped[cause] += 1

    def snapshot(self) -> FrameCounts:
        """A consistent copy."""
        with self._lock:
            return FrameCounts(self._counts.received, self._counts.published, dict(self._counts.dropped))


class RateMeter:
    """Events per second over a sliding window of time. Thread-safe: one thread may count while another reads."""

    def __init__(self, window_s: float = 3.0) -> None:
        self._window = window_s
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def tick(self, now: float) -> None:
        """An event happened at `now` (monotonic seconds)."""
        with self._lock:
            self._times.append(now)
            self._forget(now)

    def rate(self, now: float) -> float:
        """Events per second, 1/s; 0 when fewer than two lie in the window."""
        with self._lock:
            self._forget(now)
            if len(self._times) < 2:
                return 0.0
            return (len(self._times) - 1) / max(self._times[-1] - self._times[0], 1e-9)

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] < now - self._window:
            self._times.popleft()


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of one stage over the window, in milliseconds."""

    p50: float
    p95: float
    p99: float
    max: float


class RollingStageTimes:
    """Percentiles over the stage times of the last `window` frames. Thread-safe: one thread may add while another reads."""

    def __init__(self, window: int = 300) -> None:
        self._rows: deque[tuple[float, ...]] = deque(maxlen=window)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, times: StageTimes) -> None:
        """Take in one frame."""
        row = tuple(times.as_dict().values())
        with self._lock:
            self._rows.append(row)

    def clear(self) -> None:
        """Forget all frames."""
        self._rows.clear()

    def percentiles(self) -> dict[str, Percentiles]:
        """Stage → percentiles; empty before the first frame."""
        with self._lock:
            rows = np.array(self._rows)
        if not len(rows):
            return {}
        p50, p95, p99 = np.percentile(rows, [50, 95, 99], axis=0)
        top = rows.max(axis=0)
        return {
            stage: Percentiles(float(p50[i]), float(p95[i]), float(p99[i]), float(top[i]))
            for i, stage in enumerate(STAGES)
        }


def worst_stage(percentiles: Mapping[str, Percentiles]) -> str | None:
    """The stage with the highest p95 (`age`, the sum of all, left out); None before the first frame."""
    p95 = {stage: of_stage.p95 for stage, of_stage in percentiles.items() if stage != 'age'}
    return max(p95, key=p95.__getitem__, default=None)
