"""The INT8 study from its command to its page: tables of networks by arms, paired differences, two pictures."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from training.data.root import data_root, data_set
from training.errors import StudyError
from training.run.overrides import overrides_of
from training.schema import nearest
from training.study.int8 import FLOAT, Measuring, Network, arms_of, networks_of, study_of
from training.study.paired import Failure, Outcome, missing_cells, run
from training.study.plan import Cell, Result, Study
from training.study.plots import save_figure
from training.study.recipe_cells import cell_bundle, cell_weights
from training.study.statistics import compare, mean_deviation, values_of
from training.study.tables import Report, cells_csv, figure, header, is_winner, lower_is_better, signed

TITLES = {
    'map50': 'mAP50',
    'map': 'mAP50-95',
    'map_drop': 'Relative loss of mAP50-95 against the same network in FP32',
    'precision_at_recall': 'Precision at recall {recall:g}',
    'at_recall_false_alarms': 'False alarms per image at recall {recall:g}, which a threshold of its own gives each precision',
    'precision': 'Precision at the float threshold',
    'recall': 'Recall at the float threshold',
    'false_alarms': 'False alarms per image at the float threshold',
    'd_ece': 'Detection calibration error (D-ECE)',
    'file_mib': 'File, MiB',
}
COMPARED = ('map', 'map_drop', 'precision_at_recall', 'at_recall_false_alarms', 'd_ece')
"""Metrics in which networks are compared with the baseline."""


@dataclass(frozen=True)
class Findings:
    """What the cells gave.

    Attributes:
        results: of the finished cells by network, `map_drop` among their metrics.
        failures: of the others, by network.
        measuring: how they were made.
        baseline: the network that the others are compared with.
        confidence: of the intervals.
    """

    results: Mapping[str, Sequence[Result]]
    failures: Mapping[str, Sequence[Failure]]
    measuring: Measuring
    baseline: str
    confidence: float = 0.95

    @property
    def arms(self) -> list[str]:
        """Those that any network has, in their own order."""
        present = {result.arm for results in self.results.values() for result in results}
        return [arm for arm in arms_of(1) if arm in present]


def run_int8(options: argparse.Namespace) -> int:
    """What `python -m training study int8` does; returns the exit status."""
    dataset = data_set(options.dataset, options.data)
    measuring = Measuring(dataset, options.split, options.images, options.recall, options.mixed_layers)
    networks = networks_of(*_given(options))
    names = list(dict.fromkeys(network.name for network in networks))
    baseline = options.baseline or names[0]
    if baseline not in names:
        raise StudyError(
            f'the baseline {baseline!r} is no network{nearest(baseline, names)}; networks are {", ".join(names)}'
        )
    folder = options.out / f'int8_{dataset.name}'
    studies = [(network, study_of(network, measuring, folder, options.arms)) for network in networks]
    if options.dry_run:
        return _show_plan(studies)
    try:
        outcomes = _run_all(studies, options)
    except KeyboardInterrupt:
        print('\ninterrupted; the same command goes on', file=sys.stderr)
        return 130
    findings = collect(names, [(network.name, outcome) for network, outcome in outcomes], measuring, baseline)
    findings = replace(findings, confidence=options.confidence)
    for name, failures in findings.failures.items():
        for failure in failures:
            print(f'training: {name}: {failure}\n{failure.detail}', file=sys.stderr)
    if not findings.arms:
        return 1
    page = options.report or folder / 'int8.md'
    write_page(findings, page, shlex.join(['python', '-m', 'training', *sys.argv[1:]]))
    print(f'{network_table(findings, "map")}\n\nwritten: {os.path.relpath(page)}')
    return 1 if any(findings.failures.values()) else 0


def _given(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Bundles and weights of QAT as `networks_of` takes them, `NAME=RECIPE.yaml` replaced by the cells of that arm.

    Raises:
        StudyError: no such arm or stage, or a cell that was not run.
        RecipeError: the file is no recipe with a study.
    """
    bundles, weights = [], list(options.qat)
    for text in options.networks:
        name, _, path = text.partition('=')
        if not path.endswith('.yaml') or '@' in name:
            bundles.append(text)
            continue
        place = {'out': options.out, 'data': data_root(options.data), 'common': overrides_of(options, Path(path))}
        for seed in dict.fromkeys(options.seeds):
            bundles.append(f'{name}@{seed}={cell_bundle(Path(path), name, seed, **place)}')
            if options.qat_stage:
                trained = cell_weights(Path(path), name, options.qat_stage, seed, **place)
                weights.append(f'{name}@{seed}={trained}')
    return bundles, weights


