"""Where frames come from: a scene, a video, a folder of images or a bag."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.image import BgrImage, decode_compressed
from kd_perception.detection.picture_files import check_picture_file
from kd_perception.errors import ImageError, KdPerceptionError
from kd_perception.regular_file import PATH_ERRORS, read_regular, shown, why
from kd_perception.scene import Scene, SceneSettings
from kd_perception.scene.space import SceneSpace

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
FOLDER_FPS = 5.0
MAX_FILE_PIXELS = 250_000_000
"""Largest image file that is decoded: orthophotos are in, decompression bombs are out."""
MAX_FILE_BYTES = 2 << 30
_BAG_SUFFIXES = ('.mcap', '.db3', '.zstd')
_FRAMES_TIMED = 30  # of a bag, to learn its rate
_logger = logging.getLogger(__name__)


class SourceError(KdPerceptionError):
    """A source that cannot be read; says what is wrong with it."""


@dataclass(frozen=True)
class SourceFrame:
    """One frame.

    Attributes:
        image: BGR.
        truth: the boxes of what is in it, and where nobody may be judged, where the source knows them.
        name: its file's path below the source's folder, where it has one.
        seconds: its own time from the first frame on, where the source states one.
        space: the same in meters, of a scene that was asked for it; vehicles in the order of `truth.objects`.
    """

    image: BgrImage
    truth: GroundTruth | None = None
    name: str = ''
    seconds: float | None = None
    space: SceneSpace | None = None


class FrameSource(Protocol):
    """Frames in order.

    Attributes:
        name: for people.
        fps: the source's own rate.
        count: number of frames; None where there is no end.
    """

    name: str
    fps: float
    count: int | None

    def frames(self) -> Iterator[SourceFrame]:
        """All frames from the first on; may be asked for again."""
        ...


def open_source(
    path: str,
    *,
    topic: str = '',
    seed: int = 0,
    width: int = 640,
    height: int = 480,
    fps: float = 30.0,
    with_space: bool = False,
) -> FrameSource:
    """Open whatever lies at `path` and make sure that a first frame can be read.

    Args:
        path: a video, a folder of images, or a rosbag2 (its folder, or an .mcap or .db3 file); empty for a scene.
        topic: of a bag; may be empty where the bag has only one with images.
        seed: of the scene.
        width: of the scene, pixels.
        height: of the scene, pixels.
        fps: of the scene.
        with_space: a scene's frames come with their `space`; takes twice the time.

    Raises:
        KdPerceptionError: there is nothing there that could be read; SourceError, or BagError for a bag.
    """
    if not path:
        return SceneSource(seed, width, height, fps, with_space)
    try:
        place = Path(path).expanduser()
        source = _recognise(place, topic)
    except PATH_ERRORS as error:
        raise SourceError(f'{shown(path)} cannot be read: {why(error)}') from error
    if next(source.frames(), None) is None:
        raise SourceError(f'{place}: no frame in it can be read')
    return source


def _recognise(place: Path, topic: str) -> FrameSource:
    if not place.exists():
        raise SourceError(f'{place}: no such file or folder')
    if not place.is_dir():
        from kd_perception.bags.video_source import VideoSource

        return BagSource(place, topic) if place.suffix in _BAG_SUFFIXES else VideoSource(place)
    is_bag = any(file.name == 'metadata.yaml' or file.suffix in _BAG_SUFFIXES for file in place.iterdir())
    return BagSource(place, topic) if is_bag else FolderSource(place)


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder by name, without its subfolders.

    Raises:
        SourceError: there is none.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    except PATH_ERRORS as error:
        raise SourceError(f'{folder} cannot be read: {why(error)}') from error
    if not paths:
        raise SourceError(f'{folder}: no image ({", ".join(IMAGE_SUFFIXES)}) and no rosbag2 in it')
    return paths


def read_image(path: Path) -> BgrImage:
    """Decode an image file, upright by its EXIF orientation.

    Raises:
        ImageError: it cannot be read, is damaged or broken off, or is no image.
    """
    try:
        stream = read_regular(path, MAX_FILE_BYTES, ImageError)
    except ImageError as error:  # who asked for the picture names it
        raise ImageError(str(error).removeprefix(f'{shown(path)} ')) from error
    if check_picture_file(stream, MAX_FILE_PIXELS) is None:
        return decode_compressed(stream, MAX_FILE_PIXELS, upright=True)
    try:
        image = cv2.imdecode(np.frombuffer(stream, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f'the image cannot be decoded: {error.err}') from error
    if image is None:
        raise ImageError('the image is damaged or of a kind that OpenCV does not read')
    return np.asarray(image, np.uint8)


class SceneSource:
    """A synthetic flight, endless."""

    count: int | None = None

    def __init__(self, seed: int, width: int, height: int, fps: float, with_space: bool = False) -> None:
        self._with_space = with_space
        self.name = f'scene {seed}'
        self.fps = fps
        try:
            ground_sample_distance = min(max(70.0 / max(width, 1), 0.06), 1.0)
            self._scene = Scene(seed, width, height, fps, SceneSettings(ground_sample_distance=ground_sample_distance))
        except ValueError as error:
            raise SourceError(str(error)) from error

    def frames(self) -> Iterator[SourceFrame]:
        """The flight from its start."""
        k = 0
        while True:
            frame = self._scene.frame(k)
            truth = GroundTruth.of(frame.truth, frame.ignored)
            yield SourceFrame(frame.image, truth, space=self._scene.space(k) if self._with_space else None)
            k += 1


class FolderSource:
    """The images of a folder by name; those that cannot be decoded are skipped with a warning.

    Attributes:
        paths: of all images.
        skipped: how many the last run through `frames` could not decode.
    """

    fps = FOLDER_FPS

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.paths = images_in(folder)
        self.skipped = 0
        self.count: int | None = len(self.paths)

    def frames(self) -> Iterator[SourceFrame]:
        """The images in order."""
        self.skipped = 0
        for path in self.paths:
            try:
                yield SourceFrame(read_image(path), name=path.name)
            except ImageError as error:
                self.skipped += 1
                _logger.warning('%s is skipped: %s', shown(path), error)


class BagSource:
    """The images of one topic of a rosbag2; those that cannot be decoded are skipped with a warning."""

    def __init__(self, path: Path, topic: str = '') -> None:
        try:
            from kd_perception.bags.reader import open_bag
        except ImportError as error:
            raise SourceError(f"reading bags needs more libraries: pip install 'rosbags>=0.10' ({error})") from error
        self.name = path.name
        self._bag = open_bag(path, topic or None)
        self.count: int | None = self._bag.count
        with self._bag:
            times = [frame.received_ns for frame in islice(self._bag, _FRAMES_TIMED)]
        seconds = (max(times, default=0) - min(times, default=0)) * 1e-9
        self.fps = min(max((len(times) - 1) / seconds, 0.1), 1000.0) if seconds > 0 else 30.0

    def frames(self) -> Iterator[SourceFrame]:
        """The topic's images in the order in which they were recorded."""
        with self._bag:
            for frame in self._bag:
                try:
                    yield SourceFrame(frame.decode())
                except ImageError as error:
                    _logger.warning('%s: an image is skipped: %s', self.name, error)
