"""VisDrone2019-DET: drone photographs with many small objects, and the rule by which its evaluation ignores regions.

<folder>/VisDrone2019-DET-<split>/{images,annotations}     split: train, val, test-dev
<folder>/<split>/{images,annotations}                      or a single {images,annotations}
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from kd_perception.bags.ground_truth import AnnotatedObject, GroundTruth
from kd_perception.detection.detections import Detections
from training.data.picture import Level, Picture, Problems, Source, images_below, picture_of_file, read_text
from training.errors import DataError

CLASSES = (
    'pedestrian',
    'people',
    'bicycle',
    'car',
    'van',
    'truck',
    'tricycle',
    'awning-tricycle',
    'bus',
    'motor',
)
REGION, OTHERS = 'ignored regions', 'others'
CATEGORIES = (REGION, *CLASSES, OTHERS)
SPLITS = {'train': 'train', 'val': 'val', 'test-dev': 'test', 'test': 'test'}
MAX_DETECTIONS = 500
"""Detections of one image that its evaluation looks at."""


def read(folder: Path) -> Source:
    """The splits that the folder holds.

    Objects of score 0 are crowds: a detection that lies on one counts neither way, and nothing is learnt from them.

    Raises:
        DataError: no such folders.
    """
    places = {
        place: split
        for name, split in SPLITS.items()
        for place in (folder / f'VisDrone2019-DET-{name}', folder / name)
        if (place / 'images').is_dir()
    }
    if not places and (folder / 'images').is_dir():
        places = {folder: ''}
    if not places:
        raise DataError(f'{folder} holds no VisDrone2019-DET-train/images; is this the data set folder?')
    problems = Problems()
    pictures = [
        _picture(place, file, split, problems)
        for place, split in places.items()
        for file in images_below(place / 'images')
    ]
    ordered = tuple(sorted(pictures, key=lambda picture: picture.name))
    return Source(ordered, CLASSES, (REGION,), (OTHERS,), tuple(problems.found))


def _picture(place: Path, file: Path, split: str, problems: Problems) -> Picture:
    labels = place / 'annotations' / f'{file.stem}.txt'
    objects: list[AnnotatedObject] = []
    if labels.is_file():
        for number, line in enumerate(read_text(labels).splitlines(), 1):
            try:
                objects += [read_line(line)] if line.strip() else []
            except (ValueError, IndexError) as error:
                problems.add('annotation that cannot be read', f'{labels.name}:{number}', error)
    else:
        problems.add('picture without annotations', labels.name, 'the file is missing', Level.NOTE)
    # 0000002_00005_d_0000014.jpg: the sequence comes first.
    return picture_of_file(file, file.name, objects, session=file.stem.split('_')[0], split=split)


def read_line(line: str) -> AnnotatedObject:
    """One object: `left,top,width,height,score,category,truncation,occlusion`, with or without a comma at the end.

    Raises:
        ValueError: not such a line.
    """
    values = [float(word) for word in line.strip().rstrip(',').split(',')]
    if len(values) < 6 or values[5] not in range(len(CATEGORIES)):
        raise ValueError(f'{line[:80]!r} is not left,top,width,height,score,category 0 to 11,truncation,occlusion')
    x, y, width, height = values[:4]
    category = int(values[5])
    return AnnotatedObject((x, y, x + width, y + height), CATEGORIES[category], crowd=values[4] == 0 and category > 0)


def as_evaluated(
    detections: Detections, truth: GroundTruth, width: int, height: int, limit: int = MAX_DETECTIONS
) -> tuple[Detections, GroundTruth]:
    """What the data set's own evaluation looks at: neither objects nor detections in ignored regions, the best 500.

    Whatever has half or more of its pixels in ignored regions, all of them together, is left out. Objects of score 0 stay
    what they are, crowds, on which detections count neither way.

    Args:
        detections: found in one image.
        truth: of the image; its `ignored` are the regions.
        width: of the image in pixels.
        height: of the image in pixels.
        limit: of the detections, by falling score.

    Returns:
        What is left of both, for `kd_perception.metrics.accuracy.measure` with `max_detections=500`.
    """
    mask = np.zeros((height, width), np.int64)
    for x1, y1, x2, y2 in _whole_pixels(truth.ignored, width, height):
        mask[y1:y2, x1:x2] = 1
    # Sums over all pixels above and left of a corner: the sum over a box takes four of them.
    sums = np.pad(mask.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    best = np.sort(np.argsort(-detections.scores, kind='stable')[:limit])
    found = detections.select(best)
    found = found.select(_share(sums, found.boxes, width, height) < 0.5)
    seen = _share(sums, truth.objects.boxes, width, height) < 0.5
    nothing = np.zeros((0, 4), np.float32)
    return found, GroundTruth(truth.objects.select(seen), truth.crowd[seen], nothing)


def _share(
    sums: npt.NDArray[np.int64], boxes: npt.NDArray[np.float32], width: int, height: int
) -> npt.NDArray[np.float64]:
    x1, y1, x2, y2 = _whole_pixels(boxes, width, height).T
    inside = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
    area = np.maximum((x2 - x1) * (y2 - y1), 1)
    shares: npt.NDArray[np.float64] = inside / area
    return shares


def _whole_pixels(boxes: npt.NDArray[np.float32], width: int, height: int) -> npt.NDArray[np.int64]:
    limit = np.array([width, height, width, height])
    corners: npt.NDArray[np.int64] = np.clip(np.round(boxes), 0, limit).astype(np.int64).reshape(-1, 4)
    return corners
