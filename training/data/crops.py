"""The objects of a prepared data set as a classification set: one folder a class, splits as they are.

<target>/<split>/<class>/<image>_<number>.jpg
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kd_perception.whole_file import write_whole
from training.data.dataset import SPLITS, Image, LabeledImage, image_files, read_classes, read_split, write_image
from training.errors import DataError
from training.ranges import COUNT, Range

RECORD = 'crops.json'


@dataclass(frozen=True)
class CropSettings:
    """How objects are cut out.

    Attributes:
        margin: added on every side, as a share of the box's side; the picture's border limits it.
        min_side: objects narrower than this, in pixels, are left out.
    """

    margin: float = 0.1
    min_side: int = 16

    def __post_init__(self) -> None:
        Range(least=0, most=2).check(margin=self.margin)
        COUNT.check(min_side=self.min_side)


def write_crops(dataset: Path, target: Path, settings: CropSettings) -> dict[str, int]:
    """Cut out every object. Pictures of a session stay in one split, because the data set's splits are kept.

    Returns:
        Number of crops by split, and `left_out`: objects that are too small.

    Raises:
        DataError: no prepared data set, the target holds something else, or it cannot be written.
    """
    if target.is_dir() and any(target.iterdir()) and not (target / RECORD).is_file():
        raise DataError(f'{target} holds something else; give --crops a new folder')
    classes = read_classes(dataset)
    splits = [split for split in SPLITS if image_files(dataset, split)]
    if not splits:
        raise DataError(f'{dataset} holds no images; is this a prepared data set?')
    counts = dict.fromkeys((*splits, 'left_out'), 0)
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_whole(target / RECORD, '{}')  # marks the folder as ours from the first crop on
        for split in SPLITS:
            shutil.rmtree(target / split, ignore_errors=True)
        for split in splits:
            for name in classes:
                (target / split / folder_name(name)).mkdir(parents=True)
            total = len(image_files(dataset, split))
            for item in tqdm(read_split(dataset, split), split, total, unit='picture', disable=None):
                written = _write(item, target / split, classes, settings)
                counts[split] += written
                counts['left_out'] += len(item.objects) - written
        write_whole(target / RECORD, json.dumps({'settings': asdict(settings), 'counts': counts}))
    except OSError as error:
        raise DataError(f'{target} cannot be written: {error.strerror or error}') from error
    return counts


def folder_name(class_name: str) -> str:
    """A class's name as the name of a folder."""
    return re.sub(r'[/\\\0]', '_', class_name).strip('. ') or '_'


def crop(image: Image, box: tuple[float, float, float, float], margin: float) -> Image:
    """The box and its margin, in whole pixels, inside the image."""
    x1, y1, x2, y2 = box
    dx, dy = margin * (x2 - x1), margin * (y2 - y1)
    height, width = image.shape[:2]
    left, top = max(int(np.floor(x1 - dx)), 0), max(int(np.floor(y1 - dy)), 0)
    right, bottom = min(int(np.ceil(x2 + dx)), width), min(int(np.ceil(y2 + dy)), height)
    return np.ascontiguousarray(image[top:bottom, left:right])


def _write(item: LabeledImage, folder: Path, classes: tuple[str, ...], settings: CropSettings) -> int:
    written = 0
    for number, (box, class_id) in enumerate(zip(item.objects.boxes, item.objects.class_ids, strict=True)):
        if min(box[2] - box[0], box[3] - box[1]) >= settings.min_side:
            x1, y1, x2, y2 = (float(value) for value in box)
            file = folder / folder_name(classes[class_id]) / f'{item.name}_{number:03d}.jpg'
            write_image(file, crop(item.image, (x1, y1, x2, y2), settings.margin))
            written += 1
    return written
