"""Ground truth from where users have it: a topic of the bag, a COCO file, a CSV table of an annotation tool."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from kd_perception.bags.ground_truth import IGNORED, AnnotatedObject, Annotations, GroundTruth
from kd_perception.bags.message_types import DETECTIONS
from kd_perception.bags.reader import DetectedObject, detections_topic, objects_of, read_labels
from kd_perception.bags.storage import BagStorage
from kd_perception.errors import BagError, GroundTruthError
from kd_perception.regular_file import read_regular

MAX_TRUTH_BYTES = 1 << 30
"""Largest file of ground truth; COCO's own annotations have 0.45 GB."""

_STAMPED_NAME = re.compile(r'(\d{1,10})_(\d{9})(?:\.[A-Za-z]+)?')


def is_coco_file(source: str) -> bool:
    """Whether a user's word for a ground truth means a file and not a topic."""
    return source.endswith('.json')


def read_coco(path: Path) -> Annotations:
    """The boxes of a COCO instances file by stamp.

    An image's stamp is its `stamp_ns`, its `sec` and `nanosec`, or its file name `<sec>_<nanosec>.jpg` (nanoseconds with all
    nine digits). Every image that the file lists is annotated, with or without objects. `iscrowd` makes a crowd, `ignore` a
    region in which nobody is judged.

    Raises:
        GroundTruthError: not such a file, or an image without a stamp.
    """
    with _readable(path):
        return Annotations(str(path), {_stamp(image): objects for image, objects in _images(path)})


def read_coco_by_name(path: Path) -> dict[str, list[AnnotatedObject]]:
    """The boxes of a COCO instances file by the image's file name with its folders, as the file states it.

    Raises:
        GroundTruthError: not such a file, or two images of one name.
    """
    with _readable(path):
        found: dict[str, list[AnnotatedObject]] = {}
        for image, objects in _images(path):
            name = PurePosixPath(str(image.get('file_name', '')).replace('\\', '/')).as_posix()
            if name in found:
                raise GroundTruthError(f'two images are called {name}')
            found[name] = objects
        return found


