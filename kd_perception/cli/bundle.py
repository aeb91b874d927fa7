"""`kd_perception bundle`: show, check and make model bundles."""

from __future__ import annotations

import argparse

from kd_perception.bundles.bundle import find_bundle, load_bundle
from kd_perception.cli import bundle_create
from kd_perception.detection.thresholds import Thresholds


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `bundle`."""
    bundle = commands.add_parser(
        'bundle', help='show, check and make model bundles', epilog='example: kd_perception bundle show aerial_traffic'
    )
    actions = bundle.add_subparsers(metavar='ACTION', required=True)

    show = actions.add_parser(
        'show',
        help='check every hash of a bundle and print what it holds',
        epilog='example: kd_perception bundle show models/aerial_traffic',
    )
    show.add_argument('bundle', help='folder, or name of an installed bundle')
    show.set_defaults(run=_show)

    bundle_create.add_command(actions)


def _show(options: argparse.Namespace) -> int:
    bundle = load_bundle(find_bundle(options.bundle))
    spec = bundle.input
    print(f'{bundle.name}: {bundle.description}')
    print(f'  folder    {bundle.folder}')
    print(f'  license   {bundle.license}')
    print(f'  classes   {", ".join(bundle.classes)}')
    for name, covered in bundle.covers.items():
        print(f'  {"":9} {name} covers {", ".join(covered)}')
    print(f'  input     {spec.width}x{spec.height} {spec.color} {spec.dtype} {spec.layout}, {spec.resize}')
    print(f'  output    {bundle.output.layout}, {_thresholds(bundle.thresholds)}')
    print(f'  {"artifact":24}{"size":>10}{"mAP50":>8}{"mAP":>8}  hash')
    for artifact in bundle.artifacts:
        size = len(bundle.read(artifact))
        map50, map_ = (f'{artifact.metrics[key]:.3f}' if key in artifact.metrics else '–' for key in ('map50', 'map'))
        name = f'{artifact.engine}/{artifact.precision}'
        own = f', {_thresholds(bundle.thresholds_of(artifact))}' if artifact.thresholds else ''
        print(f'  {name:24}{size / 2**20:6.2f} MiB{map50:>8}{map_:>8}  {artifact.sha256[:12]}… verified{own}')
    return 0


def _thresholds(at: Thresholds) -> str:
    classes = ''.join(f', {name} ≥ {score:g}' for name, score in at.class_scores.items())
    return f'score ≥ {at.score:g}{classes}, IoU {at.iou:g}{" among all classes" if at.is_class_agnostic else ""}'
