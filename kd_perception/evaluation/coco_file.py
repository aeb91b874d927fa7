"""Ground truth from a COCO file whose images name their stamps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kd_perception.core.errors import GroundTruthError
from kd_perception.evaluation.ground_truth import IGNORED, AnnotatedObject, Annotations

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
    """The boxes of a COCO instances file by the image's file name, without folders. Raises GroundTruthError."""
    with _readable(path):
        return {_file_name(image): objects for image, objects in _images(path)}


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
    content = json.loads(path.read_bytes())
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
