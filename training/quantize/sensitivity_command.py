"""`python -m training sensitivity`: which layers of a bundle INT8 hurts, and which to leave in float."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.commands import add_dataset, declare

if TYPE_CHECKING:
    from kd_perception.bundles.bundle import Bundle
    from training.quantize.calibration import Image
    from training.quantize.mixed import Mixed
    from training.quantize.qdq import QuantizeSettings

EPILOG = """\
examples:
  python -m training sensitivity models/aerial_traffic aerial_traffic
      a table and a plot of every layer in out/sensitivity
  python -m training sensitivity models/aerial_traffic aerial_traffic --max-bytes 4500000 --measure
      chooses the layers to leave in float under 4.5 MB as well, and measures mAP of float, INT8 and the choice
  python -m training sensitivity models/aerial_traffic aerial_traffic --max-ms 60
      the same under a median inference of 60 ms on this machine

Ranges come from images of the train split, drift is measured on some of them; --measure reads the val split. The names under
float_nodes in mixed.json go into a recipe: quantize: {float_nodes: [...]}.
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command."""
    text = 'quantize a bundle layer by layer, and tell what each layer costs in accuracy, size and time'
    parser = declare(commands, 'sensitivity', text, EPILOG)
    parser.add_argument('bundle', type=Path, help='folder of a bundle with an fp32 artifact')
    add_dataset(parser)
    parser.add_argument('--method', default='minmax', help='of calibration: minmax, percentile, entropy (%(default)s)')
    parser.add_argument('--images', type=int, default=24, help='calibration images; %(default)s by default')
    parser.add_argument('--judged', type=int, default=8, help='of them, images that judge; %(default)s by default')
    parser.add_argument('--max-bytes', type=int, help='choose layers to leave in float under this size of the file')
    parser.add_argument('--max-ms', type=float, help='the same under this median inference on this machine')
    parser.add_argument('--measure', action='store_true', help='mAP of float, INT8 and the choice on the val split')
    parser.add_argument('--results', type=Path, default=Path('out/sensitivity'), help='folder; %(default)s by default')
    parser.set_defaults(command=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Measure, choose, print the tables and leave them in the folder."""
    from kd_perception.bundles.bundle import load_bundle
    from training.data.root import data_set
    from training.data.spread import images_for, spread
    from training.quantize.arms_command import check_form
    from training.quantize.mixed import choose
    from training.quantize.qdq import MixedSettings, QuantizeSettings
    from training.quantize.sensitivity import sensitivity, write_table

    bundle = load_bundle(options.bundle)
    check_form(bundle)
    dataset = data_set(options.dataset, options.data)
    source = bundle.folder / bundle.artifact('onnxruntime', 'fp32').file
    images = images_for(bundle, dataset, 'train', options.images)
    settings = QuantizeSettings(method=options.method)
    table = sensitivity(source, images, settings, judged=spread(images, options.judged), threads=options.threads)
    write_table(table, options.results)
    print(table.to_markdown(12))
    print(
        f'all layers in INT8: drift {table.all_int8.score:.5f} in score, {table.all_int8.box:.5f} in box; '
        f'{table.int8_ms:.1f} ms against {table.float_ms:.1f} ms in float'
    )
    chosen = None
    if options.max_bytes or options.max_ms:
        target = MixedSettings(options.max_bytes, options.max_ms, judged_images=options.judged, threads=options.threads)
        chosen = choose(source, images, settings, target, table)
        (options.results / 'mixed.json').write_text(json.dumps(chosen.to_json(), indent=1), encoding='utf-8')
        print(f'\n{chosen.to_markdown()}')
    if options.measure:
        print(f'\n{_accuracy(bundle, source, dataset, images, settings, chosen, options)}')
    print(f'\n{options.results}: sensitivity.csv, .json, .md, .svg')
    return 0


def _accuracy(
    bundle: Bundle,
    source: Path,
    dataset: Path,
    images: list[Image],
    settings: QuantizeSettings,
    chosen: Mixed | None,
    options: argparse.Namespace,
) -> str:
    from training.measure import measure_artifact, with_file
    from training.quantize.mixed import with_choice
    from training.quantize.ptq import quantize

    networks = {'float': source, 'INT8': options.results / 'int8.onnx'}
    quantize(source, networks['INT8'], images, replace(settings, mixed=None))
    if chosen is not None:
        networks['mixed'] = options.results / 'mixed.onnx'
        quantize(source, networks['mixed'], images, with_choice(settings, chosen))
    lines = ['| network | file | mAP50 | mAP50-95 | false alarms per image | D-ECE |', '|---|---|---|---|---|---|']
    for name, file in networks.items():
        one = with_file(bundle, file, 'fp32' if name == 'float' else 'int8')
        result = measure_artifact(one, one.artifacts[0], dataset, threads=options.threads)
        lines.append(
            f'| {name} | {file.stat().st_size / 1e6:.2f} MB | {100 * result.accuracy.map50:.1f} % '
            f'| {100 * result.accuracy.map:.2f} % | {result.behavior.false_alarms_per_image:.2f} '
            f'| {100 * result.behavior.calibration_error:.1f} % |'
        )
    return '\n'.join(lines)
