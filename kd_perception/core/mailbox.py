"""The one-slot mailbox between a camera and a detector, and the books that account for every frame."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar('T')

DROP_CAUSES: tuple[str, ...] = ('superseded', 'stale', 'undecodable', 'disabled', 'failed')
"""Every reason for which a received frame may go unpublished."""


@dataclass
class FrameCounts:
    """How many frames came in and what became of them.

    `received == published + sum(dropped.values()) + pending` holds at every moment; `pending` is the frame in the mailbox plus
    the one in work, so it is 0 when the detector rests.
    """

    received: int = 0
    published: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROP_CAUSES, 0))

    @property
    def pending(self) -> int:
        """Frames received whose fate is still open."""
        return self.received - self.published - sum(self.dropped.values())


class FrameBooks:
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


class Mailbox(Generic[T]):
    """A slot for the newest item. Putting a second one replaces the first: a late detector never works through a backlog."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._item: T | None = None
        self._closed = False

    def put(self, item: T) -> T | None:
        """Leave `item` and return the one that it superseded, if any. A closed mailbox hands `item` straight back."""
        with self._condition:
            if self._closed:
                return item
            superseded, self._item = self._item, item
            self._condition.notify()
            return superseded

    def take(self) -> T | None:
        """Wait for an item; None once the mailbox is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._item is not None or self._closed)
            item, self._item = self._item, None
            return item

    def poll(self) -> T | None:
        """The item, if there is one, without waiting."""
        with self._condition:
            item, self._item = self._item, None
            return item

    def close(self) -> T | None:
        """Wake the taker for good and return the item left inside, if any."""
        with self._condition:
            self._closed = True
            item, self._item = self._item, None
            self._condition.notify_all()
            return item
