"""The pictures that INT8 is made and judged with: a labelled data set, or whatever the user has: a folder, a bag, a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.bags.sources import open_source, read_image
from kd_perception.bundles.bundle import Bundle
from kd_perception.detection.detector import InputBuffer
from kd_perception.errors import KdPerceptionError
from training.data.dataset import Image, image_files
from training.data.spread import spread
from training.errors import DataError
from training.measure import in_classes_of
from training.quantize.calibration import Image as Fed
from training.quantize.calibration import calibration_hash

MOST_FRAMES = 4000
"""Frames of a bag or a video that are looked through for pictures."""


@dataclass(frozen=True)
class Pictures:
    """What a search sees.

    Attributes:
        fed: calibration pictures as the network takes them, without the axis of the batch.
        judged: other pictures, BGR of any size, on which a step is judged.
        truth: what is in them; None where nobody labeled them.
        dataset: folder of the labelled data set whose val split has the last word; None without labels.
    """

    fed: tuple[Fed, ...]
    judged: tuple[Image, ...]
    truth: tuple[GroundTruth, ...] | None
    dataset: Path | None

    @property
    def sha256(self) -> str:
        """Of the calibration pictures."""
        return calibration_hash(self.fed)


def pictures_of(bundle: Bundle, data: Path, calibrate: int, judge: int, topic: str = '') -> Pictures:
    """Take pictures for a bundle, one half to calibrate and the other to judge, evenly spread over what there is.

    Args:
        bundle: whose network shall see them.
        data: a data set's folder with `images/train`, `images/val` and labels; or a folder of pictures, a rosbag2, a video.
        calibrate: so many calibrate.
        judge: so many others judge.
        topic: of a bag with several topics of images.

    Raises:
        DataError: too few pictures, or they cannot be read.
    """
    if min(calibrate, judge) < 1:
        raise DataError(f'at least one picture calibrates and one judges, not {calibrate} and {judge}')
    labelled = bool(image_files(data, 'val')) and any((data / 'labels' / 'val').glob('*.txt'))
    if not labelled:
        images = _frames(data, calibrate + judge, topic)
        first, second = _halves(images, calibrate, judge)
        return Pictures(fed(bundle, first), tuple(second), None, None)
    files = spread(image_files(data, 'train'), calibrate + judge)
    if not files:
        raise DataError(
            f'{data / "images" / "train"} holds no image: ranges come from the train split, val only judges'
        )
    first_files, second_files = _halves(files, calibrate, judge)
    judged = list(in_classes_of(bundle, data, 'train', second_files))
    return Pictures(
        fed(bundle, [read_image(file) for file in first_files]),
        tuple(item.image for item in judged),
        tuple(item.truth() for item in judged),
        data,
    )


def fed(bundle: Bundle, images: Sequence[Image]) -> tuple[Fed, ...]:
    """BGR pictures of any size as the bundle's network takes them: letterboxed, in its type, layout and normalization."""
    buffer = InputBuffer(bundle.input)
    taken = []
    for image in images:
        buffer.fill(image)
        taken.append(buffer.batch[0].copy())
    return tuple(taken)


def _halves(items: Sequence, calibrate: int, judge: int) -> tuple[list, list]:  # type: ignore[type-arg]
    """Items that calibrate and items that judge, both spread over all; a single one does both."""
    if len(items) < 2:
        return [*items], [*items]
    share = calibrate / (calibrate + judge)
    marks = np.floor(np.arange(len(items) + 1) * share + 1e-9)
    takes = np.diff(marks) > 0
    takes[0], takes[-1] = True, False
    first = [item for item, take in zip(items, takes, strict=True) if take]
    return first, [item for item, take in zip(items, takes, strict=True) if not take]


def _frames(data: Path, count: int, topic: str) -> list[Image]:
    try:
        source = open_source(str(data), topic=topic)
        every = max((min(source.count or MOST_FRAMES, MOST_FRAMES)) // count, 1)
        return list(_every(source.frames(), every, count))
    except KdPerceptionError as error:
        raise DataError(
            f'{data} is no data set with images/train, images/val and labels, and as pictures: {error}'
        ) from error


def _every(frames: Iterator, step: int, count: int) -> Iterator[Image]:  # type: ignore[type-arg]
    taken = 0
    for number, frame in enumerate(frames):
        if number % step == 0:
            yield frame.image
            taken += 1
        if taken == count or number >= MOST_FRAMES:
            return