def name_of(file: Path, names: Collection[str]) -> str | None:
    """Which of the names, with or without folders, means a file: the one that shares most of the end of its path.

    Raises:
        GroundTruthError: several could.
    """
    parts = file.absolute().parts
    for length in range(len(parts), 0, -1):
        if (own := '/'.join(parts[-length:])) in names:
            return own
    others = sorted(name for name in names if name.endswith(f'/{file.name}'))
    if len(others) > 1:
        raise GroundTruthError(f'{file} could be {others[0]} or {others[1]} of the ground truth: keep its folders')
    return others[0] if others else None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except GroundTruthError as error:
        raise GroundTruthError(f'{path}: {error}') from error
    except KeyError as error:
        raise GroundTruthError(f'{path}: no COCO file of boxes: {error} is missing or names nothing') from error
    except (OSError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        raise GroundTruthError(f'{path}: no COCO file of boxes: {error}') from error


def _images(path: Path) -> list[tuple[dict[str, Any], list[AnnotatedObject]]]:
    content = json.loads(read_regular(path, MAX_TRUTH_BYTES, GroundTruthError))
    names = {entry['id']: str(entry['name']) for entry in content['categories']}
    objects: dict[Any, list[AnnotatedObject]] = {image['id']: [] for image in content['images']}
    for entry in content['annotations']:
        objects[entry['image_id']].append(_object(entry, names))
    return [(image, objects[image['id']]) for image in content['images']]


def _file_name(image: dict[str, Any]) -> str:
    return str(image.get('file_name', '')).rpartition('/')[2]


def _stamp(image: dict[str, Any]) -> int:
    if 'stamp_ns' in image:
        return int(image['stamp_ns'])
    if 'sec' in image and 'nanosec' in image:
        return int(image['sec']) * 1_000_000_000 + int(image['nanosec'])
    name = _file_name(image)
    match = _STAMPED_NAME.fullmatch(name)
    if match is None:
        raise GroundTruthError(
            f'image {name!r} does not name its stamp: give it the field stamp_ns, or the name <sec>_<nanosec>.jpg '
            'with nine digits of nanoseconds'
        )
    return int(match[1]) * 1_000_000_000 + int(match[2])


def _object(entry: dict[str, Any], names: dict[Any, str]) -> AnnotatedObject:
    x, y, width, height = (float(value) for value in entry['bbox'])
    name = IGNORED if entry.get('ignore') else names[entry['category_id']]
    return AnnotatedObject((x, y, x + width, y + height), name, crowd=bool(entry.get('iscrowd')))


TABLE_COLUMNS = ('frame', 'label', 'x', 'y', 'w', 'h')


def read_truth_table(path: Path) -> dict[int, list[AnnotatedObject]]:
    """The boxes of a CSV file with the columns frame, label, x, y, w, h, by frame number.

    Frames count from 0; x and y are the box's top left corner in pixels. A row with a frame number and nothing else says that
    the frame was looked at and is empty; frames without a row have no ground truth. Labels become lower case.

    Raises:
        GroundTruthError: not such a file; says in which line.
    """
    frames: dict[int, list[AnnotatedObject]] = {}
    try:
        text = read_regular(path, MAX_TRUTH_BYTES, GroundTruthError).decode('utf-8-sig')
        with StringIO(text, newline='') as stream:
            rows = csv.DictReader(stream)
            missing = [name for name in TABLE_COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise GroundTruthError(
                    f'{path}: no column {", ".join(missing)}; the first line must name {", ".join(TABLE_COLUMNS)}'
                )
            for row in rows:
                try:
                    objects = frames.setdefault(int(row['frame']), [])
                    if row['label']:
                        x, y, width, height = (float(row[name]) for name in TABLE_COLUMNS[2:])
                        objects.append(AnnotatedObject((x, y, x + width, y + height), row['label'].lower()))
                except (TypeError, ValueError) as error:
                    raise GroundTruthError(f'{path}, line {rows.line_num}: {error}') from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GroundTruthError(f'{path}: {error}') from error
    return frames


CROWD = 'crowd'
"""`Detection2D.id` of a box that holds many objects; `ignore` there marks a region in which nobody is judged. Any other id is the
object's own, the same in every frame."""


def read_truth_topic(bag: Path, topic: str = '') -> Annotations:
    """The objects of a Detection2DArray topic; class ids that are numbers are looked up in the bag's LabelInfo.

    Args:
        bag: the bag.
        topic: its name; empty takes the topic `ground_truth` wherever it lies, or the only one that is not called
            `detections` (a detector's output is no truth unless it is asked for by name), and nothing if there is none.

    Raises:
        BagError: not a readable bag, no such topic, or several to choose from.
    """
    storage = BagStorage(bag)
    name = detections_topic(storage, topic) if topic else _usual_topic(storage)
    if name is None:
        return Annotations(str(bag), {})
    labels = read_labels(storage, name)
    frames = objects_of(storage, name)
    return Annotations(
        f'{bag} {name}', {stamp: [annotated(entry, labels) for entry in objects] for stamp, objects in frames.items()}
    )


def _usual_topic(storage: BagStorage) -> str | None:
    names = [topic.name for topic in storage.topics.values() if topic.type == DETECTIONS and topic.count]
    called_so = [name for name in names if name.endswith('/ground_truth')]
    candidates = called_so or [name for name in names if not name.endswith('/detections')]
    if len(candidates) > 1:
        raise BagError(f'{storage.path}: choose the topic of the ground truth: {", ".join(candidates)}')
    return candidates[0] if candidates else None


def annotated(entry: DetectedObject, labels: Mapping[str, str]) -> AnnotatedObject:
    """An object of a ground truth topic; `labels` are the names of class ids that are numbers."""
    name = IGNORED if entry.id == IGNORED else labels.get(entry.class_id, entry.class_id)
    is_mark = entry.id in (IGNORED, CROWD)
    return AnnotatedObject(entry.box, name, crowd=entry.id == CROWD, track='' if is_mark else entry.id)


def read_ground_truth(
    bag: Path, source: str, classes: Sequence[str], class_map: Mapping[str, str] | None = None
) -> dict[int, GroundTruth]:
    """The ground truth of a bag by stamp (ns).

    Args:
        bag: the bag.
        source: a Detection2DArray topic of the bag or a COCO file; empty takes the bag's `ground_truth` topic, or its only
            Detection2DArray topic unless that is called `detections`, and gives nothing where there is none.
        classes: the detector's class names.
        class_map: see `Annotations.for_classes`.

    Raises:
        BagError, GroundTruthError: it cannot be read, or its classes are not the detector's.
    """
    annotations = read_coco(Path(source)) if is_coco_file(source) else read_truth_topic(bag, source)
    return annotations.for_classes(classes, class_map)
