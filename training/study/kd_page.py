"""A comparison of distillation methods, student by student, and its page: tables, accuracy drop over size, the choice."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from training.data.crops import folder_name
from training.data.root import data_root
from training.errors import StudyError
from training.run.document import parse_overrides
from training.schema import counted, nearest
from training.steps import Steps
from training.study.kd_comparison import PLAIN, Comparison, ComparisonRecipe, load_comparison, longer_arm, run_cell
from training.study.paired import Outcome
from training.study.plan import Study, read_result
from training.study.plots import plot_paired, save_figure
from training.study.running import run_study
from training.study.statistics import summarise
from training.study.tables import Report, cells_csv, figure, header, make_report, metric_table, signed


def run_comparison(options: argparse.Namespace) -> int:
    """What `python -m training study kd-comparison` does; returns the exit status."""
    overrides = parse_overrides(options.set)
    recipe = chosen(load_comparison(options.recipe, overrides), options.students, options.methods)
    studies = {student: student_study(recipe, student, overrides, options) for student in recipe.students}
    status = 0
    for student, study in studies.items():
        title = f'{recipe.name}: {student}'
        status = max(status, run_study(study, _without_report(options), title))
        if status == 130:
            return status
    if options.dry_run:
        return status
    steps = Steps(options.out / recipe.name)
    comparison = Comparison(recipe, data_root(options.data).resolve(), steps)
    page = options.report or options.out / recipe.name / 'kd_comparison.md'
    command = shlex.join(['python', '-m', 'training', *sys.argv[1:]])
    reports = {student: student_report(study, options, command) for student, study in studies.items()}
    write_page(recipe, reports, steps.made(comparison.teacher()), page)
    print(f'written: {page}')
    return status


def chosen(recipe: ComparisonRecipe, students: Sequence[str] | None, methods: Sequence[str] | None) -> ComparisonRecipe:
    """The recipe with some of its students and methods.

    Raises:
        StudyError: one that it does not have.
    """
    for name, known in [
        *((name, recipe.students) for name in students or ()),
        *((n, recipe.methods) for n in methods or ()),
    ]:
        if name not in known and name != PLAIN:
            raise StudyError(f'the recipe has no {name!r}{nearest(name, list(known))}; it has {", ".join(known)}')
    kept = {name: item for name, item in recipe.methods.items() if methods is None or name in methods}
    return replace(recipe, students=tuple(students or recipe.students), methods=kept)


def student_study(
    recipe: ComparisonRecipe, student: str, overrides: Mapping[str, Any], options: argparse.Namespace
) -> Study:
    """All methods of one student, against the student alone."""
    arms: dict[str, Any] = {PLAIN: {'student': student, 'method': None}}
    arms |= {longer_arm(factor): {**arms[PLAIN], 'longer': factor} for factor in recipe.longer}
    arms |= {name: {'student': student, 'method': counted(method)} for name, method in recipe.methods.items()}
    same = replace(
        recipe, name='', students=('mobilenet_v2',), methods={}, largest_drop=0.0, keep_answers=False, longer=()
    )
    shared = counted(same)
    return Study(
        folder=options.out / recipe.name / 'study' / folder_name(student),
        job=run_cell,
        arms=arms,
        seeds=tuple(options.seeds),
        baseline=PLAIN,
        places={
            'recipe_file': str(options.recipe.resolve()),
            'overrides': dict(overrides),
            'data': str(data_root(options.data).resolve()),
            'out': str(options.out.resolve()),
        },
        depends_on=hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest(),
    )


def _without_report(options: argparse.Namespace) -> argparse.Namespace:
    """Each student's own page stays in its folder."""
    return argparse.Namespace(**{**vars(options), 'report': None})


def student_report(study: Study, options: argparse.Namespace, command: str) -> Report:
    """Of the cells that are done."""
    results = tuple(result for cell in study.cells if (result := read_result(cell, lambda _: None)) is not None)
    return make_report(study, Outcome(results, ()), study.folder.name, (), options.confidence, command)


@dataclass(frozen=True)
class Candidate:
    """A student taught in one way.

    Attributes:
        student: its backbone.
        method: the arm.
        drop: of top-1 from the teacher's, a share, mean over the seeds.
        spread: the lowest and the highest seed's.
        mib: size of the backbone in float32.
    """

    student: str
    method: str
    drop: float
    spread: tuple[float, float]
    mib: float


def candidates(reports: Mapping[str, Report]) -> list[Candidate]:
    """Every arm that has a result."""
    found = []
    for student, report in reports.items():
        for method in report.arms:
            drop, size = (summarise(report.results, method, metric) for metric in ('drop', 'mib'))
            values = [value for value in drop.values.values() if math.isfinite(value)]
            if values:
                found.append(Candidate(student, method, drop.mean, (min(values), max(values)), size.mean))
    return found