def _show_plan(studies: Sequence[tuple[Network, Study]]) -> int:
    for network, study in studies:
        missing = {cell.name for cell in missing_cells(study)}
        for cell in study.cells:
            print(f'{"to do" if cell.name in missing else "done":6}{network.name} {cell.name}')
    return 0


def _run_all(studies: Sequence[tuple[Network, Study]], options: argparse.Namespace) -> list[tuple[Network, Outcome]]:
    total = sum(len(study.cells) for _, study in studies)
    done = total - sum(len(missing_cells(study, lambda _: None)) for _, study in studies)
    outcomes = []
    with tqdm(total=total, initial=done, unit='cell', disable=None, dynamic_ncols=True) as bar:

        def count(cell: Cell, failure: Failure | None) -> None:
            bar.update(failure is None)

        for network, study in studies:
            bar.set_description(f'{network.name} {network.seed}')
            say = lambda line: bar.write(line, file=sys.stderr)  # noqa: E731
            outcomes.append((network, run(study, options.workers, '', options.cell_threads, count, say)))
    return outcomes


def collect(
    names: Sequence[str], outcomes: Sequence[tuple[str, Outcome]], measuring: Measuring, baseline: str
) -> Findings:
    """The cells by network; each with its loss against the float network of its seed."""
    results: dict[str, list[Result]] = {name: [] for name in names}
    failures: dict[str, list[Failure]] = {name: [] for name in names}
    for name, outcome in outcomes:
        reference = next((result.metrics['map'] for result in outcome.results if result.arm == FLOAT), math.nan)
        for result in outcome.results:
            drop = 1 - result.metrics['map'] / reference if reference else math.nan
            results[name].append(replace(result, metrics={**result.metrics, 'map_drop': drop}))
        failures[name] += outcome.failures
    return Findings(results, failures, measuring, baseline)


def network_table(findings: Findings, metric: str) -> str:
    """Rows are arms, columns networks: mean over the seeds, with the deviation where there are several."""
    rows = [['arm', *findings.results], ['---', *['---:'] * len(findings.results)]]
    for arm in findings.arms:
        row = [arm]
        for results in findings.results.values():
            values = values_of(results, arm, metric)
            mean, deviation = mean_deviation([value for value in values.values() if math.isfinite(value)])
            row.append(figure(mean) + (f' ± {figure(deviation)}' if math.isfinite(deviation) else ''))
        rows.append(row)
    return _markdown(rows)


def difference_table(findings: Findings, metric: str) -> str:
    """Every other network minus the baseline in the same arm, paired by seed, with the interval of the mean."""
    head = ['arm', 'network', f'− {findings.baseline}', 'pairs', 'verdict']
    rows = [head, ['---', '---', '---:', '---:', '---']]
    for arm in findings.arms:
        for name in findings.results:
            if name == findings.baseline:
                continue
            ours, theirs = (values_of(findings.results[label], arm, metric) for label in (name, findings.baseline))
            found = compare(name, findings.baseline, metric, ours, theirs, findings.confidence)
            if not found.differences:
                continue
            span, verdict = signed(found.mean), 'one pair: no interval'
            if len(found.differences) > 1:
                span += f' [{signed(found.lower)}, {signed(found.upper)}]'
                verdict = found.verdict + (' ✔' if is_winner(found) else '')
            rows.append([arm, name, span, str(len(found.differences)), verdict])
    return _markdown(rows) if len(rows) > 2 else ''


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)


