"""What is wrong with pictures and boxes: looked for before training, all of it at once."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_perception.bags.ground_truth import IGNORED, AnnotatedObject
from training.data.class_rules import MIN_SIDE
from training.data.picture import Image, Level, Picture, Problem, Source, is_turned
from training.data.splits import shared_sessions
from training.errors import DataError
from training.steps import digest

EXAMPLES = 5
"""Places named of every kind of problem."""
_ROUNDING = 0.01
"""Boxes of text files leave the picture by this much, in pixels, only because of their last decimal."""


@dataclass(frozen=True)
class CheckReport:
    """All that was found.

    Attributes:
        pictures: number of pictures looked at.
        objects: number of their boxes.
        problems: in the order in which they were found.
    """

    pictures: int
    objects: int
    problems: tuple[Problem, ...]

    @property
    def fine(self) -> bool:
        """Whether there is nothing but notes."""
        return all(problem.level == Level.NOTE for problem in self.problems)

    def __str__(self) -> str:
        lines = [
            f'{self.pictures} pictures, {self.objects} boxes: {"nothing is wrong" if self.fine else "not in order"}'
        ]
        kinds = Counter((problem.level, problem.kind) for problem in self.problems)
        for (level, kind), count in sorted(kinds.items(), reverse=True):
            lines.append(f'{_LEVELS[level]:<8} {kind}: {count}')
            examples = [problem for problem in self.problems if problem.kind == kind and problem.level == level]
            lines += [f'           {problem}' for problem in examples[:EXAMPLES]]
            lines += [f'           and {count - EXAMPLES} more'] if count > EXAMPLES else []
        return '\n'.join(lines)


_LEVELS = {Level.NOTE: 'note', Level.FAULT: 'fault', Level.BROKEN: 'broken'}


def check(source: Source, pictures: Iterable[Picture]) -> CheckReport:
    """Read every picture and look at every box. Never stops at a problem.

    Args:
        source: its annotations' problems and classes.
        pictures: those of the source, perhaps with other splits, perhaps below a progress bar.
    """
    problems = list(source.problems)
    looked_at: list[Picture] = []
    hashes: dict[str, Picture] = {}
    objects = 0
    for picture in pictures:
        looked_at.append(picture)
        objects += len(picture.objects) + len(picture.relative)
        problems += _picture_problems(picture, source, hashes)
    problems += _name_problems(looked_at)
    return CheckReport(len(looked_at), objects, tuple(problems))


def _picture_problems(picture: Picture, source: Source, hashes: dict[str, Picture]) -> Iterator[Problem]:
    try:
        image = picture.read()
    except DataError as error:
        yield unreadable(picture, error)
        return
    height, width = image.shape[:2]
    yield from size_problems(picture, image)
    if picture.file is not None and is_turned(picture.file, image):
        yield Problem('picture turned by EXIF', picture.name, 'taken upright, as viewers show it', Level.NOTE)
    objects = picture.objects_in(width, height)
    yield from box_problems(picture.name, objects, width, height)
    yield from _repeated_boxes(picture.name, objects)
    yield from _class_problems(picture.name, objects, source)
    first = hashes.setdefault(_digest(picture.file, image), picture)
    if first is not picture:
        apart = first.split != picture.split
        yield Problem(
            'picture in two splits' if apart else 'picture twice',
            f'{picture.split or "source"}/{picture.name}',
            f'the same as {first.split or "source"}/{first.name}',
            Level.FAULT if apart else Level.NOTE,
        )


def unreadable(picture: Picture, error: DataError) -> Problem:
    """A picture that could not be read, and why."""
    reason = str(error).removeprefix(f'{picture.file} is not a readable image: ')
    return Problem('picture that cannot be read', picture.name, reason, Level.BROKEN)


def size_problems(picture: Picture, image: Image) -> Iterator[Problem]:
    """Whether the picture is of the size that its annotations state."""
    size = (image.shape[1], image.shape[0])
    if picture.size is not None and size != picture.size:
        text = f'it has {size[0]} × {size[1]} pixels, but the annotations say {picture.size[0]} × {picture.size[1]}'
        yield Problem('picture of another size', picture.name, text, Level.BROKEN)


def box_problems(where: str, objects: Iterable[AnnotatedObject], width: int, height: int) -> Iterator[Problem]:
    """Boxes that are no boxes, lie outside, or are cut by the border of a picture of `width` × `height`."""
    for entry in objects:
        found = _box_problem(entry.box, width, height)
        if found is not None:
            kind, level = found
            shown = ', '.join(f'{value:g}' for value in entry.box)
            yield Problem(kind, where, f'{entry.class_name} at {shown}, in {width} × {height}', level)


def _box_problem(box: tuple[float, float, float, float], width: int, height: int) -> tuple[str, Level] | None:
    x1, y1, x2, y2 = box
    if not all(math.isfinite(value) for value in box):
        return 'box that is not a number', Level.BROKEN
    if x2 < x1 or y2 < y1:
        return 'box of negative size', Level.BROKEN
    if x2 == x1 or y2 == y1:
        return 'box without area', Level.FAULT
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return 'box outside its picture', Level.FAULT
    if min(x2, width) - max(x1, 0) < MIN_SIDE or min(y2, height) - max(y1, 0) < MIN_SIDE:
        return f'box narrower than {MIN_SIDE:g} pixel inside its picture', Level.FAULT
    if min(x1, y1) < -_ROUNDING or x2 > width + _ROUNDING or y2 > height + _ROUNDING:
        return 'box cut by the border of its picture', Level.NOTE
    return None


def _repeated_boxes(where: str, objects: Iterable[AnnotatedObject]) -> Iterator[Problem]:
    for entry, count in Counter(objects).items():
        if count > 1:
            shown = ', '.join(f'{value:g}' for value in entry.box)
            yield Problem('box twice', where, f'{entry.class_name} at {shown}, {count} times', Level.FAULT)


def _class_problems(where: str, objects: Iterable[AnnotatedObject], source: Source) -> Iterator[Problem]:
    known = {*source.classes, *source.ignored, *source.dropped, IGNORED}
    for name in {entry.class_name for entry in objects} - known:
        yield Problem('class that the data set does not have', where, f'{name!r}', Level.FAULT)


def _name_problems(pictures: Sequence[Picture]) -> Iterator[Problem]:
    for (split, stem), count in Counter((picture.split, picture.stem) for picture in pictures).items():
        if count > 1:
            yield Problem('name of several pictures', f'{split}/{stem}', f'{count} pictures', Level.BROKEN)
    for session, splits in shared_sessions(pictures).items():
        text = f'lies in {" and ".join(splits)}; if these pictures are alike, the metrics are worthless'
        yield Problem('session in several splits', session, text, Level.NOTE)


def _digest(file: Path | None, image: Image) -> str:
    if file is not None and file.is_file():
        return digest(file)
    return hashlib.sha256(image.tobytes()).hexdigest()
