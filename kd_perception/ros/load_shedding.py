"""Doing less while frames come too late: which way, how far down the node is, and why."""

from __future__ import annotations

import time
from typing import Any

from kd_perception.machine import host
from kd_perception.ros.camera import Camera
from kd_perception.runtime.degradation import Degradation, DegradationSettings, cause_of_overload

MOST_SKIPPED = 3
"""Frames skipped between two that are not, at the lowest level."""


class LoadShedding:
    """Off, or one of two ways down: a smaller network, or fewer frames."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._stairs = Degradation(DegradationSettings(1.0), 0)
        self._way = 'off'
        self._cause = ''

    @property
    def level(self) -> int:
        """0 is everything."""
        return self._stairs.level

    def add(self, now: float, age_ms: float) -> None:
        """Take in a published frame, from the worker's thread."""
        if self._way != 'off':
            self._stairs.add(now, age_ms)

    def adapt(self, way: str, budget_ms: float, patience_s: float, hold_s: float, rungs: int) -> None:
        """Move if it is time to; `rungs` is how many smaller networks there are."""
        if way != self._way:
            self.reset()
            self._way = way
        self._stairs.settings = DegradationSettings(budget_ms, patience_s, max(hold_s, patience_s))
        self._stairs.lowest = {'off': 0, 'skip_frames': MOST_SKIPPED, 'step_down': rungs}[way]
        before = self._stairs.level
        level = self._stairs.step(time.monotonic())
        if level > before:
            self._cause = cause_of_overload(host.temperature())
        if level != before:
            self._logger.warning(self.describe() or 'within the budget again: nothing is left out any more')

    def reset(self) -> None:
        """Begin anew with everything, as with another model."""
        self._stairs.reset()
        self._cause = ''

    def skips(self, camera: Camera) -> bool:
        """Whether this frame of a camera is left out."""
        if self._way == 'skip_frames' and camera.skipped < self._stairs.level:
            camera.skipped += 1
            return True
        camera.skipped = 0
        return False

    def describe(self) -> str:
        """What is left out and why; empty when nothing is."""
        level = self._stairs.level
        if not level:
            return ''
        what = f'one frame in {level + 1} is detected' if self._way == 'skip_frames' else 'a smaller network runs'
        return f'degraded to level {level} of {self._stairs.lowest}, {what}; cause: {self._cause}'
