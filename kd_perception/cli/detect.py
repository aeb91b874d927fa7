"""`kd_perception detect`: detections on images and videos, without a bag."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from kd_perception.bundles.bundle import find_bundle, load_bundle
from kd_perception.cli.detector_options import add_detector_options
from kd_perception.errors import EngineError, ImageError, KdPerceptionError
from kd_perception.regular_file import printable

if TYPE_CHECKING:
    from kd_perception.detection.detector import Detector
    from kd_perception.evaluation.detect import FileDetection, InputFile

EXIT_INTERRUPTED = 130


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `detect`."""
    parser = commands.add_parser(
        'detect',
        help='detect on images and videos: COCO results and annotated pictures',
        description=(
            'Runs a bundle over images, folders of images and videos. Leaves detections.json (COCO results), images.json '
            '(what its ids mean) and the folder annotated in the output folder.'
        ),
        epilog=(
            'Exit status: 0 done, 1 error or a file could not be read, 130 interrupted; what was done is kept. '
            'Example: kd_perception detect photos clip.mp4 --bundle aerial_traffic --out found'
        ),
    )
    parser.add_argument('inputs', nargs='+', type=Path, metavar='INPUT', help='image, folder of images, or video')
    add_detector_options(parser)
    parser.add_argument('--out', type=Path, default=Path('out/detections'), help='folder (default: %(default)s)')
    parser.add_argument('--score', type=_score, help="lowest score kept, 0 to 1 (default: the bundle's thresholds)")
    parser.add_argument('--no-pictures', action='store_true', help='write the JSON files only')
    parser.set_defaults(run=run)


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a score from 0 to 1')
    return score


def run(options: argparse.Namespace) -> int:
    """Detect on everything, write what was found, and say what could not be read."""
    from kd_perception.evaluation.detect import FileDetection, find_files

    files, problems = find_files(options.inputs)
    _check_places(files, options)
    with stop_on_interrupt() as stop, closing(_detector(options)) as detector:
        detection = FileDetection(detector, options.out, not options.no_pictures)
        try:
            problems += _detect_all(detection, files, stop)
        finally:
            if detection.images:
                detection.write()
    for problem in problems:
        print(f'kd_perception: skipped: {printable(problem)}', file=sys.stderr)
    print(f'{printable(options.out)}: {len(detection.results)} detections in {len(detection.images)} images')
    if stop.is_set():
        print('kd_perception: interrupted; what was done is there', file=sys.stderr)
        return EXIT_INTERRUPTED
    return 1 if problems else 0


def _check_places(files: Sequence[InputFile], options: argparse.Namespace) -> None:
    """Annotated pictures must not take the place of the images that they show."""
    annotated = (options.out / 'annotated').resolve()
    if not options.no_pictures and any(file.path.resolve().parent == annotated for file in files):
        raise KdPerceptionError(f'{annotated} holds inputs and would be written to: choose another --out')


def _detector(options: argparse.Namespace) -> Detector:
    from kd_perception.detection.detector import Detector
    from kd_perception.detection.tiles import parse
    from kd_perception.engines.options import EngineOptions
    from kd_perception.selection.selection import Request, select

    wanted = EngineOptions(threads=options.threads)
    tiling = parse(options.tiles, options.tile_overlap, report=wanted.report)
    request = Request(options.engine, options.precision, 1.0, budget_ms=math.inf, options=wanted, family=False)
    selection = select(load_bundle(find_bundle(options.bundle)), request)
    thresholds = selection.bundle.thresholds
    if options.score is not None:
        thresholds = thresholds.down_to(options.score)
    if options.suppression:
        thresholds = replace(thresholds, suppression=options.suppression)
    return Detector(selection.bundle, selection.load(), thresholds, tiling=tiling)


def _detect_all(detection: FileDetection, files: Sequence[InputFile], stop: Event) -> list[str]:
    """Detect on one file after another; a line for each that could not be read."""
    from tqdm import tqdm

    from kd_perception.bags.sources import SourceError

    problems = []
    with tqdm(total=sum(file.frames for file in files), unit='image', disable=None, dynamic_ncols=True) as bar:

        def proceed() -> bool:
            bar.update(1)
            return not stop.is_set()

        for file in files:
            if stop.is_set():
                break
            try:
                detection.add(file, proceed)
            except (ImageError, SourceError, EngineError) as error:
                problems.append(f'{file.path}: {error}')
    return problems


@contextmanager
def stop_on_interrupt() -> Iterator[Event]:
    """Ctrl-C sets the event, so that a file is finished and not torn; a second Ctrl-C ends at once."""
    stop = Event()

    def ask(*_: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
