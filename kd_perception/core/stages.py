"""Stage times of one frame, and their rolling percentiles."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np


@dataclass
class StageTimes:
    """How long one frame spent in each stage, in milliseconds.

    `transport`, `queue`, `decode` and `publish` are the node's; a bare `Detector` leaves them at 0.

    Attributes:
        transport: camera stamp → callback.
        queue: callback → worker.
        decode: message bytes → BGR image.
        preprocess: letterbox into the network's input.
        infer: the engine.
        postprocess: output decoding, NMS, back to source pixels.
        publish: detections → message → middleware.
        age: camera stamp → published.
    """

    transport: float = 0.0
    queue: float = 0.0
    decode: float = 0.0
    preprocess: float = 0.0
    infer: float = 0.0
    postprocess: float = 0.0
    publish: float = 0.0
    age: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Stage name → milliseconds, in the order in which a frame passes them."""
        return {stage: float(getattr(self, stage)) for stage in STAGES}


STAGES: tuple[str, ...] = tuple(f.name for f in fields(StageTimes))
"""All stages in the order in which a frame passes them; `age` is the whole way."""


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
