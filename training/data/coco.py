"""COCO annotations with a folder of pictures.

<folder>/instances_<split>.json             split: train, val, test, also train2017; or annotations/instances_<split>.json,
                                            annotations/<split>.json
<folder>/images/<split>/<file_name>         or <split>/<file_name>, images/<file_name>, <file_name>
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_perception.bags.ground_truth import IGNORED, AnnotatedObject
from training.data.picture import Picture, Problems, Source, entries_of, inside, picture_of_file, read_json
from training.errors import DataError

_FILE = re.compile(r'(?:instances_)?((train|val|valid|test)(?:\d*|-dev\d*))')


@dataclass(frozen=True)
class CocoImage:
    """One picture of a COCO file.

    Attributes:
        name: `file_name`, relative to the folder of pictures.
        size: width and height in pixels as the file states them.
        objects: as they are written down; crowds are marked, ignored ones bear the name `ignore`.
    """

    name: str
    size: tuple[int, int]
    objects: tuple[AnnotatedObject, ...]


def read(folder: Path) -> Source:
    """The splits that the folder holds.

    Raises:
        DataError: no instances file, one that is not of the format, or splits of different classes.
    """
    problems = Problems()
    classes: tuple[str, ...] = ()
    pictures: list[Picture] = []
    for file, part, split in _files(folder):
        names, images = read_coco(file, problems)
        if classes and names != classes:
            raise DataError(
                f'{file}: its classes ({", ".join(names)}) are not those of the others ({", ".join(classes)})'
            )
        classes = names
        places = (folder / 'images' / part, folder / part, folder / 'images', folder)
        for image in images:
            try:
                place = next((place for place in places if inside(place, image.name).is_file()), places[2])
                pictures.append(
                    picture_of_file(place / image.name, image.name, image.objects, split=split, size=image.size)
                )
            except DataError as error:
                problems.add('picture outside the folder', file.name, error)
    ordered = tuple(sorted(pictures, key=lambda picture: picture.name))
    return Source(ordered, classes, problems=tuple(problems.found))


def _files(folder: Path) -> list[tuple[Path, str, str]]:
    """Instances files with the part of their name that folders of pictures bear, and their split."""
    found = [
        (file, match[1], 'val' if match[2] == 'valid' else match[2])
        for file in sorted([*folder.glob('*.json'), *folder.glob('annotations/*.json')])
        if (match := _FILE.fullmatch(file.stem)) is not None
    ]
    if not found:
        raise DataError(
            f'{folder} holds neither instances_train.json nor annotations/instances_train.json; is this the data set folder?'
        )
    return found


def read_coco(path: Path, problems: Problems) -> tuple[tuple[str, ...], tuple[CocoImage, ...]]:
    """Read a COCO instances file: the classes in the order of the category ids, and the pictures.

    What is wrong with single annotations goes to `problems`.

    Raises:
        DataError: not such a file.
    """
    document = read_json(path)
    listed = {name: entries_of(path, document, name) for name in ('categories', 'images', 'annotations')}
    try:
        categories = {int(entry['id']): str(entry['name']) for entry in listed['categories']}
        images = {
            image['id']: (str(image['file_name']), (int(image['width']), int(image['height'])))
            for image in listed['images']
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f'{path} is no COCO instances file: {type(error).__name__} {error}') from error
    if len(images) != len(listed['images']):
        raise DataError(f'{path}: two images have the same id')
    _refuse_twice(path, 'category', list(categories.values()))
    objects: dict[Any, list[AnnotatedObject]] = {key: [] for key in images}
    for entry in listed['annotations']:
        try:
            objects[_known(entry, 'image_id', images)].append(_object(entry, categories))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            number = entry.get('id', 'without an id') if isinstance(entry, dict) else entry
            problems.add('annotation that cannot be read', f'{path}: annotation {number}', error)
    names = tuple(categories[key] for key in sorted(categories) if categories[key] != IGNORED)
    return names, tuple(CocoImage(*images[key], tuple(objects[key])) for key in images)


def _object(entry: Mapping[str, Any], categories: Mapping[int, str]) -> AnnotatedObject:
    bbox = entry['bbox']
    if len(bbox) != 4:
        raise ValueError(f'it has the box {bbox}; a box is x, y, width, height in pixels')
    x, y, width, height = (float(value) for value in bbox)
    name = IGNORED if entry.get('ignore') else categories[_known(entry, 'category_id', categories)]
    return AnnotatedObject((x, y, x + width, y + height), name, crowd=bool(entry.get('iscrowd')))


def _known(entry: Mapping[str, Any], key: str, known: Mapping[Any, Any]) -> Any:
    value = entry[key]
    if value not in known:
        raise ValueError(f'it names the {key} {value!r}, which the file does not list')
    return value


def _refuse_twice(path: Path, kind: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f'{path}: the {kind} {twice[0]} is listed twice')
