"""The thread that takes the newest frame from the mailbox through the detector."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sensor_msgs.msg import CompressedImage, Image

from kd_perception.core.mailbox import FrameBooks, Mailbox


class Frame:
    """A camera message as the callback left it.

    Attributes:
        message: the image.
        transport_ms: camera stamp → callback.
        received: monotonic seconds at the callback.
    """

    def __init__(self, message: Image | CompressedImage, transport_ms: float, received: float) -> None:
        self.message = message
        self.transport_ms = transport_ms
        self.received = received
        self._unclaimed = threading.Lock()

    @property
    def is_claimed(self) -> bool:
        """Whether its entry in the books is made, or about to be."""
        return self._unclaimed.locked()

    def claim(self) -> bool:
        """True for the first caller alone: worker and watchdog must not both enter the frame in the books."""
        return self._unclaimed.acquire(blocking=False)


class Worker:
    """Runs `process` on every frame that is still the newest when the last one is done.

    The books are kept here for frames that never reach `process`; `process` itself enters what became of the others.
    """

    def __init__(self, process: Callable[[Frame], None], books: FrameBooks) -> None:
        self._process = process
        self._books = books
        self._mailbox: Mailbox[Frame] = Mailbox()
        self._in_work: tuple[Frame, float] | None = None
        self._thread = threading.Thread(target=self._run, name='detector_worker', daemon=True)
        self._thread.start()

    def submit(self, frame: Frame) -> None:
        """Leave a frame; the one that still waited is superseded."""
        if self._mailbox.put(frame) is not None:
            self._books.drop('superseded')

    def overdue(self, limit: float) -> Frame | None:
        """The frame that has been in work for longer than `limit` seconds and is not decided on, if there is one."""
        in_work = self._in_work
        if in_work is None or in_work[0].is_claimed or time.monotonic() - in_work[1] <= limit:
            return None
        return in_work[0]

    def abandon(self) -> None:
        """Take no more frames; the thread ends after the one in work, whenever that is. What waits is dropped as disabled."""
        if self._mailbox.close() is not None:
            self._books.drop('disabled')

    def stop(self, patience: float) -> Frame | None:
        """`abandon`, and wait for the thread. Returns the frame that it hangs in if it is not through in `patience` seconds."""
        self.abandon()
        self._thread.join(patience)
        in_work = self._in_work
        return in_work[0] if self._thread.is_alive() and in_work else None

    def _run(self) -> None:
        while (frame := self._mailbox.take()) is not None:
            self._in_work = (frame, time.monotonic())
            self._process(frame)
            self._in_work = None
