"""Ultralytics' layout, which is also our own.

<folder>/data.yaml with `names`, `path`, `train`, `val`, `test`; or classes.txt
<folder>/images/<split>/<name>.jpg          or <split>/images/<name>.jpg, or whatever data.yaml names
<folder>/labels/<split>/<name>.txt          class cx cy w h, relative; polygons become their boxes, keypoints are left out
<folder>/annotations/<split>.json           where there is one: its crowds and ignored regions join
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kd_perception.bags.ground_truth import AnnotatedObject
from training.data.dataset import read_excused
from training.data.picture import Level, Picture, Problems, Source, entries_of, picture_of_file, read_json, read_text
from training.data.yolo_splits import SplitPicture, label_file, pictures_of, read_yaml, yaml_of
from training.errors import DataError

_FEW = 3  # lines that tell keypoints from polygons


def read(folder: Path) -> Source:
    """The splits that data.yaml names, or, where it names none, those that the folder holds.

    Raises:
        DataError: no such folders, or no list of classes.
    """
    document = read_yaml(folder)
    classes = read_names(folder)
    problems = Problems()
    lines = _Lines(classes, _keypoint_values(folder, document), problems)
    found = pictures_of(folder, document, problems)
    if not found:
        raise DataError(f'{folder} holds no picture in images/train; is this the data set folder?')
    pictures = [
        picture
        for split in dict.fromkeys(one.split for one in found)
        for picture in _pictures(folder, split, [one for one in found if one.split == split], lines)
    ]
    _note_orphans(folder, found, problems)
    lines.refuse_keypoints(folder)
    ordered = tuple(sorted(pictures, key=lambda picture: picture.name))
    return Source(ordered, classes, problems=tuple(problems.found))


def read_names(folder: Path) -> tuple[str, ...]:
    """The classes of a folder in the order of their ids: of data.yaml, else of classes.txt.

    Raises:
        DataError: neither is there, or it names none.
    """
    file = yaml_of(folder)
    if file is None:
        file = folder / 'classes.txt'
        if not file.is_file():
            raise DataError(f'{folder} holds neither data.yaml nor classes.txt; is this the data set folder?')
        text = read_text(file)
        return tuple(text.splitlines() if '\n' in text.strip() else text.split())
    names = read_yaml(folder).get('names')
    ordered = names
    if isinstance(names, dict):
        ordered = [names.get(str(index)) for index in range(len(names))]
    if not isinstance(ordered, list) or not ordered or not all(isinstance(name, str) for name in ordered):
        raise DataError(f'{file} names no classes: names must be a list, or 0: first, 1: second …')
    return tuple(ordered)


def _keypoint_values(folder: Path, document: Mapping[str, Any]) -> int:
    """How many numbers of keypoints follow a box; 0 for none."""
    shape = document.get('kpt_shape')
    if shape is None:
        return 0
    try:
        count, values = (int(value) for value in shape)
    except (TypeError, ValueError) as error:
        raise DataError(f'data.yaml of {folder}: kpt_shape must be [number of keypoints, 2 or 3]') from error
    return count * values


def _pictures(folder: Path, split: str, found: list[SplitPicture], lines: _Lines) -> list[Picture]:
    excused, listed = read_excused(folder, split), _listed(folder, split)
    pictures = []
    for one in found:
        table = label_file(folder, one.file)
        if not table.is_file():
            lines.problems.add('picture without labels', one.name, f'{table} is missing; taken as empty', Level.NOTE)
        entry = listed.get(one.name, {})
        size = (entry['width'], entry['height']) if {'width', 'height'} <= set(entry) else None
        session = str(entry.get('session', ''))
        picture = picture_of_file(
            one.file, one.name, excused.get(one.name, ()), split=split, size=size, session=session
        )
        pictures.append(replace(picture, relative=tuple(lines.objects(table))))
    return pictures


def _note_orphans(folder: Path, found: list[SplitPicture], problems: Problems) -> None:
    """Labels beside those that are read, whose picture is missing: boxes that nobody would miss."""
    read_ones = {label_file(folder, one.file) for one in found}
    for place in {table.parent for table in read_ones if table.parent.name != 'images'}:
        for table in sorted(place.glob('*.txt')) if 'labels' in place.relative_to(folder).parts else ():
            if table not in read_ones and table.name != 'classes.txt':
                text = 'its picture is not there; left out'
                problems.add('labels without a picture', table.relative_to(folder), text, Level.FAULT)


def _listed(folder: Path, split: str) -> dict[str, Any]:
    """The images of annotations/<split>.json by their file name; empty without such a file."""
    file = folder / 'annotations' / f'{split}.json'
    images = entries_of(file, read_json(file), 'images') if file.is_file() else []
    return {str(image['file_name']): image for image in images if isinstance(image, dict) and 'file_name' in image}


class _Lines:
    """Reads the lines of label files."""

    def __init__(self, classes: tuple[str, ...], keypoint_values: int, problems: Problems) -> None:
        self.problems = problems
        self._classes = classes
        self._keypoint_values = keypoint_values
        self._polygons = self._around_their_first = 0

    def objects(self, file: Path) -> list[AnnotatedObject]:
        """The objects of one file; empty where it is missing."""
        found = []
        for number, line in enumerate(read_text(file).splitlines() if file.is_file() else [], 1):
            try:
                found += [self._object(line)] if line.strip() else []
            except ValueError as error:
                self.problems.add('annotation that cannot be read', f'{file.name}:{number}', error)
        return found

    def refuse_keypoints(self, folder: Path) -> None:
        """Keypoints that nobody declared look like polygons. Raises DataError where all of them do."""
        if self._polygons >= _FEW and self._polygons == self._around_their_first:
            raise DataError(
                f'the labels of {folder} look like boxes with keypoints, not like polygons: '
                'state them in data.yaml, e.g. kpt_shape: [17, 3]'
            )

    def _object(self, line: str) -> AnnotatedObject:
        number, *values = (float(word) for word in line.split())
        if number not in range(len(self._classes)):
            raise ValueError(f'class {number:g} is out of range: there are {len(self._classes)}')
        name = self._classes[int(number)]
        if len(values) == 4 + self._keypoint_values:
            cx, cy, width, height = values[:4]
            return AnnotatedObject((cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2), name)
        if self._keypoint_values:
            raise ValueError(
                f'a line has {1 + len(values)} numbers; with its kpt_shape it must have {5 + self._keypoint_values}'
            )
        if len(values) >= 6 and len(values) % 2 == 0:
            self._polygons += 1
            self._around_their_first += _is_box_with_points(values)
            xs, ys = values[::2], values[1::2]
            return AnnotatedObject((min(xs), min(ys), max(xs), max(ys)), name)
        raise ValueError(
            'every line must be "class cx cy w h", or a class and a polygon; keypoints need kpt_shape in data.yaml'
        )


def _is_box_with_points(values: list[float]) -> bool:
    """Whether the first four numbers are a box around all the points that follow; points at 0, 0 are not seen."""
    cx, cy, width, height = values[:4]
    if min(cx - width / 2, cy - height / 2) < -0.01 or max(cx + width / 2, cy + height / 2) > 1.01:
        return False

    def around(points: list[tuple[float, float]]) -> bool:
        near = (1.1 * width / 2, 1.1 * height / 2)
        seen = [(x, y) for x, y in points if (x, y) != (0, 0)]
        return bool(seen) and all(abs(x - cx) <= near[0] and abs(y - cy) <= near[1] for x, y in seen)

    rest = values[4:]
    flags = rest[2::3]
    with_flags = len(rest) % 3 == 0 and set(flags) <= {0.0, 1.0, 2.0}
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    return around(pairs) or (with_flags and around(list(zip(rest[::3], rest[1::3], strict=True))))
