"""`python -m training`: from a recipe to a model bundle."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Idle OpenMP threads that spin take the cores from the working ones. Set before numpy and torch load theirs.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ.setdefault('GOMP_SPINCOUNT', '0')

from kd_perception.core.bundle import load_bundle
from kd_perception.core.errors import KdPerceptionError
from training.errors import TrainingError
from training.recipe import data_root, load_recipe

EPILOG = """\
examples:
  python -m training run training/recipes/aerial_traffic.yaml         all, from photographs to models/aerial_traffic
  python -m training quantize training/recipes/aerial_traffic.yaml    one stage; what it needs must have been made
  python -m training measure models/aerial_traffic aerial_traffic     mAP, precision, recall on a data set

Stages run in the order prepare, train, export, quantize, bundle. A stage that was done with the same settings is left
out, so an interrupted run continues where it stopped; --again repeats it. Working files lie in
out/training/<recipe's name>.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault('YOLO_CONFIG_DIR', str(options.out.resolve() / 'ultralytics'))
    os.environ['OMP_NUM_THREADS'] = str(options.threads)
    try:
        return int(options.command(options))
    except (KdPerceptionError, TrainingError) as error:
        print(f'training: {error}', file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        'python -m training', description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    stages = {
        'run': 'all stages of a recipe in order',
        'prepare': 'cut tiles from the photographs, draw synthetic scenes',
        'train': 'train phase after phase',
        'export': 'write the float ONNX network and compare it with torch',
        'quantize': 'write the INT8 network',
        'bundle': 'measure both on the validation photographs and write the bundle',
    }
    for name, text in stages.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument('recipe', type=Path, help='YAML file, see training/recipes')
        command.add_argument('--target', type=Path, help="the bundle's folder; models/<name> by default")
        command.add_argument('--again', action='store_true', help='also where it was done with the same settings')
        command.set_defaults(command=_run_stages, stage=name)
        _common(command)
    text = 'measure a bundle on a data set, through the runtime that the robot uses'
    command = commands.add_parser('measure', help=text, description=text)
    command.add_argument('bundle', type=Path, help='folder of the bundle')
    command.add_argument('dataset', type=Path, help='folder with images/ and labels/, or its name in the data root')
    command.add_argument('--precision', default='auto', help="of the artifact; the bundle's first by default")
    command.add_argument('--split', default='val', help='val by default')
    command.set_defaults(command=_measure)
    _common(command)
    return parser


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument('--data', type=Path, help='data root; $KD_DATA or ../shared/data by default')
    command.add_argument('--out', type=Path, default=Path('out/training'), help='working files; %(default)s by default')
    command.add_argument('--threads', type=int, default=1, help='CPU threads; %(default)s by default')


def _run_stages(options: argparse.Namespace) -> int:
    from training import stages

    recipe = load_recipe(options.recipe)
    target = options.target or Path('models') / recipe.name
    shop = stages.Workshop(recipe, data_root(options.data), options.out / recipe.name, target)
    names = list(stages.STAGES) if options.stage == 'run' else [options.stage]
    stages.run(shop, names, again=options.again)
    return 0


def _measure(options: argparse.Namespace) -> int:
    from training.measure import measure_bundle

    bundle = load_bundle(options.bundle)
    dataset = options.dataset if (options.dataset / 'images').is_dir() else data_root(options.data) / options.dataset
    print(measure_bundle(bundle, options.precision, dataset, options.split, threads=options.threads))
    return 0


if __name__ == '__main__':
    sys.exit(main())
