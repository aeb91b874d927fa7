"""Live streams: webcams (v4l2) and network cameras (RTSP, HTTP), read by OpenCV and opened again when they break off."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from kd_perception.bags.sources import SourceError, SourceFrame

_ADDRESS = re.compile(r'(rtsps?|rtmp|https?|udp|tcp)://\S+')
_WEBCAM = re.compile(r'/dev/video(\d+)')
_SECRET = re.compile(r'(?<=//)[^/@\s]*:[^/@\s]*@')
USUAL_FPS = 30.0
"""Where a stream does not say its own rate."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 5.0
"""Between two attempts to open a stream that broke off; each is twice as long as the one before."""


def is_stream(path: str) -> bool:
    """Whether a source is an address or a webcam's device, and no file."""
    return bool(_ADDRESS.fullmatch(path) or _WEBCAM.fullmatch(path))


class StreamSource:
    """Frames as they come, without end: what breaks off is opened again until it is there."""

    count: int | None = None

    def __init__(
        self,
        address: str,
        report: Callable[[str], None] = lambda line: None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open the stream and see that it gives a frame.

        Args:
            address: such as `rtsp://camera/stream` or `/dev/video0`.
            report: takes a line when the stream breaks off, and when it is back.
            wait: waits for so many seconds.

        Raises:
            SourceError: nothing comes from there; says what to look at.
        """
        self._address = address
        self.name = _SECRET.sub('', address)
        self._report = report
        self._wait = wait
        self._capture = self._open()
        if self._capture is None:
            what = (
                'is it plugged in, and may you read it (group video)?' if _WEBCAM.fullmatch(address) else 'is it there?'
            )
            raise SourceError(f'{self.name}: no picture comes from there; {what}')
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= 1000 else USUAL_FPS

    def frames(self) -> Iterator[SourceFrame]:
        """The next frame whenever it is there; may be asked for again, and goes on then."""
        while True:
            capture = self._capture or self._reopened()
            found, image = capture.read()
            if found and image is not None:
                yield SourceFrame(np.asarray(image, np.uint8))
                continue
            self._report(f'{self.name}: the stream broke off; it is opened again')
            capture.release()
            self._capture = None

    def _reopened(self) -> cv2.VideoCapture:
        wait = FIRST_WAIT_S
        while (capture := self._open()) is None:
            self._wait(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)
        self._report(f'{self.name}: the stream is back')
        self._capture = capture
        return capture

    def _open(self) -> cv2.VideoCapture | None:
        """The stream, if a frame can be read; that first frame is given up."""
        webcam = _WEBCAM.fullmatch(self._address)
        capture = cv2.VideoCapture(int(webcam[1]), cv2.CAP_V4L2) if webcam else cv2.VideoCapture(self._address)
        if capture.isOpened() and capture.grab():
            return capture
        capture.release()
        return None
