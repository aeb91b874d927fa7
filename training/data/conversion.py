"""Writes a source in our form, picture by picture, so that an interrupted conversion goes on where it stopped.

Every picture that is done leaves a line in `prepared.jsonl`. A rerun with the same settings keeps what has a line and
whose picture and annotations are unchanged; with other settings it starts anew. The files that name all pictures
(annotations/<split>.json, data.yaml) come last, so half a data set never looks like a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from kd_perception.bags.ground_truth import GroundTruth
from training.data.balance import balance
from training.data.checking import EXAMPLES, box_problems, size_problems, unreadable
from training.data.class_rules import ClassRules
from training.data.dataset import (
    IMAGE_FILES,
    SPLITS,
    LabeledImage,
    make_folders,
    write_image,
    write_index,
    write_labels,
)
from training.data.picture import Image, Level, Picture, Problem, is_turned
from training.data.tiling import GridSettings, Tile, tiles_of
from training.errors import DataError

JOURNAL = 'prepared.jsonl'
_FORM = 2  # of its lines
GRAY = 114
"""Of what is painted over, as of what lies beside a picture in the network's input."""


@dataclass(frozen=True)
class ConversionSettings:
    """How pictures are written.

    Attributes:
        rules: classes and what is ignored.
        tiles: cut pictures into tiles; None writes them whole.
        link: hard links instead of copies where a picture's bytes are taken over.
        skip_broken: leave out broken pictures and boxes instead of refusing the data set.
        paint_ignored: paint what is ignored grey in pictures of the train split, so that any loss leaves it alone.
    """

    rules: ClassRules
    tiles: GridSettings | None = None
    link: bool = False
    skip_broken: bool = False
    paint_ignored: bool = False


def convert(
    pictures: Sequence[Picture],
    target: Path,
    settings: ConversionSettings,
    report: Callable[[str], object] = lambda line: None,
) -> dict[str, int]:
    """Write all pictures in our form.

    Args:
        pictures: with their splits.
        target: folder of the data set; empty, new, or of an earlier conversion.
        settings: how.
        report: is given a line for every split: what was read, and what became of it.

    Returns:
        Number of images by split, and `left_out`: annotations that are no objects to learn (crowds, ignored regions,
        background classes, boxes without a visible part). A tile counts those of its parent once.

    Raises:
        DataError: pictures or boxes are broken (the message lists them and how to leave them out), two pictures have one
            name, the folder holds something else, or it cannot be written.
    """
    _refuse_mixed_up(pictures)
    splits = [split for split in SPLITS if any(picture.split == split for picture in pictures)]
    if not splits:
        raise DataError('there is no picture to convert')
    try:
        by_digest = {_digest(picture): picture for picture in pictures}
        done = _open_target(target, splits, settings, by_digest)
        problems = _write_missing(by_digest, target, settings, done)
        if problems and not settings.skip_broken:
            raise DataError(_refusal(problems))
        entries = [done[digest] for digest in by_digest if digest in done]
        for split in splits:
            images = (image for entry in entries if entry['split'] == split for image in entry['images'])
            write_index(target, split, settings.rules.classes, images)
            report(balance(target, split, pictures, [entry for entry in entries if entry['split'] == split]))
    except OSError as error:
        raise DataError(f'{target} cannot be written: {error.strerror or error}') from error
    counts = {split: sum(len(e['images']) for e in entries if e['split'] == split) for split in splits}
    return {**counts, 'left_out': sum(entry['left_out'] for entry in entries)}


def _refuse_mixed_up(pictures: Iterable[Picture]) -> None:
    """Two pictures must not have one name, nor one picture two splits."""
    names: dict[tuple[str, str], Picture] = {}
    files: dict[Path, Picture] = {}
    for picture in pictures:
        other = names.setdefault((picture.split, picture.stem), picture)
        if other is not picture:
            raise DataError(f'{other.name} and {picture.name} would both be {picture.split}/{picture.stem}; rename one')
        first = picture if picture.file is None else files.setdefault(picture.file, picture)
        if first.split != picture.split:
            raise DataError(
                f'{picture.file} lies in {first.split} and in {picture.split}; the metrics would be worthless'
            )


