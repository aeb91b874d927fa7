"""The thread that takes the newest frames from the queue through the detector, one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sensor_msgs.msg import CompressedImage, Image

from kd_perception.ros.camera import Camera
from kd_perception.runtime.latest_frame_queue import LatestFrameQueue


class Frame:
    """A camera message as the callback left it.

    Attributes:
        camera: whose it is.
        message: the image.
        transport_ms: camera stamp → callback.
        received: monotonic seconds at the callback.
    """

    def __init__(self, camera: Camera, message: Image | CompressedImage, transport_ms: float, received: float) -> None:
        self.camera = camera
        self.message = message
        self.transport_ms = transport_ms
        self.received = received
        self._unclaimed = threading.Lock()

    @property
    def is_claimed(self) -> bool:
        """Whether it was counted, or about to be."""
        return self._unclaimed.locked()

    def claim(self) -> bool:
        """True for the first caller alone: worker and watchdog must not both count the frame."""
        return self._unclaimed.acquire(blocking=False)


class Worker:
    """Runs `process` on every frame that is still its camera's newest when its turn comes.

    Frames that never reach `process` are counted here; `process` itself counts the others.
    """

    def __init__(self, process: Callable[[Frame], None], cameras: int) -> None:
        self._process = process
        self._queue: LatestFrameQueue[Frame] = LatestFrameQueue(cameras)
        self._in_work: tuple[Frame, float] | None = None
        self._thread = threading.Thread(target=self._run, name='detector_worker', daemon=True)
        self._thread.start()

    def submit(self, frame: Frame) -> None:
        """Leave a frame; its camera's last one, if it still waits, is superseded."""
        superseded = self._queue.put(frame, frame.camera.slot)
        if superseded is not None:
            superseded.camera.counters.drop('superseded')

    def overdue(self, limit: float) -> Frame | None:
        """The frame that has been in work for longer than `limit` seconds and is not decided on, if there is one."""
        in_work = self._in_work
        if in_work is None or in_work[0].is_claimed or time.monotonic() - in_work[1] <= limit:
            return None
        return in_work[0]

    def abandon(self) -> None:
        """Take no more frames; the thread ends after the one in work, whenever that is. What waits is dropped as disabled."""
        for frame in self._queue.close():
            frame.camera.counters.drop('disabled')

    def stop(self, patience: float) -> Frame | None:
        """`abandon`, and wait for the thread. Returns the frame that it hangs in if it is not through in `patience` seconds."""
        self.abandon()
        self._thread.join(patience)
        in_work = self._in_work
        return in_work[0] if self._thread.is_alive() and in_work else None

    def _run(self) -> None:
        while (frame := self._queue.take()) is not None:
            self._in_work = (frame, time.monotonic())
            self._process(frame)
            self._in_work = None
