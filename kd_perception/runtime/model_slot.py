"""The place of the model that runs. Models are exchanged between frames, and whoever exchanges them never waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """What holds memory or a device."""

    def close(self) -> None:
        """Free it."""
        ...


M = TypeVar('M', bound=Closable)


class ModelSlot(Generic[M]):
    """One model, used by one worker, exchanged by another thread.

    A model is closed by its successor's arrival, or by `clear`, and never while a frame is in it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._current: M | None = None
        self._successor: tuple[M, Callable[[], None]] | None = None
        self._frame: object | None = None

    @property
    def current(self) -> M | None:
        """The model that the next frame is given."""
        return self._current

    @contextmanager
    def frame(self) -> Iterator[M | None]:
        """The model for one frame; it stays open until the frame is left."""
        with self._lock:
            ticket = self._frame = object()
            model = self._current
        try:
            yield model
        finally:
            self._leave(ticket)

    def exchange(self, model: M, installed: Callable[[], None]) -> None:
        """Put `model` in the place of the present one: at once, or when the frame in work is done.

        Args:
            model: the successor. A former one that still waits for the end of a frame is closed and forgotten.
            installed: called between the last frame of the old model and the first of the new one, in whichever thread that is.
        """
        with self._lock:
            forgotten = self._successor
            self._successor = (model, installed)
            leaving = self._install() if self._frame is None else None
        if forgotten is not None:
            forgotten[0].close()
        if leaving is not None:
            leaving.close()

    def abandon(self) -> None:
        """The frame in work hangs: forget it, and forget its model without closing it, for it is in use until nobody knows when.

        A successor that waited for the frame's end is installed.
        """
        with self._lock:
            self._frame = None
            self._current = None
            self._install()

    def clear(self) -> None:
        """Close the model and the one that waits. No frame may be in work."""
        with self._lock:
            leaving = [self._current, self._successor[0] if self._successor else None]
            self._current = self._successor = None
        for model in leaving:
            if model is not None:
                model.close()

    def _leave(self, ticket: object) -> None:
        with self._lock:
            if self._frame is not ticket:
                return  # abandoned meanwhile
            self._frame = None
            leaving = self._install()
        if leaving is not None:
            leaving.close()

    def _install(self) -> M | None:
        """Install the successor, if there is one, and return the model that has to be closed."""
        if self._successor is None:
            return None
        leaving, (self._current, installed) = self._current, self._successor
        self._successor = None
        installed()
        return leaving