def _open_target(
    target: Path, splits: Sequence[str], settings: ConversionSettings, wanted: Mapping[str, Picture]
) -> dict[str, dict[str, Any]]:
    """The lines of the journal that still hold, by digest; the files of the others are removed."""
    journal = target / JOURNAL
    if target.is_dir() and any(target.iterdir()) and not journal.is_file() and not is_data_set(target):
        raise DataError(f'{target} holds something else; give --out a new folder')
    tiles = None if settings.tiles is None else asdict(settings.tiles)
    head = json.loads(json.dumps({'form': _FORM, 'rules': asdict(settings.rules), 'tiles': tiles, 'splits': splits}))
    if settings.paint_ignored:
        head['painted'] = True
    lines = _read_journal(journal)
    if not lines or lines[0] != head:
        target.mkdir(parents=True, exist_ok=True)
        journal.unlink(missing_ok=True)
        for split in set(SPLITS) - set(splits):
            for kind in ('images', 'labels'):
                shutil.rmtree(target / kind / split, ignore_errors=True)
            (target / 'annotations' / f'{split}.json').unlink(missing_ok=True)
        make_folders(target, splits)
        journal.write_text(json.dumps(head) + '\n', encoding='utf-8')
        return {}
    for split in splits:
        (target / 'annotations' / f'{split}.json').unlink(missing_ok=True)
    kept = {}
    for line in lines[1:]:
        if line['digest'] in wanted and (settings.skip_broken or not line['broken']):
            kept[line['digest']] = line
        else:
            for image in line['images']:
                file = target / 'images' / line['split'] / image['image']['file_name']
                file.unlink(missing_ok=True)
                (target / 'labels' / line['split'] / f'{file.stem}.txt').unlink(missing_ok=True)
    journal.write_text(''.join(json.dumps(line) + '\n' for line in [head, *kept.values()]), encoding='utf-8')
    return kept


def is_data_set(folder: Path) -> bool:
    """Whether a folder is in our form, so that it may be written anew."""
    return (folder / 'classes.txt').is_file() and (folder / 'images').is_dir()


def _read_journal(journal: Path) -> list[dict[str, Any]]:
    """Whole lines; the last one may have been cut off."""
    lines: list[dict[str, Any]] = []
    if journal.is_file():
        for line in journal.read_text(encoding='utf-8').splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
    return lines


def _digest(picture: Picture) -> str:
    """Tells whether a picture or its annotations have changed, without reading the picture."""
    state: Any = None
    if picture.file is not None and picture.file.is_file():
        status = picture.file.stat()
        state = (status.st_size, status.st_mtime_ns)
    identity = (picture.name, picture.split, picture.session, picture.size, picture.objects, picture.relative, state)
    return hashlib.sha256(repr(identity).encode('utf-8', 'surrogatepass')).hexdigest()


def _write_missing(
    wanted: Mapping[str, Picture], target: Path, settings: ConversionSettings, done: dict[str, dict[str, Any]]
) -> list[Problem]:
    """Write what is not in `done` and add it there; what is broken is returned."""
    problems: list[Problem] = []
    with (target / JOURNAL).open('a', encoding='utf-8') as journal:
        for digest, picture in tqdm(wanted.items(), unit='picture', disable=None, dynamic_ncols=True):
            if digest in done:
                continue
            try:
                image = picture.read()
            except DataError as error:
                problems.append(unreadable(picture, error))
                continue
            found = _broken(picture, image)
            problems += found
            if found and (not settings.skip_broken or any(problem.kind == _SIZE for problem in found)):
                continue
            done[digest] = {'digest': digest, 'broken': bool(found), **_write(picture, image, target, settings)}
            journal.write(json.dumps(done[digest]) + '\n')
            journal.flush()
    return problems


_SIZE = 'picture of another size'


def _broken(picture: Picture, image: Image) -> list[Problem]:
    objects = picture.objects_in(image.shape[1], image.shape[0])
    found = [*size_problems(picture, image), *box_problems(picture.name, objects, image.shape[1], image.shape[0])]
    return [problem for problem in found if problem.level == Level.BROKEN]


