"""What is known of the camera: state, rate, what was lost on the way, and what is odd about its stamps."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum

from kd_perception.runtime.frame_counters import RateMeter

FUTURE_TOLERANCE_NS = 50_000_000
"""Clocks of two machines never agree exactly; a stamp this little ahead of us is no fault."""

OLD_NS = 60_000_000_000
"""No camera is this late: such a stamp is of another time, as a bag's, or of a clock that was never set."""

STAMP_FAULTS = ('missing', 'future', 'backward', 'old')

MAX_PUBLISHERS = 64
"""Publishers come and go; only so many are remembered."""

RECENT_S = 10.0
"""Seconds for which a loss or an odd stamp is worth a warning; the counters never forget it."""


class InputState(Enum):
    """What the input is doing."""

    WAITING = 'waiting'
    ACTIVE = 'active'
    STALE = 'stale'
    REJECTED = 'rejected'


@dataclass(frozen=True)
class Loss:
    """Messages of the last `RECENT_S` seconds: those that never reached us, and all that were sent."""

    lost: int
    sent: int

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.lost / self.sent if self.sent else 0.0


class InputMonitor:
    """Follows the frames of one camera, for the node's life. Times are given, never read, so that any clock will do.

    One thread may take frames in while another asks.

    Attributes:
        stamp_faults: how many stamps were `missing` (zero), in the `future`, `backward` of the one before, or `old`.
        lost: messages that were sent and never reached us: lost on the way, or overwritten in the reader by newer ones.
        largest: bytes of the largest image so far.
        last_rejection: why the last frame that could not be decoded could not; empty where every frame could.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.stamp_faults: Counter[str] = Counter()
        self.lost = 0
        self.largest = 0
        self.last_rejection = ''
        self._rejection = ''
        self._last_fault: dict[str, float] = {}
        self._losses: deque[tuple[float, int]] = deque()
        self._lost_before = 0
        self.begin(0.0)

    def begin(self, monotonic: float) -> None:
        """Begin to listen, at a moment of the monotonic clock. The counters go on; the state is `waiting` again."""
        with self._lock:
            self._begin(monotonic)

    def _begin(self, monotonic: float) -> None:
        self._began = monotonic
        self._rejection = ''
        self._arrivals = RateMeter()
        self._last_arrival: float | None = None
        self._last_stamp_ns = 0
        self._numbers: dict[bytes, int] = {}
        self._losses.clear()
        self._last_fault.clear()

    @property
    def rejection(self) -> str:
        """Why the newest frame could not be decoded; empty when it could."""
        return self._rejection

    @rejection.setter
    def rejection(self, cause: str) -> None:
        self._rejection = cause
        if cause:
            self.last_rejection = cause

    def numbered(self, publisher: bytes, number: int) -> None:
        """Take in a message's sequence number; the gap to its publisher's last one are messages that never came."""
        with self._lock:
            last = self._numbers.get(publisher)
            if last is None and len(self._numbers) >= MAX_PUBLISHERS:
                self._numbers.clear()
            elif last is not None and number > last:
                self.lost += number - last - 1
            self._numbers[publisher] = number

    def count_lost(self, messages: int) -> None:
        """Take in what the middleware says was lost."""
        with self._lock:
            self.lost += messages

    def arrived(self, stamp_ns: int, clock_ns: int, monotonic: float, size: int = 0) -> float:
        """Take in a frame.

        Args:
            stamp_ns: the header's stamp, 0 when nobody stamped it.
            clock_ns: the node's clock.
            monotonic: seconds of a clock that never jumps.
            size: of the image, bytes.

        Returns:
            Transport time in ms, clamped to 0 where the stamp is missing or ahead of the clock.
        """
        with self._lock:
            self._take_in(stamp_ns, clock_ns, monotonic, size)
        return age_ms(stamp_ns, clock_ns)

    def _take_in(self, stamp_ns: int, clock_ns: int, monotonic: float, size: int) -> None:
        self._arrivals.tick(monotonic)
        self._last_arrival = monotonic
        self.largest = max(self.largest, size)
        self._losses.append((monotonic, self.lost - self._lost_before))
        self._lost_before = self.lost
        self._forget(monotonic)
        if stamp_ns <= 0:
            self._fault('missing', monotonic)
            return
        if stamp_ns > clock_ns + FUTURE_TOLERANCE_NS:
            self._fault('future', monotonic)
        elif stamp_ns < clock_ns - OLD_NS:
            self._fault('old', monotonic)
        if stamp_ns < self._last_stamp_ns:
            self._fault('backward', monotonic)
        self._last_stamp_ns = stamp_ns

    def state(self, monotonic: float, timeout: float) -> InputState:
        """The input's state; `timeout` is the silence in seconds after which it is stale."""
        if self._last_arrival is None:
            return InputState.WAITING
        if monotonic - self._last_arrival > timeout:
            return InputState.STALE
        return InputState.REJECTED if self.rejection else InputState.ACTIVE

    def silence(self, monotonic: float) -> float:
        """Seconds since the last frame, before the first one since we began to listen."""
        return monotonic - (self._began if self._last_arrival is None else self._last_arrival)

    def rate(self, monotonic: float) -> float:
        """Frames received per second."""
        return self._arrivals.rate(monotonic)

    def recent_loss(self, monotonic: float) -> Loss:
        """What was lost in the last `RECENT_S` seconds."""
        with self._lock:
            self._forget(monotonic)
            lost = sum(count for _, count in self._losses)
            return Loss(lost, lost + len(self._losses))

    def recent_faults(self, monotonic: float) -> dict[str, int]:
        """The stamp faults that were seen in the last `RECENT_S` seconds, each with its count since the node started."""
        with self._lock:
            return {
                fault: count
                for fault, count in self.stamp_faults.items()
                if monotonic - self._last_fault.get(fault, -RECENT_S) < RECENT_S
            }

    def _fault(self, kind: str, monotonic: float) -> None:
        self.stamp_faults[kind] += 1
        self._last_fault[kind] = monotonic

    def _forget(self, monotonic: float) -> None:
        while self._losses and self._losses[0][0] < monotonic - RECENT_S:
            self._losses.popleft()


def age_ms(stamp_ns: int, clock_ns: int) -> float:
    """Milliseconds from a stamp to the clock; 0 for a stamp that is missing or ahead."""
    return max(0.0, (clock_ns - stamp_ns) / 1e6) if stamp_ns > 0 else 0.0
