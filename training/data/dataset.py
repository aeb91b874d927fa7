"""The one form of a data set on disk: Ultralytics' folders, and COCO annotations of the same boxes.

<folder>/classes.txt
<folder>/images/<split>/<name>.jpg
<folder>/labels/<split>/<name>.txt          class cx cy w h, relative to the image
<folder>/annotations/<split>.json           COCO
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from kd_perception.core.detections import Detections
from training.errors import DataError

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class LabelledImage:
    """One image with its objects.

    Attributes:
        name: file name without its suffix.
        image: BGR uint8 (H, W, 3).
        objects: ground truth in pixels, scores all 1.
    """

    name: str
    image: Image
    objects: Detections


def ground_truth(boxes: npt.ArrayLike, class_ids: npt.ArrayLike) -> Detections:
    """Ground truth as Detections: every score is 1."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Detections(boxes, np.ones(len(boxes), np.float32), np.asarray(class_ids, np.int32).reshape(-1))


def read_classes(folder: Path) -> tuple[str, ...]:
    """The names of a data set's classes in the order of their ids.

    Raises:
        DataError: no classes.txt.
    """
    file = folder / 'classes.txt'
    if not file.is_file():
        raise DataError(f'{file} is missing; is this the data set folder?')
    return tuple(file.read_text(encoding='utf-8').splitlines())


def read_split(folder: Path, split: str) -> Iterator[LabelledImage]:
    """The images of a split with their labels, in the order of their names.

    Raises:
        DataError: no such split, an unreadable image, or a malformed label file.
    """
    images = sorted(path for path in (folder / 'images' / split).glob('*') if path.suffix in {'.jpg', '.png'})
    if not images:
        raise DataError(f'{folder / "images" / split} holds no jpg or png image; is this the data set folder?')
    for path in images:
        image = cv2.imread(str(path))
        if image is None:
            raise DataError(f'{path} is not a readable image')
        labels = folder / 'labels' / split / f'{path.stem}.txt'
        yield LabelledImage(path.stem, np.asarray(image, np.uint8), read_labels(labels, image.shape[1], image.shape[0]))


def read_labels(path: Path, width: int, height: int) -> Detections:
    """A YOLO label file in pixels of an image of `width` × `height`; a missing file means no objects."""
    text = path.read_text(encoding='ascii') if path.is_file() else ''
    try:
        rows = np.array([[float(value) for value in line.split()] for line in text.splitlines() if line.strip()])
        rows = rows.reshape(-1, 5)
    except ValueError as error:
        raise DataError(f'{path}: every line must be "class cx cy w h"') from error
    centre, half = rows[:, 1:3], rows[:, 3:5] / 2
    return ground_truth(np.hstack([centre - half, centre + half]) * [width, height, width, height], rows[:, 0])


def write_split(
    folder: Path, split: str, classes: Sequence[str], items: Iterable[LabelledImage], jpeg_quality: int = 95
) -> int:
    """Write one split image by image.

    Returns:
        Number of images written.

    Raises:
        DataError: an image could not be written.
    """
    for kind in ('images', 'labels', 'annotations'):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for kind in ('images', 'labels'):
        (folder / kind / split).mkdir(exist_ok=True)
    (folder / 'classes.txt').write_text('\n'.join(classes) + '\n', encoding='utf-8')
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for item in items:
        height, width = item.image.shape[:2]
        file = folder / 'images' / split / f'{item.name}.jpg'
        if not cv2.imwrite(str(file), item.image, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]):
            raise DataError(f'{file} could not be written')
        labels = folder / 'labels' / split / f'{item.name}.txt'
        labels.write_text(''.join(_yolo_lines(item.objects, width, height)), encoding='ascii')
        image_id = len(images) + 1
        images.append({'id': image_id, 'file_name': file.name, 'width': width, 'height': height})
        annotations += _coco_annotations(item.objects, image_id, len(annotations) + 1)
    categories = [{'id': index, 'name': name} for index, name in enumerate(classes)]
    document = {'images': images, 'annotations': annotations, 'categories': categories}
    (folder / 'annotations' / f'{split}.json').write_text(json.dumps(document), encoding='utf-8')
    return len(images)


def _yolo_lines(objects: Detections, width: int, height: int) -> Iterator[str]:
    boxes = objects.boxes.astype(np.float64)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    rows = np.hstack([centres, sides]) / [width, height, width, height]
    for class_id, row in zip(objects.class_ids, rows, strict=True):
        yield f'{class_id} ' + ' '.join(f'{value:.6f}' for value in row) + '\n'


def _coco_annotations(objects: Detections, image_id: int, first_id: int) -> Iterator[dict[str, Any]]:
    for offset, (box, class_id) in enumerate(zip(objects.boxes, objects.class_ids, strict=True)):
        x1, y1, x2, y2 = (round(float(value), 2) for value in box)
        width, height = round(x2 - x1, 2), round(y2 - y1, 2)
        yield {
            'id': first_id + offset,
            'image_id': image_id,
            'category_id': int(class_id),
            'bbox': [x1, y1, width, height],
            'area': round(width * height, 2),
            'iscrowd': 0,
        }
