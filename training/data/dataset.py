"""The one form of a data set on disk: Ultralytics' folders, and COCO annotations that also know crowds and ignore regions.

<folder>/data.yaml                          for Ultralytics itself
<folder>/classes.txt
<folder>/images/<split>/<name>.jpg
<folder>/labels/<split>/<name>.txt          class cx cy w h, relative to the image
<folder>/annotations/<split>.json           COCO; crowds have `iscrowd`, regions in which nobody is judged `ignore` too
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import yaml

from kd_perception.bags.ground_truth import IGNORED, AnnotatedObject, GroundTruth
from kd_perception.bags.truth_sources import read_coco_by_name
from kd_perception.detection.detections import Detections, FloatArray
from kd_perception.errors import GroundTruthError
from kd_perception.whole_file import write_whole
from training.errors import DataError

Image = npt.NDArray[np.uint8]

SPLITS = ('train', 'val', 'test')
IMAGE_FILES = frozenset({'.jpg', '.jpeg', '.png'})
"""Suffixes of the images in our form; everything else is written as JPEG."""
JPEG_QUALITY = 98
"""Of pictures that are written anew: a second compression must not show."""


def _no_regions() -> FloatArray:
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class LabeledImage:
    """One image with its objects.

    Attributes:
        name: file name without its suffix.
        image: BGR uint8 (H, W, 3).
        objects: ground truth in pixels, scores all 1.
        crowds: boxes that hold many objects of their class.
        ignored: float32 (M, 4), regions in which nothing is judged or learnt.
    """

    name: str
    image: Image
    objects: Detections
    crowds: Detections = field(default_factory=Detections.empty)
    ignored: FloatArray = field(default_factory=_no_regions)

    def truth(self) -> GroundTruth:
        """The same as evaluation takes it."""
        boxes = np.concatenate([self.objects.boxes, self.crowds.boxes])
        class_ids = np.concatenate([self.objects.class_ids, self.crowds.class_ids])
        crowd = np.arange(len(boxes)) >= len(self.objects)
        return GroundTruth(ground_truth(boxes, class_ids), crowd, self.ignored)


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


def image_files(folder: Path, split: str) -> list[Path]:
    """The images of a split in the order of their names; empty where there is no such split."""
    return sorted(path for path in (folder / 'images' / split).glob('*') if path.suffix.lower() in IMAGE_FILES)


def read_split(folder: Path, split: str, files: Sequence[Path] | None = None) -> Iterator[LabeledImage]:
    """The images of a split with their labels, in the order of their names, or those of its files that are given.

    Crowds and ignored regions come from annotations/<split>.json where that file exists.

    Raises:
        DataError: no such split, an unreadable image, or a malformed label file.
    """
    images = image_files(folder, split) if files is None else files
    if not images:
        raise DataError(f'{folder / "images" / split} holds no jpg or png image; is this the data set folder?')
    excused = read_excused(folder, split)
    classes = read_classes(folder) if excused else ()
    for path in images:
        image = cv2.imread(str(path))
        if image is None:
            raise DataError(f'{path} is not a readable image')
        labels = folder / 'labels' / split / f'{path.stem}.txt'
        objects = read_labels(labels, image.shape[1], image.shape[0])
        crowds, ignored = _excused_boxes(excused.get(path.name, ()), classes)
        yield LabeledImage(path.stem, np.asarray(image, np.uint8), objects, crowds, ignored)


def read_excused(folder: Path, split: str) -> dict[str, list[AnnotatedObject]]:
    """Crowds and ignored regions of a split by the image's file name, images without any left out.

    Raises:
        DataError: annotations/<split>.json is no COCO file.
    """
    file = folder / 'annotations' / f'{split}.json'
    if not file.is_file():
        return {}
    try:
        annotated = read_coco_by_name(file)
    except GroundTruthError as error:
        raise DataError(str(error)) from error
    excused = {name: [o for o in objects if o.crowd or o.class_name == IGNORED] for name, objects in annotated.items()}
    return {name: objects for name, objects in excused.items() if objects}


def _excused_boxes(objects: Iterable[AnnotatedObject], classes: Sequence[str]) -> tuple[Detections, FloatArray]:
    crowds = [entry for entry in objects if entry.class_name in classes]
    ignored = [entry.box for entry in objects if entry.class_name == IGNORED]
    return (
        ground_truth([entry.box for entry in crowds], [classes.index(entry.class_name) for entry in crowds]),
        np.array(ignored, np.float32).reshape(-1, 4),
    )


def read_labels(path: Path, width: int, height: int) -> Detections:
    """A YOLO label file in pixels of an image of `width` × `height`; a missing file means no objects."""
    text = path.read_text(encoding='ascii') if path.is_file() else ''
    try:
        rows = np.array([[float(value) for value in line.split()] for line in text.splitlines() if line.strip()])
        rows = rows.reshape(-1, 5)
    except ValueError as error:
        raise DataError(f'{path}: every line must be "class cx cy w h"') from error
    center, half = rows[:, 1:3], rows[:, 3:5] / 2
    return ground_truth(np.hstack([center - half, center + half]) * [width, height, width, height], rows[:, 0])


def write_split(
    folder: Path, split: str, classes: Sequence[str], items: Iterable[LabeledImage], jpeg_quality: int = 95
) -> int:
    """Write one split image by image; what an earlier run left of it goes first.

    Returns:
        Number of images written.

    Raises:
        DataError: an image could not be written.
    """
    make_folders(folder, [split])
    entries = []
    for item in items:
        write_image(folder / 'images' / split / f'{item.name}.jpg', item.image, jpeg_quality)
        entries.append(write_labels(folder, split, item, '.jpg'))
    write_index(folder, split, classes, entries)
    return len(entries)


def make_folders(folder: Path, splits: Iterable[str]) -> None:
    """Make the folders of the splits, empty."""
    for split in splits:
        for kind in ('images', 'labels'):
            shutil.rmtree(folder / kind / split, ignore_errors=True)
            (folder / kind / split).mkdir(parents=True)
        (folder / 'annotations').mkdir(exist_ok=True)
        (folder / 'annotations' / f'{split}.json').unlink(missing_ok=True)


def write_image(file: Path, image: Image, jpeg_quality: int = JPEG_QUALITY) -> None:
    """Write an image file. Raises DataError where that fails."""
    if not cv2.imwrite(str(file), image, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]):
        raise DataError(f'{file} could not be written; is the disk full?')


def write_labels(
    folder: Path, split: str, item: LabeledImage, suffix: str, origin: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write the YOLO labels of an image.

    Args:
        folder: of the data set.
        split: of the image.
        item: the image with its objects.
        suffix: of the image's file.
        origin: what else the COCO file shall say of the image: its session, a tile's parent.

    Returns:
        The image's entry for `write_index`.
    """
    height, width = item.image.shape[:2]
    labels = folder / 'labels' / split / f'{item.name}.txt'
    labels.write_text(''.join(_yolo_lines(item.objects, width, height)), encoding='ascii')
    image = {'file_name': item.name + suffix, 'width': width, 'height': height, **(origin or {})}
    annotations = [
        *_coco_annotations(item.objects, iscrowd=0),
        *_coco_annotations(item.crowds, iscrowd=1),
        *_coco_annotations(ground_truth(item.ignored, [-1] * len(item.ignored)), iscrowd=1, ignore=1),
    ]
    return {'image': image, 'annotations': annotations}


