"""Ultralytics' layout, which is also our own.

<folder>/data.yaml with `names`, or classes.txt
<folder>/images/<split>/<name>.jpg          or <split>/images/<name>.jpg
<folder>/labels/<split>/<name>.txt          class cx cy w h, relative; polygons become their boxes
<folder>/annotations/<split>.json           where there is one: its crowds and ignored regions join
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from kd_perception.bags.ground_truth import AnnotatedObject
from training.data.dataset import read_excused
from training.data.picture import (
    Level,
    Picture,
    Problems,
    Source,
    entries_of,
    images_below,
    picture_of_file,
    read_json,
    read_text,
)
from training.errors import DataError

SPLITS = {'train': 'train', 'val': 'val', 'valid': 'val', 'test': 'test'}


def read(folder: Path) -> Source:
    """The splits that the folder holds.

    Raises:
        DataError: no such folders, or no list of classes.
    """
    classes = read_names(folder)
    problems = Problems()
    pictures = [
        picture
        for name, split in SPLITS.items()
        for images, labels in (
            (folder / 'images' / name, folder / 'labels' / name),
            (folder / name / 'images', folder / name / 'labels'),
        )
        for picture in _pictures(folder, images, labels, split, classes, problems)
    ]
    if not pictures:
        raise DataError(f'{folder} holds no picture in images/train; is this the data set folder?')
    ordered = tuple(sorted(pictures, key=lambda picture: picture.name))
    return Source(ordered, classes, problems=tuple(problems.found))


def read_names(folder: Path) -> tuple[str, ...]:
    """The classes of a folder in the order of their ids: of data.yaml, else of classes.txt.

    Raises:
        DataError: neither is there, or it names none.
    """
    files = [file for name in ('data.yaml', 'data.yml', 'classes.txt') if (file := folder / name).is_file()]
    if not files:
        raise DataError(f'{folder} holds neither data.yaml nor classes.txt; is this the data set folder?')
    text = read_text(files[0])
    if files[0].suffix == '.txt':
        return tuple(text.splitlines() if '\n' in text.strip() else text.split())
    try:
        names = yaml.safe_load(text)['names']
        ordered = [names[index] for index in range(len(names))]
    except (yaml.YAMLError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f'{files[0]} names no classes: names must be a list, or 0: first, 1: second …') from error
    return tuple(str(name) for name in ordered)


def _pictures(
    folder: Path, images: Path, labels: Path, split: str, classes: tuple[str, ...], problems: Problems
) -> list[Picture]:
    if not images.is_dir():
        return []
    excused, listed = read_excused(folder, split), _listed(folder, split)
    pictures = []
    for file in images_below(images):
        name = file.relative_to(images).as_posix()
        table = (labels / name).with_suffix('.txt')
        if not table.is_file():
            problems.add('picture without labels', name, f'{table} is missing; taken as empty', Level.NOTE)
        entry = listed.get(name, {})
        size = (entry['width'], entry['height']) if {'width', 'height'} <= set(entry) else None
        session = str(entry.get('session', ''))
        picture = picture_of_file(file, name, excused.get(file.name, ()), split=split, size=size, session=session)
        pictures.append(replace(picture, relative=tuple(_objects(table, classes, problems))))
    return pictures


def _listed(folder: Path, split: str) -> dict[str, Any]:
    """The images of annotations/<split>.json by their file name; empty without such a file."""
    file = folder / 'annotations' / f'{split}.json'
    images = entries_of(file, read_json(file), 'images') if file.is_file() else []
    return {str(image['file_name']): image for image in images if isinstance(image, dict) and 'file_name' in image}


def _objects(file: Path, classes: tuple[str, ...], problems: Problems) -> list[AnnotatedObject]:
    found = []
    for number, line in enumerate(read_text(file).splitlines() if file.is_file() else [], 1):
        try:
            found += [_object(line, classes)] if line.strip() else []
        except ValueError as error:
            problems.add('annotation that cannot be read', f'{file.name}:{number}', error)
    return found


def _object(line: str, classes: tuple[str, ...]) -> AnnotatedObject:
    number, *values = (float(word) for word in line.split())
    if number not in range(len(classes)):
        raise ValueError(f'class {number:g} is out of range: there are {len(classes)}')
    name = classes[int(number)]
    if len(values) == 4:
        cx, cy, width, height = values
        return AnnotatedObject((cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2), name)
    if len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[::2], values[1::2]
        return AnnotatedObject((min(xs), min(ys), max(xs), max(ys)), name)
    raise ValueError('every line must be "class cx cy w h", or a class and a polygon')
