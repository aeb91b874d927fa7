"""Doing less while frames come too late: a smaller network or fewer frames, how much less, and why."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from kd_perception.machine import host

RECOVERED = 0.8
"""Share of the budget under which the 95th percentile must fall before a step up: what fits just so would fall back at once."""

THROTTLING_CELSIUS = 80.0
"""Where a Raspberry Pi begins to slow down; other boards do so a little later."""

MIN_FRAMES = 5
"""Fewer frames say nothing about a percentile."""

MAX_BACK_OFF = 16
"""However often a step up failed, the next one is tried after at most this many holds."""

MOST_SKIPPED = 3
"""Frames skipped between two that are not, at the lowest level."""


@dataclass(frozen=True)
class SheddingSettings:
    """When the level may move.

    Attributes:
        budget_ms: largest 95th percentile of a frame's age.
        patience_s: seconds over which that percentile is taken; so long must it be over the budget before a step down.
        hold_s: least seconds between two steps, and seconds with time to spare before a step up. At least `patience_s`.
    """

    budget_ms: float
    patience_s: float = 5.0
    hold_s: float = 30.0


def cause_of_overload(celsius: float | None) -> str:
    """Why a machine that was quick enough no longer is: most boards slow down from about `THROTTLING_CELSIUS` on."""
    if celsius is not None and celsius >= THROTTLING_CELSIUS:
        return f'thermal: {celsius:.0f} °C'
    return 'load' if celsius is None else f'load ({celsius:.0f} °C)'


class LoadLevel:
    """A level from 0 (everything) to `lowest`, moved by single steps by the ages of the frames. One thread may add, another step.

    A step up that is taken back within one hold doubles the time until the next attempt, up to `MAX_BACK_OFF` holds: a machine
    that is too slow for good does not swing, and one whose load is gone always returns.
    """

    def __init__(self, settings: SheddingSettings, lowest: int) -> None:
        self.settings = settings
        self.lowest = lowest
        self.level = 0
        self._ages: deque[tuple[float, float]] = deque()
        self._began = math.inf  # when the first frame after the last step came
        self._changed = -math.inf
        self._rose = -math.inf
        self._back_off = 1
        self._lock = threading.Lock()

    def add(self, now: float, age_ms: float) -> None:
        """Take in a published frame; `now` in monotonic seconds, never falling."""
        with self._lock:
            if not self._ages:
                self._began = now
            self._ages.append((now, age_ms))
            while self._ages[0][0] < now - self.settings.hold_s:
                self._ages.popleft()

    def step(self, now: float) -> int:
        """Move by one step if it is time to, and return the level. Nothing moves while no frames come."""
        settings = self.settings
        rested = now - self._changed
        if rested < settings.hold_s:
            return self.level
        if self.level < self.lowest and self._p95(now - settings.patience_s) > settings.budget_ms:
            if now - self._rose < 2 * settings.hold_s:
                self._back_off = min(2 * self._back_off, MAX_BACK_OFF)
            self._move(now, 1)
        elif self.level > 0 and rested >= self._back_off * settings.hold_s:
            p95 = self._p95(now - settings.hold_s)
            if p95 <= RECOVERED * settings.budget_ms:
                self._rose = now
                self._move(now, -1)
        if self.level == 0 and now - self._changed > 2 * MAX_BACK_OFF * settings.hold_s:
            self._back_off = 1
        return self.level

    def reset(self) -> None:
        """Begin anew at level 0, as with another model."""
        self.level = 0
        self._back_off = 1
        self._changed = self._rose = -math.inf
        self._forget()

    def settle(self, now: float, level: int) -> None:
        """Be at a level that something else decided on; it is held like any other."""
        if level != self.level:
            self._move(now, level - self.level)

    def _move(self, now: float, by: int) -> None:
        self.level += by
        self._changed = now
        self._forget()

    def _forget(self) -> None:
        with self._lock:
            self._ages.clear()
            self._began = math.inf

    def _p95(self, since: float) -> float:
        """95th percentile of the ages since a moment, NaN where they are too few or do not reach back so far."""
        with self._lock:
            if self._began > since:
                return math.nan
            ages = sorted(age for at, age in self._ages if at >= since)
        return ages[min(len(ages) - 1, int(0.95 * len(ages)))] if len(ages) >= MIN_FRAMES else math.nan


class LoadShedding:
    """Off, or one of two ways to do less: a smaller network, or fewer frames.

    Args:
        log: takes a line whenever the level moves.
        clock: monotonic seconds.
    """

    def __init__(self, log: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._level = LoadLevel(SheddingSettings(1.0), 0)
        self._way = 'off'
        self._cause = ''
        self._skipped: Counter[int] = Counter()

    @property
    def level(self) -> int:
        """0 is everything."""
        return self._level.level

    def add(self, now: float, age_ms: float) -> None:
        """Take in a published frame, from the worker's thread."""
        if self._way != 'off':
            self._level.add(now, age_ms)

    def adapt(self, way: str, settings: SheddingSettings, fallbacks: int) -> None:
        """Move if it is time to.

        Args:
            way: `off`, `step_down` or `skip_frames`.
            settings: when to.
            fallbacks: how many smaller networks there are.
        """
        if way != self._way:
            self.reset()
            self._way = way
        self._level.settings = settings
        self._level.lowest = {'off': 0, 'skip_frames': MOST_SKIPPED, 'step_down': fallbacks}[way]
        before = self.level
        level = self._level.step(self._clock())
        if level > before:
            self._cause = cause_of_overload(host.temperature())
        if level != before:
            self._log(self.describe() or 'within the budget again: nothing is left out any more')

    def settle(self, level: int) -> None:
        """The level that is in force, where another one could not be reached."""
        self._level.settle(self._clock(), level)

    def reset(self) -> None:
        """Begin anew with everything, as with another model."""
        self._level.reset()
        self._cause = ''

    def skips(self, slot: int) -> bool:
        """Whether this frame of a source is left out."""
        if self._way == 'skip_frames' and self._skipped[slot] < self.level:
            self._skipped[slot] += 1
            return True
        self._skipped[slot] = 0
        return False

    def describe(self) -> str:
        """What is left out and why; empty when nothing is."""
        if not self.level:
            return ''
        what = f'one frame in {self.level + 1} is detected' if self._way == 'skip_frames' else 'a smaller network runs'
        return f'degraded to level {self.level} of {self._level.lowest}, {what}; cause: {self._cause}'
