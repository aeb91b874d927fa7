"""`python -m training prepare`: data sets of other formats to our form, and a check of what is there."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from training.commands import declare
from training.errors import DataError
from training.schema import nearest

if TYPE_CHECKING:
    from training.data.checking import CheckReport
    from training.data.sources import SourceSettings
    from training.data.teacher_labels import TeacherLabels

FORMATS = ('dtld', 'bdd100k', 'visdrone', 'coco', 'csv', 'yolo', 'scenes', 'fashion_scenes', 'frames')
DRAWN = ('scenes', 'fashion_scenes')
EPILOG = """\
The prepared folder is in Ultralytics' layout (images, labels, data.yaml), with COCO annotations that also hold crowds and
ignored regions, and the folder overview with statistics and contact sheets. Interrupted, the same command goes on.
Without --format, SOURCE is such a folder already.
Exit status: 0 done, 1 an error, or --check found faults; 130 interrupted.

examples:
  python -m training prepare VisDrone --format visdrone --out out/data/visdrone
  python -m training prepare DTLD --format dtld --out out/data/dtld --tile 640 --overlap 64 --empty-tiles 0.1
  python -m training prepare bdd100k --format bdd100k --out out/data/vru --classes vru --inclusive
  python -m training prepare my_photos --format yolo --out out/data/mine --split-by session --session-pattern '^([^_]+)'
  python -m training prepare vehicles_240 --format csv --out out/data/vehicles --class-map Ambulance=Truck
  python -m training prepare --format scenes --out out/data/scenes --count 500 --size 480
  python -m training prepare /usr/share/datasets/fashion-mnist --format fashion_scenes --out out/data/fashion
  python -m training prepare drive.mp4 --format frames --out out/data/drive --teacher models/road_traffic      no labels at all
  python -m training prepare roboflow_export --format yolo --out out/data/lamps --straighten    undo turns that are baked in
  python -m training prepare my_photos --format yolo --check      what is wrong, and nothing is written
  python -m training prepare out/data/mine --check                the same for a prepared folder
  python -m training prepare out/data/mine --crops out/data/mine_crops      its objects, one folder a class
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `prepare`."""
    text = 'convert a data set to our form, check it, show what it holds'
    parser = declare(commands, 'prepare', text, EPILOG)
    parser.add_argument(
        'source',
        nargs='?',
        type=Path,
        metavar='SOURCE',
        help='folder of the data set, or its name in $KD_DATA; not for scenes',
    )
    parser.add_argument('--format', choices=FORMATS, help='of SOURCE; without it SOURCE is a prepared folder')
    parser.add_argument('--out', type=Path, default=Path(), metavar='FOLDER', help='of the prepared data set')
    parser.add_argument('--check', action='store_true', help='look for broken boxes and pictures; write nothing')
    parser.add_argument('--link', action='store_true', help='hard links instead of copies of pictures')
    parser.add_argument('--skip-broken', action='store_true', help='leave out what is broken instead of refusing it')
    parser.add_argument(
        '--straighten', action='store_true', help='set upright what the export turned and sheared, of the train split'
    )
    _add_classes(parser)
    _add_splits(parser)
    _add_tiles(parser)
    _add_formats(parser)
    _add_teachers(parser)
    crops = parser.add_argument_group('crops')
    crops.add_argument('--crops', type=Path, metavar='FOLDER', help='also write every object, one folder a class')
    crops.add_argument('--crop-margin', type=float, default=0.1, help='share of the box; %(default)s by default')
    crops.add_argument('--crop-min', type=int, default=16, help='smallest side in pixels; %(default)s by default')
    parser.set_defaults(command=run, threads=1)


def _add_classes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('classes')
    group.add_argument('--classes', nargs='+', default=[], metavar='NAME', help='those to learn, in order; or vru')
    group.add_argument(
        '--class-map',
        nargs='+',
        default=[],
        metavar='MAP',
        help='van=car, trailer=ignore, or a YAML file of such lines',
    )
    group.add_argument('--ignored', nargs='*', metavar='NAME', help="to be ignored, instead of the format's own rule")


def _add_splits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('splits; pictures of one session never lie in two')
    group.add_argument(
        '--split-by', choices=('source', 'session'), default='source', help="the source's own, or drawn anew by session"
    )
    group.add_argument(
        '--session-pattern', default='', metavar='REGEX', help="finds the session in a picture's name (its first group)"
    )
    group.add_argument('--val-share', type=float, default=0.2, help='where val is drawn; %(default)s by default')
    group.add_argument('--seed', type=int, default=0, help='of the draw; %(default)s by default')


def _add_tiles(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('tiles')
    group.add_argument('--tile', type=int, metavar='SIZE', help='cut pictures into squares of so many pixels')
    group.add_argument(
        '--overlap', type=int, default=64, help='of neighbouring tiles in pixels; %(default)s by default'
    )
    group.add_argument(
        '--min-visible',
        type=float,
        default=0.5,
        help='share of an object that a tile must show; %(default)s by default',
    )
    group.add_argument('--empty-tiles', type=float, default=1.0, help='share that is kept; %(default)s by default')


def _add_formats(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('single formats')
    group.add_argument('--inclusive', action='store_true', help='bdd100k: w = x2 - x1 + 1, as in its COCO export')
    group.add_argument(
        '--every',
        type=int,
        metavar='N',
        help='csv of videos, frames: every Nth frame; 1, of a bag or video without labels 5',
    )
    group.add_argument('--topic', default='', help='frames of a bag that has several topics with images')
    group.add_argument(
        '--count', type=int, help='scenes, fashion_scenes: pictures for training; 1000 or 2000 by default'
    )
    group.add_argument('--val-count', type=int, help='fashion_scenes: for validation; 1000 by default')
    group.add_argument('--size', type=int, help='scenes, fashion_scenes: side of a picture; 480 or 128 by default')


def _add_teachers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        'detectors that label what nobody labelled, in the train split; docs/data.md has the rule'
    )
    group.add_argument(
        '--teacher', nargs='+', type=Path, default=[], metavar='BUNDLE', help='one, or several whose boxes are fused'
    )
    group.add_argument(
        '--teacher-map',
        nargs='+',
        default=[],
        metavar='MAP',
        help="their classes in the set's words, person=pedestrian, or a YAML file; equal names need no entry",
    )
    group.add_argument(
        '--teacher-tiles', default='off', metavar='TILES', help='2x2+whole: small objects in large pictures'
    )
    group.add_argument('--flip', action='store_true', help='they look at mirror images too')
    group.add_argument(
        '--sure',
        type=float,
        default=0.5,
        help='score from which a box without a label is taught; %(default)s by default',
    )
    group.add_argument(
        '--doubtful', type=float, default=0.25, help='score from which it is painted grey; %(default)s by default'
    )


def run(options: argparse.Namespace) -> int:
    """Convert, check, or show; returns the exit status."""
    from training.data.conversion import is_data_set
    from training.data.crops import CropSettings, write_crops
    from training.data.overview import write_overview
    from training.data.root import source_folder
    from training.data.sources import prepare

    if options.source is None and options.format != 'scenes':
        raise DataError('give the folder of the data set; python -m training prepare --help shows examples')
    if options.source is not None:
        options.source = source_folder(options.source)
    if options.check:
        report = _check(options)
        print(report)
        return 0 if report.fine else 1
    with _settings_of('--crops'):
        crops = CropSettings(options.crop_margin, options.crop_min) if options.crops else None
    folder = options.out if options.format else options.source
    if options.format:
        if options.out == Path():
            raise DataError('give --out FOLDER for the prepared data set, or --check to look only')
        print(f'{folder}: {json.dumps(prepare(_settings(options), Path(), folder, print))}')
    elif not is_data_set(folder):
        raise DataError(f'{folder} is no prepared data set; say what it is by --format {"|".join(FORMATS)}')
    print(write_overview(folder))
    print(f'pictures: {folder / "overview"}')
    if crops is not None:
        print(f'{options.crops}: {json.dumps(write_crops(folder, options.crops, crops))}')
    return 0


def _check(options: argparse.Namespace) -> CheckReport:
    from tqdm import tqdm

    from training.data import yolo_layout
    from training.data.checking import check
    from training.data.sources import read_source

    if options.format == 'frames':
        raise DataError('frames have no labels that could be checked; prepare them with --teacher, then check FOLDER')
    if options.format in DRAWN:
        raise DataError(f'{options.format} are drawn; there is nothing to check before they are prepared')
    if options.format:
        # As it is: no validation is drawn, which could fail before anything is looked at.
        source = read_source(replace(_settings(options), val_share=0.0), options.source)
    else:
        source = yolo_layout.read(options.source)
    return check(source, tqdm(source.pictures, unit='picture', disable=None, dynamic_ncols=True))


@contextlib.contextmanager
def _settings_of(option: str) -> Iterator[None]:
    """Says which option's settings are refused; several have a size."""
    try:
        yield
    except ValueError as error:
        raise DataError(f'{option}: {error}') from error


