"""What a prepared data set holds, for people: a table, a picture of the distributions, and a contact sheet.

<folder>/overview/statistics.txt
<folder>/overview/statistics.png
<folder>/overview/<split>.jpg
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from kd_perception.bags.ground_truth import IGNORED
from kd_perception.demo.contact_sheet import ContactSheet
from kd_perception.detection.detections import Detections
from kd_perception.detection.drawing import color_of, draw
from kd_perception.text_table import aligned
from kd_perception.whole_file import whole_file, write_whole
from training.data.coco import CocoImage, read_coco
from training.data.dataset import SPLITS, read_classes
from training.data.picture import Problems, read_picture
from training.errors import DataError

FOLDER = 'overview'
_LEGEND_HEIGHT = 28
_IGNORED_COLOR = (160, 160, 160)


@dataclass(frozen=True, eq=False)
class SplitStatistics:
    """One split in numbers.

    Attributes:
        images: number of images.
        empty: of these, without an object.
        objects: int (C,), objects of each class.
        crowds: boxes of crowds.
        ignored: ignored regions.
        sides: float (N,), √(width · height) of every object in pixels.
    """

    images: int
    empty: int
    objects: npt.NDArray[np.int64]
    crowds: int
    ignored: int
    sides: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """All splits in numbers; printed as a table."""

    classes: tuple[str, ...]
    splits: dict[str, SplitStatistics]

    def __str__(self) -> str:
        rows = [['', *self.splits]]
        every = list(self.splits.values())
        rows += [[name, *(str(split.objects[index]) for split in every)] for index, name in enumerate(self.classes)]
        rows.append(['objects', *(str(split.objects.sum()) for split in every)])
        rows.append(['images', *(str(split.images) for split in every)])
        rows.append(['without objects', *(str(split.empty) for split in every)])
        rows.append(['crowds', *(str(split.crowds) for split in every)])
        rows.append(['ignored regions', *(str(split.ignored) for split in every)])
        for share in (10, 50, 90):
            rows.append([f'box side, {share} %', *(_percentile(split.sides, share) for split in every)])
        # An empty last column, because that one is not aligned to the right.
        return '\n'.join([*aligned([[*row, ''] for row in rows], range(1, len(every) + 1)), *self._missing()])

    def _missing(self) -> Iterator[str]:
        """Classes that a split does not show: few sessions may hold all of a class."""
        for name, split in self.splits.items():
            absent = [label for label, count in zip(self.classes, split.objects, strict=True) if not count]
            if absent:
                yield f'{name} shows no {", ".join(absent)}; another --seed draws other sessions'


def _percentile(sides: npt.NDArray[np.float64], share: int) -> str:
    return f'{np.percentile(sides, share):.0f} px' if len(sides) else '–'


def statistics(folder: Path) -> Statistics:
    """Count what annotations/*.json of a prepared folder list.

    Raises:
        DataError: not such a folder.
    """
    classes = read_classes(folder)
    splits = {split: _count(_images(folder, split), classes) for split in _splits(folder)}
    if not splits:
        raise DataError(f'{folder} holds no annotations/train.json; is this a prepared data set?')
    return Statistics(classes, splits)


def _splits(folder: Path) -> list[str]:
    return [split for split in SPLITS if (folder / 'annotations' / f'{split}.json').is_file()]


def _images(folder: Path, split: str) -> tuple[CocoImage, ...]:
    return read_coco(folder / 'annotations' / f'{split}.json', Problems())[1]


def _count(images: Sequence[CocoImage], classes: tuple[str, ...]) -> SplitStatistics:
    entries = [entry for image in images for entry in image.objects]
    objects = [entry for entry in entries if entry.class_name != IGNORED and not entry.crowd]
    boxes = np.array([entry.box for entry in objects], np.float64).reshape(-1, 4)
    ids = np.array([classes.index(entry.class_name) for entry in objects], np.int64)
    with_objects = sum(any(o.class_name != IGNORED and not o.crowd for o in image.objects) for image in images)
    return SplitStatistics(
        images=len(images),
        empty=len(images) - with_objects,
        objects=np.bincount(ids, minlength=len(classes)),
        crowds=sum(entry.crowd and entry.class_name != IGNORED for entry in entries),
        ignored=sum(entry.class_name == IGNORED for entry in entries),
        sides=np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)),
    )


def write_overview(folder: Path) -> Statistics:
    """Write table, picture and contact sheets into the folder of a prepared data set; returns what the table says.

    Raises:
        DataError: not such a folder, or an image that cannot be read.
    """
    found = statistics(folder)
    (folder / FOLDER).mkdir(exist_ok=True)
    write_whole(folder / FOLDER / 'statistics.txt', f'{found}\n')
    _plot(found, folder / FOLDER / 'statistics.png')
    for split in found.splits:
        sheet = contact_sheet(folder, split)
        with whole_file(folder / FOLDER / f'{split}.jpg') as scratch:
            cv2.imwrite(str(scratch), sheet, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return found


def contact_sheet(folder: Path, split: str) -> npt.NDArray[np.uint8]:
    """A dozen images spread over a split, with their boxes in the classes' colours, ignored regions and crowds in grey."""
    classes = read_classes(folder)
    images = _images(folder, split)
    sheet = ContactSheet(len(images))
    for number, image in enumerate(images):
        if sheet.wants(number):
            sheet.add(number, _drawn(folder / 'images' / split / image.name, image, classes))
    page = sheet.page()
    if page is None:
        raise DataError(f'{folder} holds no image of {split}')
    return np.concatenate([page, _legend(classes, page.shape[1])])


def _drawn(file: Path, image: CocoImage, classes: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    picture = read_picture(file)
    learnt = [entry for entry in image.objects if entry.class_name in classes and not entry.crowd]
    for entry in image.objects:
        if entry not in learnt:
            x1, y1, x2, y2 = (round(value) for value in entry.box)
            cv2.rectangle(picture, (x1, y1), (x2, y2), _IGNORED_COLOR, 2)
            cv2.line(picture, (x1, y1), (x2, y2), _IGNORED_COLOR, 1)
    ids = np.array([classes.index(entry.class_name) for entry in learnt], np.int32)
    boxes = np.array([entry.box for entry in learnt], np.float32).reshape(-1, 4)
    return draw(picture, Detections(boxes, np.ones(len(boxes), np.float32), ids), classes, labels=False)


def _legend(classes: tuple[str, ...], width: int) -> npt.NDArray[np.uint8]:
    """The names of the classes in their colours; as many lines as they need."""
    placed, x, line = [], 8, 0
    for class_id, name in enumerate(classes):
        text = name.encode('ascii', 'replace').decode()[:40]
        (length, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.55, 1)
        if x > 8 and x + length > width:
            x, line = 8, line + 1
        placed.append((text, (x, line * _LEGEND_HEIGHT + 19), color_of(class_id)))
        x += length + 20
    strip = np.full(((line + 1) * _LEGEND_HEIGHT, width, 3), 24, np.uint8)
    for text, place, color in placed:
        cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, color, 1, cv2.LINE_AA)
    return strip


def _plot(found: Statistics, file: Path) -> None:
    """Objects of each class and sizes of the boxes, split beside split."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout='constrained')
    bars, sizes = figure.subplots(1, 2)
    thickness = 0.8 / len(found.splits)
    rows = np.arange(len(found.classes))
    edges = np.geomspace(1, max([2.0, *(split.sides.max(initial=2) for split in found.splits.values())]), 40)
    for number, (name, split) in enumerate(found.splits.items()):
        bars.barh(rows + number * thickness, split.objects, thickness, label=name)
        sizes.hist(split.sides, edges, histtype='step', linewidth=1.8, label=name)
    bars.set_yticks(rows + 0.4 - thickness / 2, found.classes)
    bars.invert_yaxis()
    bars.set_xscale('symlog')
    bars.set_xlabel('objects')
    sizes.set_xscale('log')
    sizes.set_xlabel('side of the box √(w·h) in pixels')
    sizes.set_ylabel('objects')
    for axes in (bars, sizes):
        axes.legend()
        axes.grid(alpha=0.3)
    with whole_file(file) as scratch:
        figure.savefig(scratch, dpi=110)
