"""What every converter makes of its format: pictures with what the annotators wrote about them, and what is wrong there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_perception.bags.ground_truth import AnnotatedObject
from kd_perception.bags.sources import IMAGE_SUFFIXES, MAX_FILE_PIXELS, read_image
from kd_perception.detection.image import decode_compressed
from kd_perception.errors import KdPerceptionError
from kd_perception.regular_file import read_regular
from training.errors import DataError

Image = npt.NDArray[np.uint8]

MAX_JSON_BYTES = 2 << 30
"""The largest JSON file that is read; COCO's own annotations have 0.45 GB."""
MAX_TEXT_BYTES = 256 << 20
"""The largest text or CSV file that is read."""


class Level(IntEnum):
    """How bad a problem is: worth knowing; left out by the conversion; refused by the conversion."""

    NOTE = 0
    FAULT = 1
    BROKEN = 2


@dataclass(frozen=True)
class Problem:
    """Something that is wrong in a data set.

    Attributes:
        kind: short, the same for all of its sort; reports are grouped by it.
        where: file, picture or annotation.
        text: what is wrong there.
        level: how bad it is.
    """

    kind: str
    where: str
    text: str
    level: Level

    def __str__(self) -> str:
        return f'{self.where}: {self.text}'


def grouped(problems: Iterable[Problem]) -> dict[tuple[str, Level], list[Problem]]:
    """Problems of one kind together, in the order of their first."""
    found: dict[tuple[str, Level], list[Problem]] = {}
    for problem in problems:
        found.setdefault((problem.kind, problem.level), []).append(problem)
    return found


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of a source.

    Attributes:
        name: its path in the source, with `/`; unique within its split.
        read: decodes it; raises DataError or ImageError.
        objects: boxes in pixels as they were written down, neither clipped nor checked; class names of the source.
        session: pictures of one session are alike and never lie in two splits.
        split: train, val or test as the source says; empty where it does not.
        size: width and height as the annotations state them.
        file: the file; None for a frame of a video.
        relative: more objects, whose boxes are in shares of the picture's width and height.
    """

    name: str
    read: Callable[[], Image]
    objects: tuple[AnnotatedObject, ...]
    session: str
    split: str = ''
    size: tuple[int, int] | None = None
    file: Path | None = None
    relative: tuple[AnnotatedObject, ...] = ()

    def objects_in(self, width: int, height: int) -> tuple[AnnotatedObject, ...]:
        """All objects in pixels of a picture of `width` × `height`."""
        scaled = (
            replace(entry, box=(x1 * width, y1 * height, x2 * width, y2 * height))
            for entry in self.relative
            for x1, y1, x2, y2 in [entry.box]
        )
        return (*self.objects, *scaled)

    @property
    def stem(self) -> str:
        """The name in our form: folders become part of it."""
        return str(PurePosixPath(self.name).with_suffix('')).replace('/', '_')


@dataclass(frozen=True)
class Source:
    """A data set as it was found.

    Attributes:
        pictures: in the order of their names.
        classes: the names of its classes in the order of their ids.
        ignored: names whose objects are ignore regions unless the user says otherwise.
        dropped: names whose objects are background unless the user says otherwise.
        problems: what could not be read of the annotations.
    """

    pictures: tuple[Picture, ...]
    classes: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass
class Problems:
    """Collects problems, so that a reader goes on behind the first."""

    found: list[Problem] = field(default_factory=list)

    def add(self, kind: str, where: object, text: object, level: Level = Level.BROKEN) -> None:
        """Note one."""
        self.found.append(Problem(kind, str(where), str(text), level))


def picture_of_file(
    file: Path,
    name: str,
    objects: Iterable[AnnotatedObject],
    *,
    session: str = '',
    split: str = '',
    size: tuple[int, int] | None = None,
) -> Picture:
    """A picture that is a file; its session is `session_of` its name unless given."""
    return Picture(
        name, lambda: read_picture(file, size), tuple(objects), session or session_of(name), split, size, file
    )


def read_picture(file: Path, size: tuple[int, int] | None = None) -> Image:
    """A picture file in BGR: upright as its EXIF orientation says, or as it lies where only that fits the stated `size`.

    Raises:
        DataError: missing or not readable.
    """
    try:
        image = read_image(file)
        if size is not None and size[0] != size[1] and image.shape[:2] == size:
            image = decode_compressed(file.read_bytes(), MAX_FILE_PIXELS)
    except (KdPerceptionError, OSError) as error:
        reason = error if file.exists() else 'the file is missing'
        raise DataError(f'{file} is not a readable image: {reason}') from error
    return image


def inside(folder: Path, name: str) -> Path:
    """The file that an annotation names. Annotations are strangers' files: a name must not lead out of the folder.

    Raises:
        DataError: it does.
    """
    parts = PurePosixPath(name.replace('\\', '/'))
    if not name or '\0' in name or parts.is_absolute() or '..' in parts.parts:
        raise DataError(f'the annotations name the picture {name[:80]!r}, which leads out of {folder}')
    return folder / parts


def session_of(name: str) -> str:
    """What a picture's name tells of its session: the name without its running number; neighbours are near duplicates.

    Copies that Roboflow makes of one photograph (`<name>.rf.<hash>.jpg`) are one session.
    """
    stem = str(PurePosixPath(name).with_suffix(''))
    original, copied, _ = stem.partition('.rf.')
    return original if copied else (re.sub(r'[-_]?\d+$', '', stem) or stem)


def sessions_by(pattern: str, pictures: Iterable[Picture]) -> dict[str, str]:
    """Sessions by the user's own rule: the pattern's first group, or all that it matches, in the picture's name.

    Returns:
        Session by the picture's name.

    Raises:
        DataError: no regular expression, or it does not match a picture.
    """
    try:
        rule = re.compile(pattern)
    except re.error as error:
        raise DataError(f'the session pattern {pattern!r} is no regular expression: {error}') from error
    sessions = {}
    for picture in pictures:
        match = rule.search(picture.name)
        if match is None:
            raise DataError(f'the session pattern {pattern!r} does not match the picture {picture.name}')
        sessions[picture.name] = str(match[1] if rule.groups else match[0])
    return sessions


def read_json(path: Path) -> Any:
    """A JSON file of strangers.

    Raises:
        DataError: missing, too large, not JSON, or nested too deeply.
    """
    try:
        return json.loads(read_regular(path, MAX_JSON_BYTES, DataError))
    except (ValueError, RecursionError) as error:
        raise DataError(f'{path} cannot be read: {error}') from error


def read_text(path: Path) -> str:
    """A text file of strangers; what is no UTF-8 in it becomes a mark.

    Raises:
        DataError: missing or too large.
    """
    return read_regular(path, MAX_TEXT_BYTES, DataError).decode('utf-8-sig', 'replace')


def entries_of(path: Path, document: object, name: str) -> list[Any]:
    """A list in a JSON file.

    Raises:
        DataError: the file holds no such list.
    """
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, list):
        raise DataError(f'{path} holds no list {name!r}; is it of the format that was asked for?')
    return value


def images_below(folder: Path) -> list[Path]:
    """All files in a folder and below that have the suffix of an image, by name."""
    return sorted(path for path in folder.rglob('*') if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def is_turned(file: Path, image: Image) -> bool:
    """Whether a picture file's pixels lie otherwise than in `image`, which was read of it: EXIF says so."""
    stream = file.read_bytes()
    if b'Exif' not in stream[:65536] and b'eXIf' not in stream:
        return False
    try:
        return not np.array_equal(decode_compressed(stream, MAX_FILE_PIXELS), image)
    except KdPerceptionError:
        return False