def _settings(options: argparse.Namespace) -> SourceSettings:
    from training.data.class_rules import read_class_map
    from training.data.fashion_scenes import FashionSceneSettings
    from training.data.scenes import SceneSetSettings
    from training.data.sources import SourceSettings
    from training.data.tiling import GridSettings
    from training.data.unlabelled import UnlabelledSettings

    with _settings_of('--tile'):
        tiling = (options.overlap, options.min_visible, options.empty_tiles)
        grid = None if options.tile is None else GridSettings(options.tile, *tiling)
    drawn = {name: getattr(options, name) for name in ('count', 'size') if getattr(options, name) is not None}
    validation = {} if options.val_count is None else {'val_count': options.val_count}
    with _settings_of(f'--format {options.format}'):
        return SourceSettings(
            format=options.format,
            path='' if options.source is None else str(options.source.resolve()),
            classes=tuple(options.classes),
            class_map=read_class_map(options.class_map),
            ignored=None if options.ignored is None else tuple(options.ignored),
            split_by=options.split_by,
            session_pattern=options.session_pattern,
            val_share=options.val_share,
            seed=options.seed,
            grid=grid,
            scenes=SceneSetSettings(**drawn) if options.format == 'scenes' else None,
            fashion=FashionSceneSettings(**drawn, **validation, seed=options.seed)
            if options.format == 'fashion_scenes'
            else None,
            inclusive=options.inclusive,
            every=options.every or 1,
            link=options.link,
            skip_broken=options.skip_broken,
            straighten=options.straighten,
            teacher=_teacher(options),
            frames=UnlabelledSettings(options.every, topic=options.topic) if options.format == 'frames' else None,
        )


def _teacher(options: argparse.Namespace) -> TeacherLabels | None:
    from kd_perception.bundles.bundle import load_bundle
    from training.data.class_rules import read_class_map
    from training.data.teacher_answers import TeacherBundle
    from training.data.teacher_labels import TeacherLabels

    if not options.teacher:
        return None
    names = read_class_map(options.teacher_map)
    known = {folder: load_bundle(folder).classes for folder in options.teacher}
    for name in names:
        if not any(name in classes for classes in known.values()):
            there = list(dict.fromkeys(one for classes in known.values() for one in classes))
            raise DataError(f'--teacher-map: no teacher has a class {name!r}{nearest(name, there)}')
    maps = [{name: names[name] for name in classes if name in names} for classes in known.values()]
    how = {'tiles': options.teacher_tiles, 'flip': options.flip}
    first, *others = [{'bundle': str(folder), 'class_map': own, **how} for folder, own in zip(known, maps, strict=True)]
    return TeacherLabels(
        **first,
        unlabelled='teach',
        sure=options.sure,
        doubtful=options.doubtful,
        also=tuple(TeacherBundle(**other) for other in others),
    )
