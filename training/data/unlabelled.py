"""Frames without labels for training: from bags, videos and folders of images to image files that differ from each other.

A robot's own recordings become training data this way: the teacher's outputs are their only target.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from kd_perception.bags.sources import FolderSource, FrameSource, open_source
from kd_perception.detection.image import BgrImage
from kd_perception.errors import KdPerceptionError
from training.errors import DataError
from training.ranges import COUNT, NOT_NEGATIVE, Range

_THUMBNAIL = (32, 32)
FRAMES_APART = 5
"""Neighbours in a film are nearly equal."""


@dataclass(frozen=True)
class UnlabelledSettings:
    """Which frames are taken.

    Attributes:
        every: takes each n-th frame; None: of a bag or a video the fifth, of a folder every picture.
        count: at most so many; 0 takes all.
        difference: a frame is left out when it differs from the last one taken by less than this: the mean difference of
            grey values (0 to 255) of both at 32 × 32 pixels. 0 keeps all.
        longest_side: larger frames are scaled down to this, in pixels.
        topic: of a bag; may be empty where it has only one with images.
        jpeg_quality: 1 to 100.
    """

    every: int | None = None
    count: int = 2000
    difference: float = 2.0
    longest_side: int = 1280
    topic: str = ''
    jpeg_quality: int = 92

    def __post_init__(self) -> None:
        COUNT.check(every=1 if self.every is None else self.every)
        NOT_NEGATIVE.check(count=self.count, difference=self.difference)
        Range(least=32).check(longest_side=self.longest_side)
        Range(least=1, most=100).check(jpeg_quality=self.jpeg_quality)


def extract(source: Path, target: Path, settings: UnlabelledSettings) -> int:
    """Write the frames of a source as `<target>/images/<source>_<frame>.jpg`.

    Args:
        source: a rosbag2, a video, or a folder of images.
        target: folder; frames of the same source that lie there already are replaced.
        settings: which frames.

    Returns:
        How many frames were written.

    Raises:
        DataError: the source cannot be read, or a file cannot be written.
    """
    try:
        frames = open_source(str(source), topic=settings.topic)
    except KdPerceptionError as error:
        raise DataError(str(error)) from error
    every = settings.every or (1 if isinstance(frames, FolderSource) else FRAMES_APART)
    folder = target / 'images'
    folder.mkdir(parents=True, exist_ok=True)
    for file in extracted(source, target):
        file.unlink()
    count = 0
    with tqdm(total=frames.count, desc=frames.name, unit='frame', mininterval=1.0) as bar:
        for number, image in _chosen(frames, every, settings, bar):
            _write(folder / f'{_stem(source)}_{number:06d}.jpg', _limited(image, settings.longest_side), settings)
            count += 1
    if not count:
        raise DataError(f'{source}: no frame was taken; every is {every}, the source has {frames.count} frames')
    return count


def extracted(source: Path, target: Path) -> list[Path]:
    """What `extract` wrote of a source, in the order of its frames."""
    name = re.compile(re.escape(_stem(source)) + r'_\d{6,}\.jpg')  # of drive, not of drive_2
    return sorted(file for file in (target / 'images').iterdir() if name.fullmatch(file.name))


def _chosen(
    source: FrameSource, every: int, settings: UnlabelledSettings, bar: tqdm[NoReturn]
) -> Iterator[tuple[int, BgrImage]]:
    last: npt.NDArray[np.float32] | None = None
    count = 0
    try:
        for number, frame in enumerate(source.frames()):
            bar.update()
            if number % every:
                continue
            thumbnail = _thumbnail(frame.image)
            if last is not None and np.abs(thumbnail - last).mean() < settings.difference:
                continue
            last = thumbnail
            yield number, frame.image
            count += 1
            if count == settings.count:
                return
    except KdPerceptionError as error:
        raise DataError(f'{source.name}: {error}') from error


def _thumbnail(image: BgrImage) -> npt.NDArray[np.float32]:
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return np.asarray(cv2.resize(gray, _THUMBNAIL, interpolation=cv2.INTER_AREA), np.float32)


def _limited(image: BgrImage, longest_side: int) -> BgrImage:
    height, width = image.shape[:2]
    factor = longest_side / max(height, width)
    if factor >= 1:
        return image
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _write(file: Path, image: BgrImage, settings: UnlabelledSettings) -> None:
    written = False
    try:
        written, stream = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality])
        if written:
            file.write_bytes(stream.tobytes())
    except (OSError, cv2.error) as error:
        raise DataError(f'{file} cannot be written: {error}; is the disk full?') from error
    if not written:
        raise DataError(f'{file} cannot be encoded')


def _stem(source: Path) -> str:
    return ''.join(letter if letter.isalnum() or letter in '-_' else '_' for letter in source.resolve().stem)