def _write(picture: Picture, image: Image, target: Path, settings: ConversionSettings) -> dict[str, Any]:
    height, width = image.shape[:2]
    objects = picture.objects_in(width, height)
    once = tuple(dict.fromkeys(objects))
    truth = settings.rules.truth(once, width, height)
    item = _labelled(picture.stem, image, truth)
    origin = {'session': picture.session, 'source': picture.name}
    paints = settings.paint_ignored and picture.split == 'train'
    if settings.tiles is None:
        suffix = '.jpg'
        if paints and len(item.ignored):
            write_image(target / 'images' / picture.split / f'{picture.stem}.jpg', painted(item))
        else:
            suffix = _write_whole(picture, image, target, settings.link)
        images = [write_labels(target, picture.split, item, suffix, origin)]
    else:
        images = [
            _write_tile(tile, picture, target, origin, paints=paints)
            for tile in _kept(tiles_of(item, settings.tiles), settings.tiles.empty_share)
        ]
    boxes = {
        'read': len(objects),
        'learnt': len(item.objects),
        'crowd': len(item.crowds),
        'ignored': len(item.ignored),
        'background': sum(settings.rules.target(entry) is None for entry in once),
        'twice': len(objects) - len(once),
    }
    return {'split': picture.split, 'images': images, 'boxes': boxes, 'left_out': len(objects) - len(item.objects)}


def _labelled(name: str, image: Image, truth: GroundTruth) -> LabeledImage:
    return LabeledImage(
        name, image, truth.objects.select(~truth.crowd), truth.objects.select(truth.crowd), truth.ignored
    )


def _write_whole(picture: Picture, image: Image, target: Path, link: bool) -> str:
    """The picture's own bytes where they show what was read; returns the file's suffix."""
    source = picture.file
    suffix = source.suffix.lower() if source is not None else ''
    if source is None or suffix not in IMAGE_FILES or is_turned(source, image):
        write_image(target / 'images' / picture.split / f'{picture.stem}.jpg', image)
        return '.jpg'
    file = target / 'images' / picture.split / f'{picture.stem}{suffix}'
    file.unlink(missing_ok=True)
    if link:
        try:
            os.link(source.resolve(), file)
            return suffix
        except OSError:
            pass  # another file system: a copy does as well
    shutil.copyfile(source, file)
    return suffix


def _write_tile(
    tile: Tile, picture: Picture, target: Path, origin: dict[str, str], *, paints: bool = False
) -> dict[str, Any]:
    image = painted(tile.item) if paints else tile.item.image
    write_image(target / 'images' / picture.split / f'{tile.item.name}.jpg', image)
    x1, y1, x2, y2 = tile.place
    where = {**origin, 'parent': picture.stem, 'tile': [x1, y1, x2 - x1, y2 - y1]}
    return write_labels(target, picture.split, tile.item, '.jpg', where)


def painted(item: LabeledImage) -> Image:
    """A picture whose ignored regions are grey but where its objects and crowds are."""
    result = item.image.copy()
    for rows, columns in map(_pixels, item.ignored):
        result[rows, columns] = GRAY
    for rows, columns in map(_pixels, [*item.objects.boxes, *item.crowds.boxes]):
        result[rows, columns] = item.image[rows, columns]
    return result


def _pixels(box: npt.NDArray[np.float32]) -> tuple[slice, slice]:
    x1, y1, x2, y2 = (max(round(float(side)), 0) for side in box)
    return slice(y1, y2), slice(x1, x2)


def _kept(tiles: Iterable[Tile], empty_share: float) -> Iterator[Tile]:
    """All tiles with objects, and of those without a share that their names draw."""
    for tile in tiles:
        drawn = int.from_bytes(hashlib.sha256(tile.item.name.encode()).digest()[:4], 'big') / 2**32
        if len(tile.item.objects) or drawn < empty_share:
            yield tile


def _refusal(problems: Sequence[Problem]) -> str:
    shown = '\n'.join(f'  {problem}' for problem in problems[:EXAMPLES])
    more = f'\n  and {len(problems) - EXAMPLES} more' if len(problems) > EXAMPLES else ''
    return (
        f'{len(problems)} pictures or boxes are broken:\n{shown}{more}\n'
        '--check lists all; --skip-broken leaves them out. What was converted is kept for the next run'
    )
