"""The mailbox between cameras and a detector, and the books that account for every frame."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar('T')

DROP_CAUSES: tuple[str, ...] = ('superseded', 'stale', 'undecodable', 'skipped', 'disabled', 'failed')
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
    """A slot for the newest item of each source. A second item replaces the first: a late detector never works through a backlog.

    Slots are emptied in turn: after a source was served, every other one that has an item comes before it.
    """

    def __init__(self, slots: int = 1) -> None:
        self._condition = threading.Condition()
        self._items: list[T | None] = [None] * slots
        self._next = 0
        self._closed = False

    def put(self, item: T, slot: int = 0) -> T | None:
        """Leave `item` and return the one that it superseded, if any. A closed mailbox hands `item` straight back."""
        with self._condition:
            if self._closed:
                return item
            superseded, self._items[slot] = self._items[slot], item
            self._condition.notify()
            return superseded

    def take(self) -> T | None:
        """Wait for an item; None once the mailbox is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or any(item is not None for item in self._items))
            return self._empty_one()

    def poll(self) -> T | None:
        """An item, if there is one, without waiting."""
        with self._condition:
            return self._empty_one()

    def close(self) -> list[T]:
        """Wake the taker for good and return the items left inside."""
        with self._condition:
            self._closed = True
            left = [item for item in self._items if item is not None]
            self._items = [None] * len(self._items)
            self._condition.notify_all()
            return left

    def _empty_one(self) -> T | None:
        count = len(self._items)
        for turn in range(count):
            slot = (self._next + turn) % count
            item = self._items[slot]
            if item is not None:
                self._items[slot] = None
                self._next = (slot + 1) % count
                return item
        return None