def write_page(findings: Findings, page: Path, command: str) -> None:
    """The page, `<page>_cells.csv`, and the pictures `<page>_precision_recall` and `<page>_reliability`."""
    page.parent.mkdir(parents=True, exist_ok=True)
    report = _report(findings, command)
    parts = [f'# {report.title}', _header(report)]
    for metric, title in TITLES.items():
        better = 'Lower' if lower_is_better(metric) else 'Higher'
        parts.append(f'## {title.format(recall=findings.measuring.recall)}\n\n{network_table(findings, metric)}')
        parts[-1] += f'\n\n{better} is better.'
        if metric in COMPARED and (table := difference_table(findings, metric)):
            parts.append(f'Paired by seed against **{findings.baseline}** in the same arm:\n\n{table}')
    for name, draw in (('precision_recall', plot_curves), ('reliability', plot_reliability)):
        picture = draw(findings, page.with_name(f'{page.stem}_{name}'))[0]
        parts.append(f'![{name.replace("_", " ")}]({picture.name})')
    failed = [f'- {name}: {failure}' for name, failures in findings.failures.items() for failure in failures]
    if failed:
        parts.append('## Failed\n\n' + '\n'.join(' '.join(line.split())[:300] for line in failed))
    page.write_text('\n\n'.join(parts) + '\n', encoding='utf-8')
    page.with_name(f'{page.stem}_cells.csv').write_text(cells_csv(report), encoding='utf-8')


def _report(findings: Findings, command: str) -> Report:
    """All cells as one list, networks and arms together in their names."""
    joint = tuple(
        replace(result, arm=f'{name} {result.arm}') for name, results in findings.results.items() for result in results
    )
    failed = tuple(failure for failures in findings.failures.values() for failure in failures)
    return Report(
        title=f'INT8 on {findings.measuring.dataset.name}/{findings.measuring.split}',
        arms=(*(f'{result.arm} {result.seed}' for result in joint), *map(str, failed)),
        seeds=(0,),  # networks have different seeds: every cell counts as an arm of its own
        baseline=findings.baseline,
        metrics=tuple(TITLES),
        results=joint,
        failures=failed,
        comparisons=(),
        confidence=findings.confidence,
        command=command,
    )


def _header(report: Report) -> str:
    """Of the study's pages, with a word on what is missing."""
    return (
        f'{header(report)}\n\nMeans over the seeds, ± their deviation; – where a figure does not exist, as precision at a recall '
        'that no threshold reaches.'
    )


def plot_curves(findings: Findings, file: Path) -> list[Path]:
    """Precision over recall, a column for each network's first seed: the float network black, INT8 in colours."""
    drawing, columns = _columns(findings)
    for axes, (_, first) in columns:
        for number, result in enumerate(first):
            curve = result.notes['curve']
            axes.plot([row[0] for row in curve], [row[1] for row in curve], **_style(result, number), label=result.arm)
        axes.set_xlabel('recall')
        axes.set_xlim(0, 1.02)
        axes.axvline(findings.measuring.recall, color='grey', linewidth=0.6, linestyle=':')
    columns[0][0].set_ylabel('precision')
    columns[0][0].legend(fontsize='x-small')
    return save_figure(drawing, file)


def plot_reliability(findings: Findings, file: Path) -> list[Path]:
    """Precision over score in bins, likewise. On the diagonal a score is the probability to be right."""
    drawing, columns = _columns(findings)
    for axes, (_, first) in columns:
        axes.plot([0, 1], [0, 1], color='grey', linewidth=0.6, linestyle=':')
        for number, result in enumerate(first):
            bins = result.notes['bins']
            points = [one['mean_score'] for one in bins], [one['precision'] for one in bins]
            label = f'{result.arm}, D-ECE {100 * result.metrics["d_ece"]:.1f} %'
            axes.plot(*points, marker='.', **_style(result, number), label=label)
        axes.set_xlabel('score')
        axes.set_xlim(0, 1.02)
        axes.legend(fontsize='x-small')
    columns[0][0].set_ylabel('precision')
    return save_figure(drawing, file)


def _columns(findings: Findings) -> tuple[Figure, list[tuple[Any, tuple[str, list[Result]]]]]:
    shown = [(name, results) for name, results in findings.results.items() if results]
    drawing = Figure(figsize=(1 + 4.2 * len(shown), 4.4), layout='constrained')
    columns: list[tuple[Any, tuple[str, list[Result]]]] = []
    for axes, (name, results) in zip(drawing.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        seed = min(result.seed for result in results)
        axes.set_title(f'{name}, seed {seed}')
        axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.3)
        columns.append((axes, (name, [result for result in results if result.seed == seed])))
    return drawing, columns


def _style(result: Result, number: int) -> dict[str, Any]:
    if result.arm == FLOAT:
        return {'color': 'black', 'linewidth': 2}
    return {'color': f'C{number}', 'linewidth': 1, 'alpha': 0.85}
