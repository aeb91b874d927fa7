"""The queue between cameras and a detector: it holds the newest frame of each camera and nothing else."""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar('T')


class LatestFrameQueue(Generic[T]):
    """A slot for the newest item of each source. A second item replaces the first: a late detector never works through a backlog.

    Slots are emptied in turn: after a source was served, every other one that has an item comes before it.
    """

    def __init__(self, slots: int = 1) -> None:
        self._lock = threading.Lock()
        # One entry for each item, and one more when it is closed. A taker waits here and not at a condition, whose Python code
        # would run between an item's coming and its being taken.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._items: list[T | None] = [None] * slots
        self._next = 0
        self._closed = False

    def put(self, item: T, slot: int = 0) -> T | None:
        """Leave `item` and return the one that it superseded, if any. A closed queue hands `item` straight back."""
        with self._lock:
            if self._closed:
                return item
            superseded, self._items[slot] = self._items[slot], item
        if superseded is None:
            self._bell.put(None)
        return superseded

    def take(self) -> T | None:
        """Wait for an item; None once the queue is closed."""
        while True:
            self._bell.get()
            with self._lock:
                item = self._empty_one()
                if self._closed:
                    self._bell.put(None)  # for the next taker
            if item is not None or self._closed:
                return item

    def poll(self) -> T | None:
        """An item, if there is one, without waiting."""
        with self._lock:
            item = self._empty_one()
        if item is not None:
            with suppress(queue.Empty):  # a taker has heard it, finds nothing and waits on
                self._bell.get_nowait()
        return item

    def close(self) -> list[T]:
        """Wake the taker for good and return the items left inside."""
        with self._lock:
            self._closed = True
            left = [item for item in self._items if item is not None]
            self._items = [None] * len(self._items)
        self._bell.put(None)
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
