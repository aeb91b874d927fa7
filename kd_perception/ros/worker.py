"""The thread that takes the newest frame from the mailbox through the detector."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from sensor_msgs.msg import CompressedImage, Image

from kd_perception.core.mailbox import FrameBooks, Mailbox


@dataclass(frozen=True)
class Frame:
    """A camera message as the callback left it.

    Attributes:
        message: the image.
        transport_ms: camera stamp → callback.
        received: monotonic seconds at the callback.
    """

    message: Image | CompressedImage
    transport_ms: float
    received: float


class Worker:
    """Runs `process` on every frame that is still the newest when the last one is done.

    The books are kept here for frames that never reach `process`; `process` itself enters what became of the others.
    """

    def __init__(self, process: Callable[[Frame], None], books: FrameBooks) -> None:
        self._process = process
        self._books = books
        self._mailbox: Mailbox[Frame] = Mailbox()
        self._thread = threading.Thread(target=self._run, name='detector_worker', daemon=True)
        self._thread.start()

    def submit(self, frame: Frame) -> None:
        """Leave a frame; the one that still waited is superseded."""
        if self._mailbox.put(frame) is not None:
            self._books.drop('superseded')

    def stop(self) -> None:
        """Finish the frame in work, drop the one that waits as disabled, and end the thread."""
        if self._mailbox.close() is not None:
            self._books.drop('disabled')
        self._thread.join()

    def _run(self) -> None:
        while (frame := self._mailbox.take()) is not None:
            self._process(frame)
