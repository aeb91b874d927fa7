"""`python -m training run`: a recipe from its pictures to its bundle."""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.commands import declare
from training.data.root import data_root
from training.errors import RecipeError
from training.run.overrides import add_overrides, overrides_of
from training.steps import Alone, Processes, Step, Steps, in_order

if TYPE_CHECKING:
    from training.run.plan import Plan
    from training.run.recipe import Recipe

EPILOG = """\
examples:
  python -m training run training/recipes/s4_small.yaml                       all, from photographs to a bundle
  python -m training run training/recipes/s4_small.yaml --dry-run             what would be done, data, memory, hours
  python -m training run training/recipes/s3_aerial.yaml --rehearse           does all of it run? a minute
  python -m training run training/recipes/s4_small.yaml --until pruned        the stages up to this one
  python -m training run training/recipes/s4_small.yaml --set stages.teacher.fit.epochs=5
  python -m training run training/recipes/s4_small.yaml --again distilled     make a stage again from nothing

A step whose inputs (settings, data, the steps before) have not changed is not made again, so an interrupted run continues
where it stopped, in the middle of a training too. Working files lie in out/training/<name of the recipe>, one folder a step.
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command."""
    text = 'make all of a recipe: data, weights stage by stage, ONNX, INT8, measurements, bundle and report'
    parser = declare(commands, 'run', text, EPILOG)
    parser.add_argument('recipe', type=Path, help='YAML file, see training/recipes')
    parser.add_argument('--target', type=Path, help="the bundle's folder; models/<name> by default")
    parser.add_argument('--until', metavar='STAGE', help='stop behind the weights of this stage')
    parser.add_argument('--again', metavar='STAGE', action='append', default=[], help='make it again, and what follows')
    add_overrides(parser)
    parser.add_argument(
        '--dry-run', action='store_true', help='print the plan only: steps, data, memory and hours; needs no data'
    )
    parser.set_defaults(command=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the recipe as the options say; under torchrun each of its processes comes here."""
    if int(os.environ.get('WORLD_SIZE', '1')) == 1 or options.dry_run:
        return _run(options, Alone())
    from training.fit.processes import joined

    with joined() as group:
        return _run(options, group)


def _run(options: argparse.Namespace, processes: Processes) -> int:
    from training.run.plan import Plan
    from training.run.recipe import load_recipe

    recipe = load_recipe(options.recipe, overrides_of(options, options.recipe))
    say = functools.partial(print, flush=True) if processes.first else _say_nothing
    maker = Steps(options.out / recipe.name, say, processes)
    plan = Plan(recipe, _data(options), maker, planning=options.dry_run)
    for name in [*options.again, *filter(None, [options.until])]:
        if name not in recipe.stages:
            raise RecipeError(f'there is no stage {name!r}; stages are {", ".join(recipe.stages)}')
    steps = in_order([plan.weights(options.until)]) if options.until else plan.all()
    if options.dry_run:
        say(f'{listed(maker, steps)}\n\n{estimate(recipe, plan.data)}')
        return 0
    processes.first_does(lambda: _forget(plan, options.again, steps))
    for number, step in enumerate(steps, 1):
        if processes.first_does(lambda step=step: maker.result(step) is not None):
            say(f'[{number}/{len(steps)}] {step.name}: done before with the same inputs')
        else:
            say(f'[{number}/{len(steps)}]', end=' ')
            maker.made(step)
    if not options.until:
        processes.first_does(lambda: _hand_over(plan, options.target or Path('models') / recipe.bundle_name))
    return 0


def _data(options: argparse.Namespace) -> Path:
    """The data root; a plan needs none."""
    try:
        return data_root(options.data)
    except RecipeError:
        if not options.dry_run:
            raise
        return options.data or Path(os.environ.get('KD_DATA') or '../shared/data')


def _forget(plan: Plan, stages: list[str], among: list[Step]) -> None:
    for name in stages:
        plan.steps.forget(plan.weights(name), among)


def _say_nothing(*_: object, **__: object) -> None:
    """What the first process says is enough."""


def _hand_over(plan: Plan, target: Path) -> None:
    """Put bundle and weights where users look for them, and show the report."""
    plan.publish(target)
    plan.leave_weights()
    report = plan.steps.folder(plan.report())
    print((report / 'stages.md').read_text(encoding='utf-8'))
    print(f'bundle: {target}\nreport: {report}')


def listed(maker: Steps, steps: list[Step]) -> str:
    """A line for each step: whether it was done, and in which folder."""
    lines = [
        f'{number:3d}  {"done" if maker.result(step) is not None else "to do":5}  {step.name:28}  {maker.folder(step)}'
        for number, step in enumerate(steps, 1)
    ]
    return '\n'.join(lines)


def estimate(recipe: Recipe, data: Path) -> str:
    """The data that a recipe needs, and what its stages will take on this machine."""
    import torch

    from training.run.estimate import data_needed, stages

    needed = data_needed(recipe, data)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f'{torch.get_num_threads()} CPU thread(s)'
    lines = ['Data needed:', *(f'  {item}' for item in needed)]
    lines += [f'Training, by one timed batch on {where}:', *(f'  {item}' for item in stages(recipe, needed))]
    return '\n'.join(lines)
