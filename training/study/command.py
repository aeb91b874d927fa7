"""`python -m training study KIND`: experiments whose arms are paired by seed."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.commands import add_places, declare
from training.errors import StudyError
from training.run.overrides import add_overrides, overrides_of
from training.schema import nearest
from training.study.int8_command import add_int8
from training.study.plan import Job, Result, Study

EPILOG = """\
examples:
  python -m training study paired training/recipes/s4_small.yaml --seeds 0 1 2
  python -m training study kd-comparison training/recipes/s1_kd_comparison_small.yaml
  python -m training study int8 aerial_traffic --networks shipped=models/aerial_traffic
  python -m training study KIND --help                                       more of each
"""

PAIRED_EPILOG = """\
An arm is a set of changes to the recipe, named in its section `study`:

  study:
    baseline: plain
    arms:
      plain: {}
      cwd: {stages.distil.terms: [{loss: cwd, weight: 3}]}

Every arm is run with every seed; each cell is kept as it ends. Interrupted, killed or failed, the same command goes on with
what is missing, and so does one with more arms or seeds. The page is written anew each time.
Exit status: 0 all cells are done, 1 a cell failed, 130 interrupted.

examples:
  python -m training study paired training/recipes/s4_small.yaml --arms plain cwd logits --seeds 0 1 2
  python -m training study paired RECIPE --seeds 0 1 2 3 4 --workers 2 --metric map50 map --report docs/results/s4.md
  python -m training study paired RECIPE --resample 1000                     is it the test pictures' luck?
  python -m training study paired RECIPE --against gflops                    mAP over GFLOPs, the teachers beside the arms
  python -m training study paired RECIPE --scheduler tcp://10.0.0.5:8786     on a Dask cluster with the same paths
  python -m training study paired training/recipes/s2_aerial.yaml --rehearse  every arm in seconds: does all of it run?
  python -m training study paired RECIPE --dry-run                           what is done and what would be run
"""

KD_COMPARISON_EPILOG = """\
A teacher, a classifier, is trained once; every method then teaches every student with every seed, beside the student alone
(`plain`). Crops of detection sets are cut where the recipe asks for them. Each cell is kept as it ends: the same command goes
on with what is missing. The page shows top-1 of every seed, paired differences to plain with their intervals, accuracy drop
against size, and the choice: the smallest student whose drop is within the recipe's limit.

examples:
  python -m training study kd-comparison training/recipes/s1_kd_comparison_small.yaml --report docs/results/kd_comparison.md
  python -m training study kd-comparison RECIPE --students mobilenet_v2 --methods crd kd --seeds 0 1 2 3 4
  python -m training study kd-comparison RECIPE --workers 0 --cell-threads 1       short cells: spares starting processes
  python -m training study kd-comparison RECIPE --dry-run                          what is done and what would be run
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `study` and its kinds."""
    text = 'arms against a baseline, paired by seed, with intervals'
    kinds = declare(commands, 'study', text, EPILOG).add_subparsers(required=True, metavar='KIND')
    for add_kind in KINDS:
        add_kind(kinds)


def add_paired(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `study paired`."""
    text = 'run a recipe with different settings, every one with the same seeds'
    parser = declare(kinds, 'paired', text, PAIRED_EPILOG)
    parser.add_argument('recipe', type=Path, help='YAML file with a section `study`')
    parser.add_argument('--arms', nargs='+', metavar='ARM', help="the recipe's by default; the baseline always joins")
    parser.add_argument('--baseline', help="the recipe's by default")
    add_overrides(parser, 'change an entry of the recipe, in all arms')
    parser.add_argument(
        '--beside',
        nargs='+',
        type=Path,
        default=[],
        metavar='RECIPE',
        help='other recipes whose finished cells the pictures over a cost show too',
    )
    parser.add_argument(
        '--resample',
        type=int,
        default=0,
        metavar='N',
        help='also the interval of mAP50-95 over N samples of the test pictures; 1000 is usual, 0 leaves it out',
    )
    add_study_options(parser)
    parser.set_defaults(command=_run_paired)


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """Declare what every kind of study takes: seeds, where its cells run, what is shown, where files lie."""
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], metavar='N', help='0 1 2 by default')
    parser.add_argument(
        '--workers', type=int, help='cells at a time: physical cores or GPUs by default; 0 runs them in this process'
    )
    parser.add_argument(
        '--scheduler', default='', metavar='ADDRESS', help='of a Dask scheduler that runs the cells instead'
    )
    parser.add_argument(
        '--cell-threads', type=int, metavar='N', help="a cell's CPU threads; cores / workers by default"
    )
    parser.add_argument('--metric', nargs='+', default=[], metavar='NAME', help='metrics to show; all by default')
    parser.add_argument(
        '--against', metavar='COST', help='also plot every metric over this one: gflops, parameters, p50_ms …'
    )
    parser.add_argument('--confidence', type=float, default=0.95, help='of the intervals; %(default)s by default')
    parser.add_argument(
        '--report', type=Path, metavar='FILE.md', help="the page; report.md in the study's folder by default"
    )
    parser.add_argument('--dry-run', action='store_true', help='only say what is done and what is missing')
    add_places(parser)
    parser.set_defaults(threads=1)


