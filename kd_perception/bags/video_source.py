"""Frames of a video file, each with its own time: telephones and network cameras record at uneven times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kd_perception.bags.sources import MAX_FILE_PIXELS, SourceError, SourceFrame
from kd_perception.detection.image import BgrImage
from kd_perception.regular_file import PATH_ERRORS, why

try:
    import av
except ImportError:  # of the demo extra; OpenCV reads videos too
    av = None  # type: ignore[assignment]

_USUAL_FPS = 30.0
_FORMATS = (
    'mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,ivf,obu,av1,flv,asf,ogg,gif,mjpeg,mxf,nut,rm,dv,'
    'yuv4mpegpipe'
)
"""Containers that hold the video themselves. Playlists name other files and addresses, which nobody asked for."""
_TEXT_LOOKED_AT = 4096
_TEXT_BYTES = bytes([7, 8, 9, 10, 12, 13, 27, *range(32, 127), *range(128, 256)])  # UTF-8, with no control characters
_FRAME_A_PACKET = frozenset({'h264', 'hevc', 'mjpeg', 'av1'})
"""In mp4, these give a frame for every packet."""


class VideoSource:
    """A video file, by PyAV where it is installed and by OpenCV elsewhere.

    Attributes:
        name: the file's name.
        fps: the mean rate, for people; frames have times of their own.
        count: frames that the file states; None where it does not.
    """

    def __init__(self, path: Path) -> None:
        """Open it for a look.

        Raises:
            SourceError: no video.
        """
        self.name = path.name
        self._path = path
        try:
            _refuse_text(path)
        except PATH_ERRORS as error:
            raise SourceError(f'{path} cannot be read: {why(error)}') from error
        fps, count = self._look_by_av() if av else self._look_by_opencv()
        self.fps = fps if 0.1 <= fps <= 1000.0 else _USUAL_FPS
        self.count = count if count > 0 else None

    def frames(self) -> Iterator[SourceFrame]:
        """The video from its start.

        Raises:
            SourceError: after the last frame, where there should have been more; says how many.
        """
        first, last = None, -1.0
        for number, (image, seconds) in enumerate(self._by_av() if av else self._by_opencv()):
            first = seconds if number == 0 else first
            own = number / self.fps if seconds is None or first is None else seconds - first
            last = max(own, last + 1e-6) if number else 0.0
            yield SourceFrame(image, seconds=last)

    def _look_by_av(self) -> tuple[float, int]:
        with self._container() as container:
            stream = container.streams.video[0]
            self._check_size(stream.codec_context.width, stream.codec_context.height)
            return float(stream.average_rate or 0), stream.frames

    @contextmanager
    def _container(self) -> Iterator[Any]:
        """The opened file; its errors become SourceErrors."""
        options = {'protocol_whitelist': 'file', 'format_whitelist': _FORMATS}
        try:
            with av.open(f'file:{self._path.absolute()}', options=options) as container:
                if not container.streams.video or container.streams.video[0].codec_context is None:
                    raise SourceError(f'{self._path}: there is no video in it, or none that can be decoded')
                yield container
        except (av.error.FFmpegError, UnicodeError, MemoryError) as error:
            reason = getattr(error, 'strerror', None) or str(error)
            raise SourceError(
                f'{self._path}: neither a video that can be read ({reason}), nor a folder of images, nor a rosbag2'
            ) from error

    def _by_av(self) -> Iterator[tuple[BgrImage, float | None]]:
        with self._container() as container:
            stream = container.streams.video[0]
            stream.thread_type = 'AUTO'
            stream.codec_context.options = {'max_pixels': str(MAX_FILE_PIXELS)}
            packets = frames = damaged = dropped = 0
            end: float | None = None
            for packet in _packets(container, stream):
                dropped += packet.dts is not None and not packet.size  # the recorder had no picture at this place
                if packet.size and not packet.is_discard:
                    packets += 1
                    if packet.pts is not None:
                        end = max(end or 0.0, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                try:
                    decoded = packet.decode()
                except av.error.FFmpegError:
                    decoded, damaged = [], damaged + 1
                for frame in decoded:
                    damaged += frame.is_corrupt
                    if not frame.is_corrupt:
                        frames += 1
                        yield _upright(frame), frame.time
            if container.format.name.startswith('mov') and stream.codec_context.name in _FRAME_A_PACKET:
                damaged = max(damaged, packets - frames)
            elif container.format.name == 'avi':
                damaged = max(damaged, stream.frames - packets - dropped)
            self._refuse_missing(frames, damaged, _cut_off(container, stream, frames, end))

    def _refuse_missing(self, frames: int, damaged: int, cut_off: str) -> None:
        if damaged or cut_off:
            reasons = [f'{damaged} of its frames are damaged'] * (damaged > 0) + [cut_off] * bool(cut_off)
            raise SourceError(f'{self._path}: {", and ".join(reasons)}; {frames} frames were read')

    def _look_by_opencv(self) -> tuple[float, int]:
        with self._capture() as capture:
            self._check_size(int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
            return capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))

    @contextmanager
    def _capture(self) -> Iterator[cv2.VideoCapture]:
        capture = cv2.VideoCapture(str(self._path.absolute()), cv2.CAP_FFMPEG)
        try:
            if not capture.isOpened():
                raise SourceError(
                    f'{self._path}: neither a video that OpenCV reads, nor a folder of images, nor a rosbag2'
                )
            yield capture
        finally:
            capture.release()

    def _by_opencv(self) -> Iterator[tuple[BgrImage, float | None]]:
        frames, seconds = 0, 0.0
        with self._capture() as capture:
            while True:
                found, image = capture.read()
                if not found:
                    break
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                frames += 1
                yield np.asarray(image, np.uint8), seconds
        # Of other containers OpenCV computes the count.
        stated = (self.count or 0) / self.fps if self._path.suffix.lower() in ('.mp4', '.mov', '.avi') else 0.0
        self._refuse_missing(frames, 0, _breaks_off(seconds + 1 / self.fps, stated, self.fps))

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_FILE_PIXELS:
            raise SourceError(f'{self._path}: its frames have {width}x{height} pixels; the limit is {MAX_FILE_PIXELS}')


def _refuse_text(path: Path) -> None:
    """FFmpeg draws text files as a video of an old terminal, and follows playlists to other places."""
    if not path.is_file():
        raise SourceError(f'{path}: neither a file nor a folder')
    with path.open('rb') as stream:
        head = stream.read(_TEXT_LOOKED_AT)
    if head and not head.translate(None, _TEXT_BYTES):
        raise SourceError(f'{path} is a text file: neither a video, nor a folder of images, nor a rosbag2')


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Up to the end, or to where the container is damaged: what is missing then shows in its length."""
    with suppress(av.error.FFmpegError):
        yield from container.demux(stream)


def _cut_off(container: Any, stream: Any, frames: int, end: float | None) -> str:
    """Whether the frames end before the video says that it does; words for it."""
    if container.format.name.startswith(('mov', 'matroska')) or stream.frames > frames:
        if stream.duration is not None:
            stated = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        elif container.duration is not None and len(container.streams) == 1:
            stated = container.duration / av.time_base
        else:
            return ''
        return _breaks_off(end or 0.0, stated, float(stream.average_rate or _USUAL_FPS))
    return ''


def _breaks_off(end: float, stated: float, fps: float) -> str:
    return f'it breaks off after {end:.2f} s of {stated:.2f} s' if end < stated - 0.75 / fps else ''


def _upright(frame: Any) -> BgrImage:
    """The frame as BGR, turned as the recorder says; telephones hold their sensor as they like."""
    image: BgrImage = frame.to_ndarray(format='bgr24')
    turns = round(getattr(frame, 'rotation', 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
