"""Rates over the last few seconds."""

from __future__ import annotations

import threading
from collections import deque


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
