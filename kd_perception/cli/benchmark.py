"""`kd_perception benchmark`: which engine, precision and number of threads is the quickest here, and what it costs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_perception.bundles.bundle import Bundle, find_bundle, load_bundle
from kd_perception.cli.detector_options import image_size
from kd_perception.errors import ImageError, KdPerceptionError

if TYPE_CHECKING:
    from kd_perception.benchmark.configurations import Configuration
    from kd_perception.selection.trial import Frame

MAX_IMAGES = 32


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `benchmark`."""
    parser = commands.add_parser(
        'benchmark',
        help='time every engine, precision and number of threads on this machine',
        description=(
            'Runs bundles in every way that this machine can, each in processes of its own and in rounds, so that whatever '
            'else happens on the machine hits all alike. Tells percentiles of a frame, frames/s, memory, energy where a '
            'sensor tells it, and how far the detections lie from those of FP32. Leaves benchmark.json, benchmark.md and '
            'benchmark.svg in the output folder. Nothing else should run meanwhile.'
        ),
        epilog=(
            'Examples: kd_perception benchmark aerial_traffic · '
            'kd_perception benchmark models/* --engines onnxruntime openvino --threads 4 · '
            'kd_perception benchmark aerial_traffic --images photos/*.jpg --rounds 5'
        ),
    )
    parser.add_argument('bundles', nargs='*', default=['aerial_traffic'], metavar='BUNDLE', help='folders or names')
    parser.add_argument('--engines', nargs='+', default=[], metavar='ENGINE', help='default: all that are installed')
    parser.add_argument('--precisions', nargs='+', default=[], metavar='PRECISION', help='default: all that can run')
    parser.add_argument(
        '--threads', nargs='+', type=_positive, default=[], metavar='N', help='default: 1, 2, 4, … and all cores'
    )
    parser.add_argument('--images', nargs='+', type=Path, default=[], metavar='FILE', help='default: synthetic scenes')
    parser.add_argument(
        '--size',
        type=image_size,
        metavar='WIDTHxHEIGHT',
        help="of the synthetic scenes (default: the first bundle's input)",
    )
    parser.add_argument(
        '--rounds', type=_positive, default=3, help='turns of each configuration (default: %(default)s)'
    )
    parser.add_argument('--frames', type=_positive, default=100, help='most frames in a turn (default: %(default)s)')
    parser.add_argument('--seconds', type=float, default=3.0, help='longest turn (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('out/benchmark'), help='folder (default: %(default)s)')
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1')
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Measure, write the three files and print the table."""
    from kd_perception.benchmark.configurations import Wanted, configurations
    from kd_perception.benchmark.measure import Effort, measure
    from kd_perception.benchmark.picture import picture
    from kd_perception.benchmark.report import as_json, markdown

    bundles = [load_bundle(find_bundle(name)) for name in options.bundles]
    wanted = Wanted(tuple(options.engines), tuple(options.precisions), tuple(options.threads))
    found, absent = configurations(bundles, wanted)
    if not found:
        raise KdPerceptionError(f'nothing to measure: {"; ".join(absent.values()) or "no artifact fits the options"}')
    frames = _frames(options, bundles[0])
    effort = Effort(options.rounds, options.frames, options.seconds)
    with _Bar(len(found) * effort.rounds) as bar:
        rows = measure(found, frames, effort, bar.step)
    source = f'{len(frames)} files' if options.images else 'scenes of kd_perception.scene, seed 0'
    images = {'count': len(frames), 'source': source, 'size': [*reversed(frames[0].shape[:2])]}
    document = as_json(rows, absent, images, effort)
    options.out.mkdir(parents=True, exist_ok=True)
    table = markdown(document)
    for name, text in (('json', _text(document)), ('md', table), ('svg', picture(document))):
        (options.out / f'benchmark.{name}').write_text(text, encoding='utf-8')
    print(table)
    print(f'{options.out}: benchmark.json, benchmark.md, benchmark.svg')
    return 0 if any(not row.fault for row in rows) else 1


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + '\n'


def _frames(options: argparse.Namespace, bundle: Bundle) -> Sequence[Frame]:
    from kd_perception.bags.sources import read_image
    from kd_perception.selection.trial import scene_frames

    if not options.images:
        return scene_frames(options.size or (bundle.input.width, bundle.input.height), count=8)
    if len(options.images) > MAX_IMAGES:
        raise KdPerceptionError(
            f'{len(options.images)} images are more than {MAX_IMAGES}, which are enough: pass fewer'
        )
    return [_read(path, read_image) for path in options.images]


def _read(path: Path, read: Callable[[Path], Frame]) -> Frame:
    try:
        return read(path)
    except ImageError as error:
        raise ImageError(f'{path}: {error}') from error


class _Bar:
    """A progress bar on stderr that names what is being measured; needs nothing that a robot may lack."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._width = 0

    def __enter__(self) -> _Bar:
        return self

    def step(self, configuration: Configuration, number: int) -> None:
        """Say what is measured next."""
        share = 20 * self._done // self._total
        line = f'[{"#" * share}{"." * (20 - share)}] {self._done}/{self._total} round {number + 1}: {configuration}'
        self._done += 1
        if sys.stderr.isatty():
            print(f'\r{line.ljust(self._width)}', end='', file=sys.stderr, flush=True)
            self._width = len(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._width:
            print(f'\r{" " * self._width}\r', end='', file=sys.stderr, flush=True)
