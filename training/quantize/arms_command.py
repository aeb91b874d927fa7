"""`python -m training arms`: a bundle's float network in INT8 by every arm, measured."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.commands import add_dataset, declare
from training.errors import QuantizationError
from training.schema import nearest

if TYPE_CHECKING:
    from kd_perception.bundles.bundle import Bundle
    from training.quantize.qdq import QuantizeSettings

EPILOG = """\
examples:
  python -m training arms models/aerial_traffic aerial_traffic
      calibrators, weights per channel and per tensor, head in INT8 or float, TensorRT's form: mAP, false alarms, D-ECE, time
  python -m training arms models/aerial_traffic aerial_traffic --leave 1 --leave 1,2.cv1
      and two arms more, with these layers in float; python -m training sensitivity names them

Ranges come from images of the train split; accuracy is measured on the val split, through the runtime that the robot uses.
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command."""
    text = 'quantize a bundle in every way there is, and measure each'
    parser = declare(commands, 'arms', text, EPILOG)
    parser.add_argument('bundle', type=Path, help='folder of a bundle with an fp32 artifact')
    add_dataset(parser)
    parser.add_argument('--images', type=int, default=24, help='calibration images; %(default)s by default')
    parser.add_argument('--leave', metavar='LAYER,…', action='append', default=[], help='an arm with these in float')
    parser.add_argument('--rounds', type=int, default=20, help='timed inferences of each; %(default)s by default')
    parser.add_argument('--results', type=Path, default=Path('out/arms'), help='folder; %(default)s by default')
    parser.set_defaults(command=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Measure and print, and leave arms.json and the networks in the folder."""
    from kd_perception.bundles.bundle import load_bundle
    from training.data.root import data_set
    from training.data.spread import images_for
    from training.quantize.arms import ARMS, class_table, measure_arms, table

    bundle = load_bundle(options.bundle)
    check_form(bundle)
    dataset = data_set(options.dataset, options.data)
    source = bundle.folder / bundle.artifact('onnxruntime', 'fp32').file
    arms = {**ARMS, **{f'min-max, {names} in float': leaving(source, names) for names in options.leave}}
    images = images_for(bundle, dataset, 'train', options.images)
    results = measure_arms(
        bundle, dataset, images, options.results, arms, rounds=options.rounds, threads=options.threads
    )
    content = [result.to_json() for result in results]
    (options.results / 'arms.json').write_text(json.dumps(content, indent=1), encoding='utf-8')
    print(table(results))
    per_class = results[0].measured.accuracy.per_class
    print(f'\n{class_table(results, max(per_class, key=lambda name: per_class[name].objects))}')
    print(f'\n{options.results}: arms.json and the networks')
    return 0


def check_form(bundle: Bundle) -> None:
    """Refuse bundles of other exporters, whose float input and outputs these tables do not know.

    Raises:
        QuantizationError: naming the command that takes them.
    """
    spec = bundle.input
    ours = (spec.dtype, spec.layout, spec.color, bundle.output.layout) == ('uint8', 'nhwc', 'bgr', 'boxes_scores')
    if not ours:
        raise QuantizationError(
            f'{bundle.name} takes {spec.dtype} {spec.layout} {spec.color} and gives {bundle.output.layout}; this command takes '
            'bundles of our exporter only: python -m training quantize --explain takes all'
        )


def leaving(source: Path, names: str) -> QuantizeSettings:
    """Settings with layers in float.

    Args:
        source: the float network.
        names: of layers, as `python -m training sensitivity` prints them, with commas between.

    Raises:
        QuantizationError: no layer of such a name.
    """
    from training.quantize.qdq import QuantizeSettings, with_shapes
    from training.quantize.sensitivity import layers

    known = {layer.name: layer.nodes for layer in layers(with_shapes(source).graph, QuantizeSettings())}
    nodes: list[str] = []
    for name in names.split(','):
        if name not in known:
            raise QuantizationError(f'the network has no layer {name!r}{nearest(name, known)}')
        nodes += known[name]
    return replace(QuantizeSettings(), float_nodes=tuple(nodes))
