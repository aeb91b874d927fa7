"""`kd_perception bundle`: show, check and make model bundles."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.bundles.bundle import find_bundle, load_bundle
from kd_perception.bundles.onnx_import import ImportOptions, bundle_from_onnx
from kd_perception.cli.detector_options import image_size


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

    create = actions.add_parser(
        'create',
        help="make a bundle of an ONNX detector, such as Ultralytics' export",
        description='Copies the file into a new bundle folder, reads size, classes and layout from it, and runs one frame.',
        epilog='example: kd_perception bundle create yolov8n.onnx --out models/yolov8n',
    )
    create.add_argument('model', type=Path, help='ONNX file')
    create.add_argument('--out', type=Path, required=True, help="bundle folder to make; its name becomes the bundle's")
    create.add_argument('--classes', type=_names, default=(), help='class names, comma separated, if the file has none')
    create.add_argument('--size', type=image_size, help='input size WIDTHxHEIGHT, if the network takes any')
    create.add_argument('--colour', choices=('rgb', 'bgr'), default='rgb', help='channel order (default: %(default)s)')
    create.add_argument(
        '--scale', type=float, default=255.0, help='pixel values are divided by this (default: %(default)s)'
    )
    create.add_argument('--precision', default='fp32', help='what the file is: fp32, int8, … (default: %(default)s)')
    create.add_argument('--licence', default='', help='licence of the weights, if the file does not say')
    create.add_argument('--score', type=float, default=0.25, help='score threshold (default: %(default)s)')
    create.add_argument('--iou', type=float, default=0.6, help='IoU threshold of NMS (default: %(default)s)')
    create.set_defaults(run=_create)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(',') if name.strip())


def _show(options: argparse.Namespace) -> int:
    bundle = load_bundle(find_bundle(options.bundle))
    spec = bundle.input
    print(f'{bundle.name}: {bundle.description}')
    print(f'  folder    {bundle.folder}')
    print(f'  license   {bundle.license}')
    print(f'  classes   {", ".join(bundle.classes)}')
    print(f'  input     {spec.width}x{spec.height} {spec.color} {spec.dtype} {spec.layout}, {spec.resize}')
    print(f'  output    {bundle.output.layout}, score ≥ {bundle.thresholds.score:g}, IoU {bundle.thresholds.iou:g}')
    print(f'  {"artifact":24}{"size":>10}{"mAP50":>8}{"mAP":>8}  hash')
    for artifact in bundle.artifacts:
        size = len(bundle.read(artifact))
        map50, map_ = (f'{artifact.metrics[key]:.3f}' if key in artifact.metrics else '–' for key in ('map50', 'map'))
        name = f'{artifact.engine}/{artifact.precision}'
        own = f', score ≥ {bundle.thresholds_of(artifact).score:g}' if artifact.thresholds else ''
        print(f'  {name:24}{size / 2**20:6.2f} MiB{map50:>8}{map_:>8}  {artifact.sha256[:12]}… verified{own}')
    return 0


def _create(options: argparse.Namespace) -> int:
    wanted = ImportOptions(
        classes=options.classes,
        size=options.size,
        colour=options.colour,
        scale=options.scale,
        precision=options.precision,
        licence=options.licence,
        thresholds={'score': options.score, 'iou': options.iou},
    )
    bundle = bundle_from_onnx(options.model, options.out, wanted)
    print(f'{bundle.folder}: {len(bundle.classes)} classes, {bundle.output.layout}; one frame ran through it.')
    print(f'ros2 launch kd_perception detector.launch.py model:={bundle.folder.resolve()}')
    return 0
