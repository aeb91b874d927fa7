"""An H.264 video, which every browser plays, with every picture at its true time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av

from kd_perception.detection.drawing import fit
from kd_perception.detection.image import BgrImage

_TICKS = 1000  # per second


class Video:
    """Writes pictures to an mp4 file. The first picture sets the size; others are fitted into it."""

    def __init__(self, path: Path) -> None:
        self._container = av.open(str(path), 'w', options={'movflags': 'faststart'})
        self._stream: av.VideoStream | None = None
        self._last = -1
        self.pictures = 0

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, picture: BgrImage, seconds: float) -> None:
        """Add a picture shown from `seconds` on; pictures come in order of time."""
        stream = self._stream or self._open(picture)
        frame = av.VideoFrame.from_ndarray(fit(picture, (stream.width, stream.height)), format='bgr24')
        self._last = max(round(seconds * _TICKS), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._container.mux(stream.encode(frame))
        self.pictures += 1

    def close(self) -> None:
        """Finish the file."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def _open(self, picture: BgrImage) -> av.VideoStream:
        height, width = picture.shape[:2]
        stream = self._container.add_stream('libx264', rate=30, options={'preset': 'veryfast', 'crf': '21'})
        # H.264 with its common color format has even sides.
        stream.width, stream.height = (max(2, side // 2 * 2) for side in (width, height))
        stream.pix_fmt = 'yuv420p'
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        stream.thread_count = 1
        self._stream = stream
        return stream
