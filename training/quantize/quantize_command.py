"""`python -m training quantize`: the INT8 artifact of any bundle that has a float network, searched, judged and measured."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.commands import declare
from training.errors import QuantizationError

if TYPE_CHECKING:
    from kd_perception.bundles.bundle import Bundle
    from training.quantize.artifact import Judgement
    from training.quantize.search import Found, SearchSettings

EPILOG = """\
examples:
  kd_perception bundle create yolox.onnx --out models/mine              any ONNX detector becomes a bundle first
  python -m training quantize models/mine my_photos                     a data set with labels: mAP judges
  python -m training quantize models/mine flight.mp4                    pictures, a bag or a video: the float network judges
  python -m training quantize models/mine my_photos --engine openvino   the form that OpenVINO fuses; or tensorrt, or all
  python -m training quantize models/mine my_photos --tune 200          trains in INT8 where nothing else will do
  python -m training quantize models/mine my_photos --every-step        what each repair gives, in a table and a picture
  python -m training quantize models/mine my_photos --explain           which layers lose, and why
  python -m training quantize models/mine my_photos --method percentile --leave 1,2.cv1

Takes any bundle with an fp32 artifact: of `bundle create` or of our exporter, float or uint8 input, any output layout. Tries
repairs from the cheapest to the dearest and stops at the first that holds; the steps are kept in --work, and the same command
goes on from there. With labels ranges come from images of train, and val has the last word. Nothing is written that is another
detector, or beyond the accuracy gate; what is not faster than float here stands behind it in the bundle.
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command."""
    text = 'give a bundle, also one of `bundle create`, an INT8 artifact that is still the same detector'
    parser = declare(commands, 'quantize', text, EPILOG)
    parser.add_argument('bundle', type=Path, help='folder of a bundle with an fp32 artifact for onnxruntime')
    parser.add_argument(
        'dataset', type=Path, help='data set (folder, or its name in the data root), pictures, bag or video'
    )
    parser.add_argument(
        '--engine', default='onnxruntime', help='onnxruntime, openvino, tensorrt, or all; %(default)s by default'
    )
    parser.add_argument('--images', type=int, default=64, help='calibration images; %(default)s by default')
    parser.add_argument(
        '--judged', type=int, default=64, help='other images that judge the steps; %(default)s by default'
    )
    parser.add_argument(
        '--method', help='only these ranges: minmax, percentile, mse or entropy; by default all are tried'
    )
    parser.add_argument('--leave', metavar='LAYER,…', help='layers that stay in float')
    parser.add_argument('--most-layers', type=int, default=32, help='most layers left in float; %(default)s by default')
    parser.add_argument(
        '--tune',
        type=int,
        default=0,
        metavar='STEPS',
        help='where no step holds, train in INT8 with the float network as teacher: 200, say; labels are not asked for',
    )
    parser.add_argument(
        '--every-step', action='store_true', help='do not stop at the first step that holds: see all, take the nearest'
    )
    parser.add_argument('--max-ms', type=float, default=0.0, help='longest median inference on this machine, ms')
    parser.add_argument('--max-map-drop', type=float, default=0.02, help='accuracy gate; %(default)s by default')
    parser.add_argument(
        '--reduce-range', action='store_true', help='weights of 7 bits, for x86 processors without VNNI'
    )
    parser.add_argument('--topic', default='', help='of a bag with several topics of images')
    parser.add_argument('--explain', action='store_true', help='print which layers lose, and why')
    parser.add_argument(
        '--export-ranges', type=Path, metavar='FILE', help='write the ranges as JSON too, for compilers of other chips'
    )
    parser.add_argument(
        '--work', type=Path, default=Path('out/quantize'), help='folder of the steps; %(default)s by default'
    )
    parser.set_defaults(command=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Search, judge, write; for each engine."""
    from kd_perception.bundles.bundle import load_bundle
    from training.data.root import data_set
    from training.quantize.pictures import pictures_of

    bundle = load_bundle(options.bundle)
    data = options.dataset if options.dataset.exists() else data_set(options.dataset, options.data)
    pictures = pictures_of(bundle, data, options.images, options.judged, options.topic)
    if pictures.truth is None:
        print(f'{options.dataset}: no labels; agreement with the float network is what is judged', flush=True)
    for engine in _engines(options.engine):
        settings = _settings(options, bundle, engine)
        found = _search(bundle, pictures, settings, options)
        _write(bundle, found, pictures, settings, options)
        bundle = load_bundle(options.bundle)
    return 0


def _engines(asked: str) -> list[str]:
    from kd_perception import engines
    from training.quantize.qdq import TARGETS

    names = TARGETS if asked == 'all' else asked.split(',')
    for name in names:
        if name not in TARGETS:
            raise QuantizationError(f'--engine {name} is none of {", ".join(TARGETS)}, all')
    lacking = [name for name in names if name != 'tensorrt' and not engines.availability(name)]
    if lacking and asked != 'all':
        raise QuantizationError(f'{lacking[0]} judges its own networks: {engines.availability(lacking[0]).reason}')
    return [name for name in names if name not in lacking]


