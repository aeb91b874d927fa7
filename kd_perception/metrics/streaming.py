"""Streaming perception: a simulated clock, the node's own queue, and the result that was at hand at every instant.

After Li, Wang and Ramanan, "Towards Streaming Perception" (ECCV 2020): each ground-truth instant is scored against the newest
result finished before it. A detector that is late is judged by where the world has moved meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from kd_perception.runtime.latest_frame_queue import LatestFrameQueue


class Fate(Enum):
    """What became of a frame."""

    PROCESSED = 'processed'
    SUPERSEDED = 'superseded'
    STALE = 'stale'


@dataclass(frozen=True)
class FrameFate:
    """One frame of the simulation, times in seconds on the simulated clock.

    Attributes:
        arrival: when the frame reached the queue.
        fate: what became of it.
        start: when the worker took it; None where it never did.
        finish: when its detections were ready; None likewise.
    """

    arrival: float
    fate: Fate
    start: float | None = None
    finish: float | None = None


@dataclass(frozen=True)
class Stream:
    """A whole simulated run.

    Attributes:
        frames: the fate of every frame, in order of arrival.
        at_hand: for every frame's arrival as an instant, the index of the frame whose detections were the newest finished by
            then; None before the first.
    """

    frames: tuple[FrameFate, ...]
    at_hand: tuple[int | None, ...]

    def count(self, fate: Fate) -> int:
        """How many frames met a fate."""
        return sum(frame.fate is fate for frame in self.frames)


def simulate(arrivals: Sequence[float], latencies: Sequence[float], rate: float = 1.0, max_age: float = 0.0) -> Stream:
    """Play frames into the node's queue on a simulated clock.

    Args:
        arrivals: seconds, rising, when each frame was taken.
        latencies: seconds from the worker's taking a frame to its detections.
        rate: how many times faster than recorded the frames come.
        max_age: frames older than this when the worker takes them are dropped as stale, in seconds; 0 never drops.

    Raises:
        ValueError: the lengths differ, the arrivals fall, a latency is negative, or the rate is not positive.
    """
    _check(arrivals, latencies, rate)
    times = [(arrival - arrivals[0]) / rate for arrival in arrivals] if arrivals else []
    worker = _Worker(times, latencies, max_age)
    for index, now in enumerate(times):
        worker.run_until(now)
        superseded = worker.queue.put(index)
        if superseded is not None:
            worker.fates[superseded] = FrameFate(times[superseded], Fate.SUPERSEDED)
    worker.run_until(float('inf'))
    frames = tuple(worker.fates[index] for index in range(len(times)))
    return Stream(frames, _newest_finished(frames, times))


class _Worker:
    """The node's worker with a clock that is set from outside."""

    def __init__(self, times: Sequence[float], latencies: Sequence[float], max_age: float) -> None:
        self.queue: LatestFrameQueue[int] = LatestFrameQueue()
        self.fates: dict[int, FrameFate] = {}
        self._times, self._latencies, self._max_age = times, latencies, max_age
        self._free_at = 0.0

    def run_until(self, now: float) -> None:
        """Take what lies in the queue as long as the worker gets free before `now`."""
        while self._free_at <= now:
            index = self.queue.poll()
            if index is None:
                return
            arrival = self._times[index]
            start = max(self._free_at, arrival)
            if self._max_age and start - arrival > self._max_age:
                self.fates[index] = FrameFate(arrival, Fate.STALE)
                continue
            self._free_at = start + self._latencies[index]
            self.fates[index] = FrameFate(arrival, Fate.PROCESSED, start, self._free_at)


def _newest_finished(frames: Sequence[FrameFate], instants: Sequence[float]) -> tuple[int | None, ...]:
    """Frames finish in the order in which they came, so one walk along both suffices."""
    finished = [(frame.finish, index) for index, frame in enumerate(frames) if frame.finish is not None]
    at_hand: list[int | None] = []
    newest, upcoming = None, iter([*finished, (float('inf'), -1)])
    finish, index = next(upcoming)
    for instant in instants:
        while finish <= instant:
            newest = index
            finish, index = next(upcoming)
        at_hand.append(newest)
    return tuple(at_hand)


def _check(arrivals: Sequence[float], latencies: Sequence[float], rate: float) -> None:
    if len(arrivals) != len(latencies):
        raise ValueError(f'{len(arrivals)} frames but {len(latencies)} latencies')
    if any(later < earlier for earlier, later in itertools.pairwise(arrivals)):
        raise ValueError('the frames are not in the order of their stamps')
    if any(latency < 0 for latency in latencies):
        raise ValueError('a latency is negative')
    if not rate > 0:
        raise ValueError(f'the rate must be positive, not {rate}')
