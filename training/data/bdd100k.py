"""BDD100K det_20: frames with boxes of road users, lights and signs.

<folder>/labels/det_20/det_<split>.json     or the same file right in the folder
<folder>/images/100k/<split>/<name>         or images/<split>/<name>
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kd_perception.bags.ground_truth import AnnotatedObject
from training.data.picture import Picture, Problems, Source, inside, picture_of_file, read_json
from training.errors import DataError

CLASSES = (
    'pedestrian',
    'rider',
    'car',
    'truck',
    'bus',
    'train',
    'motorcycle',
    'bicycle',
    'traffic light',
    'traffic sign',
)
ALIASES = {
    'person': 'pedestrian',
    'bike': 'bicycle',
    'motor': 'motorcycle',
    'van': 'car',
    'caravan': 'car',
}
IGNORED = ('other person', 'other vehicle', 'trailer')
SPLITS = ('train', 'val', 'test')


def read(folder: Path, *, inclusive: bool = False) -> Source:
    """The splits that the folder holds.

    Args:
        folder: of the data set.
        inclusive: x2 and y2 belong to the box, w = x2 − x1 + 1, as in the official COCO export; most YOLO converters take
            w = x2 − x1.

    Raises:
        DataError: no label file, or one that is not of the format.
    """
    files = {split: file for split in SPLITS if (file := _labels(folder, split)) is not None}
    if not files:
        raise DataError(f'{folder} holds no labels/det_20/det_train.json; is this the data set folder?')
    problems = Problems()
    pictures = []
    for split, file in files.items():
        frames = read_json(file)
        if not isinstance(frames, list):
            raise DataError(f'{file} is no list of frames, so not of BDD100K')
        for number, frame in enumerate(frames):
            picture = _picture(folder, split, f'{file.name}: frame {number}', frame, int(inclusive), problems)
            pictures += [] if picture is None else [picture]
    ordered = tuple(sorted(pictures, key=lambda picture: picture.name))
    return Source(ordered, CLASSES, IGNORED, problems=tuple(problems.found))


def _labels(folder: Path, split: str) -> Path | None:
    name = f'det_{split}.json'
    places = (folder / 'labels' / 'det_20' / name, folder / 'det_20' / name, folder / 'labels' / name, folder / name)
    return next((place for place in places if place.is_file()), None)


def _picture(folder: Path, split: str, where: str, frame: Any, extra: int, problems: Problems) -> Picture | None:
    try:
        name = str(frame['name'])
        listed = frame.get('labels') or []
        objects = [entry for label in listed if (entry := _object(where, label, extra, problems)) is not None]
        images = folder / 'images' / '100k' / split
        images = images if images.is_dir() else folder / 'images' / split
        # Clips of one drive have the first half of their name in common.
        return picture_of_file(inside(images, name), name, objects, session=name.split('-')[0], split=split)
    except (KeyError, TypeError, ValueError, AttributeError, DataError) as error:
        problems.add('annotation that cannot be read', where, f'{type(error).__name__}: {error}')
        return None


def _object(where: str, label: Any, extra: int, problems: Problems) -> AnnotatedObject | None:
    try:
        box = label.get('box2d')
        if box is None:
            return None
        x1, y1, x2, y2 = (float(box[key]) for key in ('x1', 'y1', 'x2', 'y2'))
        category = str(label['category'])
        marks = {**label, **(label.get('attributes') or {})}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        problems.add('annotation that cannot be read', where, f'{type(error).__name__}: {error}')
        return None
    crowd = any(marks.get(mark) in (True, 1, 'true') for mark in ('crowd', 'Crowd', 'iscrowd'))
    return AnnotatedObject((x1, y1, x2 + extra, y2 + extra), ALIASES.get(category, category), crowd)