def write_index(folder: Path, split: str, classes: Sequence[str], entries: Iterable[Mapping[str, Any]]) -> None:
    """Write the files that name all images of a split: COCO annotations, classes.txt, data.yaml.

    Ignored regions belong to no class; they get a category of their own behind the classes, so that programs that do not
    know `ignore` do not take them for one.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for entry in entries:
        images.append({'id': len(images) + 1, **entry['image']})
        for annotation in entry['annotations']:
            whose = {'id': len(annotations) + 1, 'image_id': len(images)}
            category = annotation['category_id']
            annotations.append({**whose, **annotation, 'category_id': len(classes) if category < 0 else category})
    names = [*classes, IGNORED] if any(entry.get('ignore') for entry in annotations) else classes
    categories = [{'id': index, 'name': name} for index, name in enumerate(names)]
    document = {'images': images, 'annotations': annotations, 'categories': categories}
    write_whole(folder / 'classes.txt', '\n'.join(classes) + '\n')
    write_whole(folder / 'annotations' / f'{split}.json', json.dumps(document))
    _write_ultralytics(folder, classes)


def _write_ultralytics(folder: Path, classes: Sequence[str]) -> None:
    """data.yaml; without `path` Ultralytics takes the file's own folder, so the data set may be moved."""
    splits = {split: f'images/{split}' for split in SPLITS if (folder / 'annotations' / f'{split}.json').is_file()}
    document = {**splits, 'nc': len(classes), 'names': dict(enumerate(classes))}
    write_whole(folder / 'data.yaml', yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def _yolo_lines(objects: Detections, width: int, height: int) -> Iterator[str]:
    boxes = objects.boxes.astype(np.float64)
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    rows = np.hstack([centers, sides]) / [width, height, width, height]
    for class_id, row in zip(objects.class_ids, rows, strict=True):
        yield f'{class_id} ' + ' '.join(f'{value:.6f}' for value in row) + '\n'


def _coco_annotations(objects: Detections, **marks: int) -> Iterator[dict[str, Any]]:
    for box, class_id in zip(objects.boxes, objects.class_ids, strict=True):
        x1, y1, x2, y2 = (round(float(value), 2) for value in box)
        width, height = round(x2 - x1, 2), round(y2 - y1, 2)
        yield {
            'category_id': int(class_id),
            'bbox': [x1, y1, width, height],
            'area': round(width * height, 2),
            **marks,
        }