def choose(among: Sequence[Candidate], largest_drop: float) -> Candidate:
    """The smallest one whose drop is within the limit, of equal ones the one with the least drop; else the one with the least."""
    within = [item for item in among if item.drop <= largest_drop]
    return min(within, key=lambda item: (item.mib, item.drop)) if within else min(among, key=lambda item: item.drop)


def write_page(recipe: ComparisonRecipe, reports: Mapping[str, Report], teacher: Mapping[str, Any], page: Path) -> None:
    """The page, its pictures and `<page>_<student>_cells.csv` beside it."""
    page.parent.mkdir(parents=True, exist_ok=True)
    every = candidates(reports)
    taught = {name for name, method in recipe.methods.items() if method.teacher_control == 'none'}
    best = choose([item for item in every if item.method in {PLAIN, *taught}], recipe.largest_drop)
    first = next(iter(reports.values()))
    joint = replace(first, results=tuple(result for report in reports.values() for result in report.results))
    joint = replace(joint, arms=tuple(f'{student} {arm}' for student, report in reports.items() for arm in report.arms))
    parts = [f'# {recipe.name}: {len(recipe.methods)} methods of distilling a backbone as a classifier', header(joint)]
    parts.append(
        f'Teacher: {recipe.teacher.backbone}, {teacher["mib"]:.1f} MiB, top-1 {teacher["top1"]:.3f} on {teacher["pictures"]} '
        f'pictures of {", ".join(recipe.measured)}; always naming the most frequent class gives {teacher["guess"]:.3f}.'
    )
    for student, report in reports.items():
        picture = page.with_name(f'{page.stem}_{folder_name(student)}')
        plot_paired(report, 'top1', picture)
        parts.append(f'## {student}\n\ntop-1:\n\n{metric_table(report, "top1")}\n\n![{student}]({picture.name}.png)')
        page.with_name(f'{page.stem}_{folder_name(student)}_cells.csv').write_text(cells_csv(report), encoding='utf-8')
    drop = page.with_name(f'{page.stem}_drop_over_size')
    plot_drop(every, recipe.largest_drop, drop)
    parts.append(
        f'## Accuracy drop against size\n\n![drop of top-1 over MiB]({drop.name}.png)\n\n{_choice(best, recipe)}'
    )
    page.write_text('\n\n'.join(parts) + '\n', encoding='utf-8')


def _choice(best: Candidate, recipe: ComparisonRecipe) -> str:
    rule = f'The rule: the smallest student whose top-1 drops by at most {100 * recipe.largest_drop:g} points from the teacher.'
    outcome = f'**{best.student} with {best.method}**, {figure(best.mib)} MiB, drop {signed(100 * best.drop)} points'
    if best.drop > recipe.largest_drop:
        return f'{rule} None is within it; the least drop has {outcome}.'
    return f'{rule} Chosen: {outcome}.'


def plot_drop(among: Sequence[Candidate], largest_drop: float, file: Path) -> list[Path]:
    """Drop of top-1 over size: a column of dots for each student, named at its right.

    Returns:
        The PNG and the SVG.
    """
    drawing = Figure(figsize=(8, 6), layout='constrained')
    axes: Any = drawing.subplots()
    low, high = min(item.drop for item in among), max(item.drop for item in among)
    widest = max(item.mib for item in among)
    for number, student in enumerate(dict.fromkeys(item.student for item in among)):
        column = sorted((item for item in among if item.student == student), key=lambda item: item.drop)
        size, color = column[0].mib, f'C{number}'
        axes.plot([size] * len(column), [100 * item.drop for item in column], 'o', color=color, label=student)
        for place, item in enumerate(column):
            height = low + (high - low) * (place + 0.5) / len(column)
            weight = 'bold' if item.method in (PLAIN, 'crd') else 'normal'
            axes.annotate(
                f'{item.method} {100 * item.drop:+.1f}',
                (size, 100 * item.drop),
                xytext=(size + 0.05 * widest, 100 * height),
                fontsize=8,
                fontweight=weight,
                va='center',
                arrowprops={'arrowstyle': '-', 'color': color, 'alpha': 0.4, 'linewidth': 0.6},
            )
    axes.axhline(100 * largest_drop, color='black', linewidth=0.8, linestyle='--', label='limit of the choice')
    axes.margins(x=0.3)
    axes.set_xlabel('backbone, MiB in float32')
    axes.set_ylabel('drop of top-1 from the teacher, points')
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small')
    return save_figure(drawing, file)
