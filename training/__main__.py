"""`python -m training`: from a recipe to a model bundle."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Idle OpenMP threads that spin take the cores from the working ones. Set before numpy and torch load theirs.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ.setdefault('GOMP_SPINCOUNT', '0')

from kd_perception.bundles.bundle import BUNDLE_FILE, load_bundle
from kd_perception.cli.console import guard
from kd_perception.detection.tiles import OFF, OVERLAP, parse
from kd_perception.errors import BundleError, KdPerceptionError
from kd_perception.machine.cores import physical_cores
from training.commands import add_dataset, add_places, declare
from training.data import prepare_command
from training.errors import FirstProcessFailed, Interrupted, TrainingError
from training.export import regroup_command
from training.prune import sensitivity_command as prune_sensitivity_command
from training.quantize import arms_command, quantize_command, sensitivity_command, thresholds_command
from training.run import command as run_command
from training.study import command as study_command

EPILOG = """\
examples:
  python -m training run training/recipes/s4_small.yaml               a recipe, from photographs to a bundle
  python -m training prepare my_photos --format yolo --check          what is wrong with a data set; --out converts it
  python -m training measure models/aerial_traffic aerial_traffic     mAP, precision, recall of a bundle on a data set
  python -m training study paired training/recipes/s4_aerial.yaml     arms against a baseline, paired by seed
  python -m training COMMAND --help                                   more of each
"""
MEASURE_EPILOG = """\
examples:
  python -m training measure models/aerial_traffic aerial_traffic                      its first artifact, on val
  python -m training measure models/mine my_photos --precision fp32 --split test
  python -m training measure models/mine my_photos --tiles 2x2+whole                   small objects in large images
  python -m training measure models/mine my_photos --precision int8 --write            what the accuracy gate judges by

A compressed artifact is compared with the bundle's fp32 artifact on the same images, with a 95 % interval.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault('YOLO_CONFIG_DIR', str(options.out.resolve() / 'ultralytics'))
    _limit_threads(options.threads)
    try:
        return int(options.command(options))
    except FirstProcessFailed:
        return 0  # or torchrun would end the first process before it says what was wrong
    except (KdPerceptionError, TrainingError) as error:
        print(f'training: {error}', file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    except KeyboardInterrupt:
        print('training: interrupted; the same command goes on from there', file=sys.stderr)
        return 130


def _limit_threads(count: int) -> None:
    """Of torch and OpenCV here, and of the processes that are started."""
    import cv2
    import torch

    os.environ['OMP_NUM_THREADS'] = str(count)
    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def _usual_threads() -> int:
    """More threads than the user left to this program would make it slower: they wait for each other."""
    given = os.environ.get('OMP_NUM_THREADS', '')
    return int(given) if given.isdecimal() and int(given) else physical_cores()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        'python -m training', description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    _common(run_command.add_parser(commands))
    prepare_command.add_parser(commands)
    study_command.add_parser(commands)
    _common(quantize_command.add_parser(commands))
    _common(sensitivity_command.add_parser(commands))
    _common(arms_command.add_parser(commands))
    _common(thresholds_command.add_parser(commands))
    _common(prune_sensitivity_command.add_parser(commands))
    _common(regroup_command.add_parser(commands))
    text = 'measure a bundle on a data set, through the runtime that the robot uses'
    command = declare(commands, 'measure', text, MEASURE_EPILOG)
    command.add_argument('bundle', type=Path, help='folder of the bundle')
    add_dataset(command)
    command.add_argument('--precision', default='auto', help="of the artifact; the bundle's first by default")
    command.add_argument('--split', default='val', help='val by default')
    command.add_argument(
        '--tiles', default=OFF, help='see images in tiles: 2x2, 2x2+whole, auto; %(default)s by default'
    )
    command.add_argument('--tile-overlap', type=float, default=OVERLAP, help='share of a tile; %(default)s by default')
    command.add_argument('--protocol', default='coco', help="coco or visdrone, VisDrone's own rules; coco by default")
    command.add_argument('--write', action='store_true', help="keep the figures as the artifact's in bundle.yaml")
    command.set_defaults(command=_measure)
    _common(command)
    return parser


def _common(command: argparse.ArgumentParser) -> None:
    add_places(command)
    command.add_argument(
        '--threads',
        type=int,
        default=_usual_threads(),
        help='CPU threads; $OMP_NUM_THREADS, else one per physical core, by default: %(default)s here',
    )


def _measure(options: argparse.Namespace) -> int:
    from training.data.root import data_set
    from training.measure import float_bundle, measure_artifact, write_measured

    if options.write and options.tiles != OFF:
        raise BundleError('a bundle states what whole frames give: --write goes without --tiles')
    bundle = load_bundle(options.bundle)
    artifact = bundle.artifact('onnxruntime', options.precision)
    dataset = data_set(options.dataset, options.data)
    measured = measure_artifact(
        bundle,
        artifact,
        dataset,
        options.split,
        threads=options.threads,
        tiling=parse(options.tiles, options.tile_overlap),
        against=float_bundle(bundle, artifact),
        protocol=options.protocol,
    )
    print(measured)
    if options.write:
        # No folder of this machine goes into a bundle.
        called = options.dataset.name if options.dataset.is_absolute() else str(options.dataset)
        write_measured(bundle, artifact, measured, called, options.split, options.protocol)
        print(f'written to {bundle.folder / BUNDLE_FILE}')
    return 0


if __name__ == '__main__':
    sys.exit(guard('training', main))