def _settings(options: argparse.Namespace, bundle: Bundle, engine: str) -> SearchSettings:
    from dataclasses import replace

    from training.quantize.arms_command import leaving
    from training.quantize.calibration import METHODS as KNOWN
    from training.quantize.qdq import QuantizeSettings
    from training.quantize.search import METHODS, SearchSettings

    source = bundle.folder / bundle.artifact('onnxruntime', 'fp32').file
    quantize = leaving(source, options.leave) if options.leave else QuantizeSettings()
    quantize = replace(quantize, reduce_range=options.reduce_range)
    methods = tuple(METHODS)
    if options.method:
        methods = tuple(name for name, (method, _) in METHODS.items() if method == options.method)
        if not methods:
            raise QuantizationError(f'unknown calibration method {options.method!r}; choose one of {", ".join(KNOWN)}')
        quantize = replace(quantize, method=options.method)
    return SearchSettings(
        engine=engine,
        most_loss=options.max_map_drop / 2,
        most_ms=options.max_ms,
        most_layers=options.most_layers,
        tune=options.tune,
        every_step=options.every_step,
        methods=methods,
        quantize=quantize,
        threads=options.threads,
    )


def _search(bundle: Bundle, pictures: Any, settings: SearchSettings, options: argparse.Namespace) -> Found:
    from training.quantize.search import search
    from training.quantize.search_page import explanation, export_ranges, table, write_pages

    print(f'INT8 for {settings.engine}', flush=True)
    started, worked = time.monotonic(), sum(os.times()[:4])
    found = search(bundle, pictures, settings, options.work, lambda line: print(f'  {line}', flush=True))
    folder = found.best.file.parent
    write_pages(found, folder)
    print(f'\n{table(found.steps)}\n')
    if options.explain:
        print(f'{explanation(found.layers)}\n')
    if options.export_ranges:
        export_ranges(found, options.export_ranges)
    print(f'{folder}: steps.md, steps.svg, layers.md')
    print(f'{time.monotonic() - started:.0f} s by the clock, {sum(os.times()[:4]) - worked:.0f} s of processors')
    if not found.holds:
        left = 'qat: true in a recipe' if settings.tune else '--tune 200, or qat: true in a recipe'
        print(f'no step is as near to the float network as was asked; what is left is training in INT8: {left}')
    return found


def _write(bundle: Bundle, found: Found, pictures: Any, settings: SearchSettings, options: argparse.Namespace) -> None:
    from training.quantize.artifact import judge_artifact, write_artifact
    from training.quantize.search import FASTER
    from training.quantize.search_page import plot_precision_recall

    called = str(options.dataset)
    judgement = judge_artifact(bundle, found, pictures, settings, options.max_map_drop, called)
    command = f'python -m training quantize models/{bundle.name} {shlex.quote(called)} --engine {settings.engine}'
    given = {'method': options.method, 'leave': options.leave, 'tune': options.tune}
    more = ''.join(f' --{name} {value}' for name, value in given.items() if value)
    more += ' --every-step' * options.every_step
    again = f'{command}{more} --images {options.images} --judged {options.judged}'
    artifact = write_artifact(bundle, found, pictures, settings, judgement, called, again)
    for line in _figures(judgement):
        print(line)
    if judgement.int8 is not None:
        picture = found.best.file.with_name('precision_recall.svg')
        plot_precision_recall(judgement, picture)
        print(
            f'{picture}; thresholds for each precision: python -m training thresholds {options.bundle} {called} --match fp32'
        )
    speed = f'{found.best.speed:.2f} times as fast as the float network ({found.best.ms:.2f} ms)'
    if settings.engine == 'tensorrt':
        verdict = 'symmetric, for TensorRT; not timed here, and judged by ONNX Runtime'
    elif found.best.speed >= FASTER:
        verdict = f'{speed} on {settings.engine} here'
    else:
        verdict = f'{speed} on {settings.engine} here: not faster, so it stands behind fp32 in the bundle'
    print(f'{bundle.folder / artifact.file}: {verdict}')


def _figures(judgement: Judgement) -> list[str]:
    lines = []
    for name, measured in (('int8', judgement.int8), ('fp32', judgement.float)):
        if measured is None:
            continue
        accuracy = measured.accuracy
        lines.append(
            f'{name} on val: mAP50-95 {100 * accuracy.map:.2f} %, mAP50 {100 * accuracy.map50:.2f} %; {measured.behavior}'
        )
        if measured.compared is not None:
            lines.append(f'  against the float network: {measured.compared.paired} points')
    return lines
