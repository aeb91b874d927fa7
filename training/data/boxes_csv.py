"""Boxes in CSV files, of photographs or of videos.

<folder>/<split>/_annotations.csv           filename,width,height,class,xmin,ymin,xmax,ymax; pictures beside the file;
                                            split: train, valid, val, test; or right in the folder
<folder>/gt/<clip>.csv                      frame,label,x,y,w,h; frames count from 0
<folder>/videos/<clip>.mp4
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np

from kd_perception.bags.ground_truth import AnnotatedObject
from training.data.picture import Image, Picture, Problems, Source, inside, picture_of_file, read_text
from training.errors import DataError

PHOTOGRAPHS = ('filename', 'width', 'height', 'class', 'xmin', 'ymin', 'xmax', 'ymax')
FRAMES = ('frame', 'label', 'x', 'y', 'w', 'h')
SPLITS = {'train': 'train', 'val': 'val', 'valid': 'val', 'test': 'test', '': ''}
VIDEOS = ('.mp4', '.avi', '.mkv', '.mov', '.webm')


def read(folder: Path, *, every: int = 1) -> Source:
    """Photographs where there is an `_annotations.csv`, else videos; classes are in alphabetical order.

    Args:
        folder: of the data set.
        every: of a video every so many frames are taken: neighbours are nearly equal.

    Raises:
        DataError: no such files, or one with other columns.
    """
    problems = Problems()
    tables = {split: file for name, split in SPLITS.items() if (file := folder / name / '_annotations.csv').is_file()}
    if tables:
        pictures = [picture for split, file in tables.items() for picture in _photographs(file, split, problems)]
    else:
        clips = sorted(folder.glob('gt/*.csv'))
        if not clips:
            raise DataError(f'{folder} holds neither train/_annotations.csv nor gt/*.csv; is this the data set folder?')
        pictures = [picture for clip in clips for picture in _frames(folder, clip, every, problems)]
    classes = sorted({entry.class_name for picture in pictures for entry in picture.objects})
    return Source(tuple(pictures), tuple(classes), problems=tuple(problems.found))


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The rows with their place for messages."""
    rows = csv.DictReader(read_text(file).splitlines(), skipinitialspace=True)
    missing = [column for column in columns if column not in (rows.fieldnames or ())]
    if missing:
        raise DataError(f'{file} lacks the columns {", ".join(missing)}; its first line must name {",".join(columns)}')
    try:
        yield from ((f'{file.name}:{rows.line_num}', row) for row in rows)
    except csv.Error as error:
        raise DataError(f'{file}: line {rows.line_num} is no CSV: {error}') from error


def _photographs(file: Path, split: str, problems: Problems) -> list[Picture]:
    objects: dict[str, list[AnnotatedObject]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for where, row in _rows(file, PHOTOGRAPHS):
        try:
            box = tuple(float(row[key]) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
            sizes[row['filename']] = (int(row['width']), int(row['height']))
            entry = AnnotatedObject((box[0], box[1], box[2], box[3]), row['class'].strip())
        except (TypeError, ValueError, AttributeError) as error:
            problems.add('annotation that cannot be read', where, error)
            continue
        objects.setdefault(row['filename'], []).append(entry)
    pictures = []
    for name, entries in sorted(objects.items()):
        try:
            place = inside(file.parent, name)
            pictures.append(picture_of_file(place, name, entries, split=split, size=sizes[name]))
        except DataError as error:
            problems.add('picture outside the folder', file.name, error)
    return pictures


def _frames(folder: Path, table: Path, every: int, problems: Problems) -> list[Picture]:
    """The frames of one clip: from 0 to the last that the table names."""
    objects: dict[int, list[AnnotatedObject]] = {}
    for where, row in _rows(table, FRAMES):
        try:
            frame = int(row['frame'])
            x, y, width, height = (float(row[key]) for key in ('x', 'y', 'w', 'h'))
            entry = AnnotatedObject((x, y, x + width, y + height), row['label'].strip())
            if frame < 0:
                raise ValueError(f'frames count from 0, not {frame}')
        except (TypeError, ValueError, AttributeError) as error:
            problems.add('annotation that cannot be read', where, error)
            continue
        objects.setdefault(frame, []).append(entry)
    video = _Video(folder / 'videos', table.stem)
    return [
        Picture(
            f'{table.stem}/{frame:06d}',
            _FrameReader(video, frame),
            tuple(objects[frame]),
            session=table.stem,
        )
        for frame in sorted(objects)
        if frame % every == 0
    ]


class _Video:
    """A video that is read forward; only a jump back opens it anew."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = next((file for suffix in VIDEOS if (file := folder / f'{name}{suffix}').is_file()), None)
        self._name = folder / name
        self._capture: cv2.VideoCapture | None = None
        self._next = 0

    def frame(self, number: int) -> Image:
        """One frame in BGR. Raises DataError where the video has none of that number."""
        if self._file is None:
            raise DataError(f'{self._name}.mp4 is missing')
        if self._capture is None or number < self._next:
            self._capture, self._next = cv2.VideoCapture(str(self._file)), 0
        while self._next < number and self._capture.grab():
            self._next += 1
        found, image = self._capture.read()
        if not found:
            raise DataError(f'{self._file} ends before frame {number}, or it is damaged')
        self._next += 1
        return np.asarray(image, np.uint8)


class _FrameReader:
    """Reads one frame of a video."""

    def __init__(self, video: _Video, number: int) -> None:
        self._video, self._number = video, number

    def __call__(self) -> Image:
        return self._video.frame(self._number)