def add_kd_comparison(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `study kd-comparison`."""
    text = 'methods of distilling a backbone as a classifier, on several students'
    parser = declare(kinds, 'kd-comparison', text, KD_COMPARISON_EPILOG)
    parser.add_argument('recipe', type=Path, help='YAML file, see training/recipes/s1_kd_comparison_small.yaml')
    parser.add_argument('--students', nargs='+', metavar='BACKBONE', help="the recipe's by default")
    parser.add_argument('--methods', nargs='+', metavar='METHOD', help="the recipe's by default; plain always joins")
    parser.add_argument(
        '--set', metavar='NAME=VALUE', action='append', default=[], help='change an entry of the recipe'
    )
    add_study_options(parser)
    parser.set_defaults(command=_run_kd_comparison)


def _run_kd_comparison(options: argparse.Namespace) -> int:
    from training.study.kd_page import run_comparison

    return run_comparison(options)


KINDS: list[Callable[[Any], None]] = [add_paired, add_kd_comparison, add_int8]
"""Each declares one kind of study; a new kind is one more."""


def _run_paired(options: argparse.Namespace) -> int:
    from training.study.recipe_cells import run_cell
    from training.study.running import run_study

    study = recipe_study(options, run_cell)
    title = f'{options.recipe.stem}: {", ".join(study.arms)}'
    beside, section = functools.partial(_beside, study, options), functools.partial(_over_pictures, study, options)
    return run_study(study, options, title, beside, section)


def _over_pictures(study: Study, options: argparse.Namespace, results: Sequence[Result]) -> str:
    """The page's section on the test pictures, where it is asked for."""
    from training.study.over_pictures import markdown, over_pictures

    if options.resample < 1:
        return ''
    intervals = over_pictures(study, results, options.resample, options.confidence)
    return markdown(intervals, study.baseline, options.resample, options.confidence)


def _beside(study: Study, options: argparse.Namespace) -> dict[str, list[Result]]:
    """What the picture over a cost shows beside the study's own arms: its teachers, and finished cells of other recipes."""
    from training.study.plan import read_result
    from training.study.plots import TEACHER
    from training.study.recipe_cells import teachers

    shown = {TEACHER: teachers(study, measure_files=options.against is not None)}
    for recipe in options.beside:
        asked = {'recipe': recipe, 'arms': None, 'baseline': None, 'set': []}
        other = recipe_study(argparse.Namespace(**{**vars(options), **asked}), study.job)
        found = (read_result(cell, lambda _: None) for cell in other.cells)
        shown[recipe.stem] = [result for result in found if result is not None]
        known = [teacher.metrics for teacher in shown[TEACHER]]
        more = teachers(other, measure_files=options.against is not None)
        shown[TEACHER] += [teacher for teacher in more if teacher.metrics not in known]
    return shown


def recipe_study(options: argparse.Namespace, job: Job) -> Study:
    """The study that the options ask for, its arms from the recipe's section `study`.

    Raises:
        RecipeError, StudyError: the recipe has no such section or no such arm.
    """
    from training.data.root import data_root
    from training.run.recipe import load_recipe

    common = overrides_of(options, options.recipe)
    recipe = load_recipe(options.recipe, common)
    if recipe.study is None:
        raise StudyError(f'{options.recipe} has no section `study` with arms: python -m training study paired --help')
    arms = {name: {**common, **changes} for name, changes in recipe.study.arms.items()}
    baseline = options.baseline or recipe.study.baseline
    names = list(dict.fromkeys(options.arms or arms))
    if baseline not in names:
        names.insert(0, baseline)
    for name in names:
        if name not in arms:
            raise StudyError(f'{options.recipe} has no arm {name!r}{nearest(name, arms)}; arms are {", ".join(arms)}')
        load_recipe(options.recipe, arms[name])  # an arm that cannot be is refused before hours of other cells
    return Study(
        folder=options.out / recipe.name / 'study',
        job=job,
        arms={name: {'overrides': arms[name]} for name in names},
        seeds=tuple(options.seeds),
        baseline=baseline,
        places={
            'recipe_file': str(options.recipe.resolve()),
            'data': str(data_root(options.data).resolve()),
            'out': str(options.out.resolve()),
        },
        depends_on=_settings_hash(options.recipe),
    )


def _settings_hash(recipe: Path) -> str:
    """Of all settings of a recipe but its arms: an arm more does not make the others anew, nor does a comment."""
    from training.data.sampling import NAMES, SESSIONS
    from training.run.document import read_document, with_weights

    document = with_weights(read_document(recipe))
    for name in ('arms', 'baseline'):
        document.get('study', {}).pop(name, None)
    # What all recipes did before there was a choice does not count; what is done without a word now, does.
    if document.setdefault('sample', SESSIONS) == NAMES:
        del document['sample']
    for stage in document.get('stages', {}).values():
        sparsity = stage.get('sparsity') if isinstance(stage, dict) else None
        if isinstance(sparsity, dict) and sparsity.setdefault('method', 'auto') == 'gradient':
            del sparsity['method']
    if revised := _revisions(document):
        document['revisions'] = revised
    return hashlib.sha256(json.dumps(document, default=str).encode()).hexdigest()


def _revisions(document: Any) -> dict[str, int]:
    """The losses of a recipe that compute otherwise than at first, see `DistillationLoss`."""
    from training.distill.losses import LOSSES

    if isinstance(document, dict):
        named = document.get('loss')
        own = {named: LOSSES[named].revision} if named in LOSSES and LOSSES[named].revision else {}
        return {**own, **_revisions(list(document.values()))}
    found: dict[str, int] = {}
    for part in document if isinstance(document, list) else []:
        found |= _revisions(part)
    return found
