"""At most so many frames a second, evenly."""

from __future__ import annotations

TOLERANCE = 0.1
"""Share of a period by which a frame may come early: cameras are not exact."""


class RateLimit:
    """Lets frames through at a rate; those between are too many. Not thread-safe."""

    def __init__(self) -> None:
        self._due = 0.0

    def exceeds(self, rate_hz: float, now: float) -> bool:
        """Whether a frame that comes at `now`, in monotonic seconds, is one too many; a rate of 0 has no limit."""
        if rate_hz <= 0:
            return False
        period = 1 / rate_hz
        if now < self._due - TOLERANCE * period:
            return True
        # Late frames do not move the beat, unless they are so late that the beat would have to catch up.
        self._due = max(self._due + period, now)
        return False
