"""What is known of the camera: state, rate, and what is odd about its stamps."""

from __future__ import annotations

from collections import Counter
from enum import Enum

from kd_perception.runtime.frame_counters import RateMeter

FUTURE_TOLERANCE_NS = 50_000_000
"""Clocks of two machines never agree exactly; a stamp this little ahead of us is no fault."""

MAX_PUBLISHERS = 64
"""Publishers come and go; only so many are remembered."""


class InputState(Enum):
    """What the input is doing."""

    WAITING = 'waiting'
    ACTIVE = 'active'
    STALE = 'stale'
    REJECTED = 'rejected'


class InputMonitor:
    """Follows the frames of one camera. Times are given, never read, so that any clock will do.

    Attributes:
        stamp_faults: how many stamps were `missing` (zero), `future` or `backward`.
        rejection: why the newest frame could not be decoded; empty when it could.
        incompatibility: the last QoS mismatch in words; empty when there was none.
        lost: messages that were sent and never reached us: lost on the way, or overwritten in the reader by newer ones.
    """

    def __init__(self) -> None:
        self.stamp_faults: Counter[str] = Counter()
        self.rejection = ''
        self.incompatibility = ''
        self.lost = 0
        self._arrivals = RateMeter()
        self._last_arrival: float | None = None
        self._last_stamp_ns = 0
        self._numbers: dict[bytes, int] = {}

    def numbered(self, publisher: bytes, number: int) -> None:
        """Take in a message's sequence number; the gap to its publisher's last one are messages that never came."""
        last = self._numbers.get(publisher)
        if last is None and len(self._numbers) >= MAX_PUBLISHERS:
            self._numbers.clear()
        elif last is not None and number > last:
            self.lost += number - last - 1
        self._numbers[publisher] = number

    def arrived(self, stamp_ns: int, clock_ns: int, monotonic: float) -> float:
        """Take in a frame.

        Args:
            stamp_ns: the header's stamp, 0 when nobody stamped it.
            clock_ns: the node's clock.
            monotonic: seconds of a clock that never jumps.

        Returns:
            Transport time in ms, clamped to 0 where the stamp is missing or ahead of the clock.
        """
        self._arrivals.tick(monotonic)
        self._last_arrival = monotonic
        if stamp_ns <= 0:
            self.stamp_faults['missing'] += 1
            return 0.0
        if stamp_ns > clock_ns + FUTURE_TOLERANCE_NS:
            self.stamp_faults['future'] += 1
        if stamp_ns < self._last_stamp_ns:
            self.stamp_faults['backward'] += 1
        self._last_stamp_ns = stamp_ns
        return age_ms(stamp_ns, clock_ns)

    def state(self, monotonic: float, timeout: float) -> InputState:
        """The input's state; `timeout` is the silence in seconds after which it is stale."""
        if self._last_arrival is None:
            return InputState.WAITING
        if monotonic - self._last_arrival > timeout:
            return InputState.STALE
        return InputState.REJECTED if self.rejection else InputState.ACTIVE

    def silence(self, monotonic: float) -> float:
        """Seconds since the last frame; 0 before the first."""
        return 0.0 if self._last_arrival is None else monotonic - self._last_arrival

    def rate(self, monotonic: float) -> float:
        """Frames received per second."""
        return self._arrivals.rate(monotonic)


def age_ms(stamp_ns: int, clock_ns: int) -> float:
    """Milliseconds from a stamp to the clock; 0 for a stamp that is missing or ahead."""
    return max(0.0, (clock_ns - stamp_ns) / 1e6) if stamp_ns > 0 else 0.0
