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
        # A frame that is a little late does not move the beat; after a pause the beat begins anew.
        self._due = (now if now > self._due + period else self._due) + period
        return False
