"""COCO annotations with a folder of pictures → the one form on disk (`training.data.dataset`).

<folder>/instances_<split>.json             or <folder>/annotations/instances_<split>.json
<folder>/images/<split>/<file_name>         or <folder>/images/<file_name>
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kd_perception.core.detections import Detections
from training.data.dataset import LabelledImage, ground_truth, write_split
from training.errors import DataError

SPLITS = ('train', 'val')
MIN_SIDE = 1.0
"""A box of which less than this is left inside the picture, in pixels along either side, is no object."""
JPEG_QUALITY = 98


@dataclass(frozen=True)
class Picture:
    """One picture of a COCO file.

    Attributes:
        file_name: relative to the folder of pictures.
        width: in pixels, as the file states it; likewise `height`.
        objects: what is learnt from: boxes inside the picture, class ids as indices into the file's classes.
    """

    file_name: str
    width: int
    height: int
    objects: Detections


@dataclass(frozen=True)
class CocoFile:
    """What a COCO instances file says.

    Attributes:
        classes: names in the order of the category ids; a detector's class id is the index.
        pictures: in the order of their file names.
        left_out: annotations that are no objects to learn: crowds, ignored regions, boxes outside their picture.
    """

    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    left_out: int


def prepare(source: Path, target: Path) -> dict[str, int]:
    """Write both splits in our form; the pictures stay as they are but for being JPEG.

    Labels in our form know no crowds, so a detection inside one counts as a false alarm when val is measured.

    Returns:
        Number of images per split, and of annotations left out of both.

    Raises:
        DataError: not such a data set, broken annotations, classes that differ between the splits, a picture that is
            missing, unreadable, of another size than stated, or in both splits.
    """
    files = {split: read_coco(_annotations(source, split)) for split in SPLITS}
    train, val = (files[split] for split in SPLITS)
    if train.classes != val.classes:
        raise DataError(
            f'{source}: the classes of train ({", ".join(train.classes)}) and val ({", ".join(val.classes)}) differ'
        )
    shared = {picture.file_name for picture in train.pictures} & {picture.file_name for picture in val.pictures}
    if shared:
        raise DataError(f'{source}: {min(shared)} lies in train and in val; the metrics would be worthless')
    counts = {
        split: write_split(target, split, file.classes, _load(source, split, file.pictures), JPEG_QUALITY)
        for split, file in files.items()
    }
    return {**counts, 'left_out': train.left_out + val.left_out}


def read_coco(path: Path) -> CocoFile:
    """Read and check a COCO instances file.

    Raises:
        DataError: not such a file, or broken; names the annotation.
    """
    try:
        content = json.loads(path.read_bytes())
        categories = sorted(content['categories'], key=lambda entry: int(entry['id']))
        images = {image['id']: image for image in content['images']}
        annotations = content['annotations']
        _refuse_twice(path, 'category', [str(entry['name']) for entry in categories])
        _refuse_twice(path, 'image', [_name(image) for image in content['images']])
        class_ids = {entry['id']: index for index, entry in enumerate(categories)}
        objects = _objects(path, annotations, images, class_ids)
        pictures = [
            Picture(str(image['file_name']), int(image['width']), int(image['height']), objects[key])
            for key, image in images.items()
        ]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f'{path} cannot be read: {error}') from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f'{path} is no COCO instances file: {type(error).__name__} {error}') from error
    if len(images) != len(content['images']):
        raise DataError(f'{path}: two images have the same id')
    kept = sum(len(picture.objects) for picture in pictures)
    ordered = tuple(sorted(pictures, key=lambda picture: picture.file_name))
    return CocoFile(tuple(str(entry['name']) for entry in categories), ordered, len(annotations) - kept)


def _objects(
    path: Path, annotations: Sequence[Mapping[str, Any]], images: Mapping[Any, Any], class_ids: Mapping[Any, int]
) -> dict[Any, Detections]:
    """The objects of every image, cut to it."""
    boxes: dict[Any, list[tuple[float, ...]]] = {key: [] for key in images}
    classes: dict[Any, list[int]] = {key: [] for key in images}
    for entry in annotations:
        where = f'{path}: annotation {entry.get("id", "without an id")}'
        image_id, category_id = entry['image_id'], entry['category_id']
        if image_id not in images:
            raise DataError(f'{where} names the image {image_id!r}, which the file does not list')
        if category_id not in class_ids:
            raise DataError(f'{where} names the category {category_id!r}, which the file does not list')
        box = _box(entry['bbox'], images[image_id], where)
        if box is not None and not entry.get('iscrowd') and not entry.get('ignore'):
            boxes[image_id].append(box)
            classes[image_id].append(class_ids[category_id])
    return {key: ground_truth(boxes[key], classes[key]) for key in images}


def _box(bbox: Any, image: Mapping[str, Any], where: str) -> tuple[float, ...] | None:
    """x1, y1, x2, y2 inside the picture; None where next to nothing is inside."""
    x, y, width, height = values = [float(value) for value in bbox] if len(bbox) == 4 else [np.nan] * 4
    if not np.isfinite(values).all() or width < 0 or height < 0:
        raise DataError(f'{where} has the box {bbox}; a box is x, y, width, height in pixels, from the top left corner')
    limits = (float(image['width']), float(image['height']))
    x1, x2 = np.clip([x, x + width], 0, limits[0]).tolist()
    y1, y2 = np.clip([y, y + height], 0, limits[1]).tolist()
    return (x1, y1, x2, y2) if min(x2 - x1, y2 - y1) >= MIN_SIDE else None


def _name(image: Mapping[str, Any]) -> str:
    """A picture's name in our form: folders become part of it."""
    return str(Path(image['file_name']).with_suffix('')).replace('/', '_')


def _refuse_twice(path: Path, kind: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f'{path}: the {kind} {twice[0]} is listed twice')


def _annotations(source: Path, split: str) -> Path:
    name = f'instances_{split}.json'
    for path in (source / name, source / 'annotations' / name):
        if path.is_file():
            return path
    raise DataError(f'{source} holds neither {name} nor annotations/{name}; is this the data set folder?')


def _load(source: Path, split: str, pictures: Sequence[Picture]) -> Iterator[LabelledImage]:
    folder = source / 'images' / split
    folder = folder if folder.is_dir() else source / 'images'
    for picture in pictures:
        path = folder / picture.file_name
        image = cv2.imread(str(path)) if path.is_file() else None
        if image is None:
            raise DataError(
                f'{path} is {"not a readable image" if path.exists() else "missing"}; the annotations list it'
            )
        if image.shape[:2] != (picture.height, picture.width):
            raise DataError(
                f'{path} has {image.shape[1]} × {image.shape[0]} pixels, but the annotations say '
                f'{picture.width} × {picture.height}; their boxes would not fit'
            )
        yield LabelledImage(_name({'file_name': picture.file_name}), np.asarray(image, np.uint8), picture.objects)
