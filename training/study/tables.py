"""Reports of a study: Markdown for people, CSV for programs; every seed of every arm is in both."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import StudyError
from training.schema import nearest
from training.study.paired import Failure, Outcome
from training.study.plan import Result, Study
from training.study.statistics import ABOVE, BELOW, Comparison, compare_all, mean_deviation, summarise

LOWER_IS_BETTER = ('_ms', '_seconds', '_mb', '_mib', 'loss', 'parameters', 'flops', 'd_ece', 'false_alarms', 'drop')
"""Metrics with such an ending are the better the lower they are."""


@dataclass(frozen=True)
class Report:
    """What is shown of a study.

    Attributes:
        title: headline of the page.
        arms: in the order of the tables.
        seeds: the columns.
        baseline: the arm that the others are compared with.
        metrics: in the order of the tables.
        results: of the finished cells.
        failures: of the others.
        comparisons: of every arm but the baseline in every metric.
        confidence: of the intervals.
        command: that made it.
    """

    title: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str
    metrics: tuple[str, ...]
    results: tuple[Result, ...]
    failures: tuple[Failure, ...]
    comparisons: tuple[Comparison, ...]
    confidence: float
    command: str

    def comparison(self, arm: str, metric: str) -> Comparison:
        """Of an arm with the baseline."""
        return next(item for item in self.comparisons if (item.arm, item.metric) == (arm, metric))


def make_report(
    study: Study,
    outcome: Outcome,
    title: str,
    metrics: Sequence[str] = (),
    confidence: float = 0.95,
    command: str = '',
) -> Report:
    """Compare all arms with the baseline.

    Args:
        study: the study.
        outcome: what its cells gave.
        title: headline.
        metrics: the ones to show; empty shows all.
        confidence: of the intervals.
        command: that made it.

    Raises:
        StudyError: no cell is done, or no cell has such a metric.
    """
    if not outcome.results:
        raise StudyError('no cell is done, so there is nothing to report')
    known = dict.fromkeys(name for result in outcome.results for name in result.metrics)
    for name in metrics:
        if name not in known:
            raise StudyError(f'no cell has a metric {name!r}{nearest(name, known)}; metrics are {", ".join(known)}')
    arms, shown = tuple(study.arms), tuple(metrics or known)
    comparisons = compare_all(outcome.results, arms, study.baseline, shown, study.seeds, confidence)
    return Report(
        title,
        arms,
        study.seeds,
        study.baseline,
        shown,
        outcome.results,
        outcome.failures,
        tuple(comparisons),
        confidence,
        command,
    )


def lower_is_better(metric: str) -> bool:
    """Whether a metric is a cost: a time, a size, an error."""
    return metric.lower().endswith(LOWER_IS_BETTER)


def is_winner(comparison: Comparison) -> bool:
    """Whether the arm beats the baseline, the whole interval on the better side of 0."""
    return comparison.verdict == (BELOW if lower_is_better(comparison.metric) else ABOVE)


def markdown(report: Report, pictures: Collection[str] = (), section: str = '') -> str:
    """The page: where it was run, a table for each metric, a section more, failures, pictures by their names beside it."""
    parts = [f'# {report.title}', header(report)]
    parts += [f'## {metric}\n\n{metric_table(report, metric)}' for metric in report.metrics]
    parts += [section] if section else []
    parts += [f'![{Path(name).stem.replace("_", " ")}]({name})' for name in pictures]
    if report.failures:
        parts.append('## Failed\n\n' + '\n'.join(f'- {_one_line(str(failure))}' for failure in report.failures))
    return '\n\n'.join(parts) + '\n'


def header(report: Report) -> str:
    """Where and with what the cells were run, and how to read the tables."""
    cells = len(report.arms) * len(report.seeds)
    seconds, _ = mean_deviation([result.seconds for result in report.results])
    lines = [f'{label}: {text}' for label, text in _circumstances(report.results).items()]
    lines.append(f'cells: {len(report.results)} of {cells}, {figure(seconds)} s each on average')
    note = (
        f'Differences are paired by seed against **{report.baseline}**; in brackets the {100 * report.confidence:g} % t '
        'interval of their mean. A ✔ stands only where that interval lies wholly on the better side of 0.'
    )
    parts = [f'`{report.command}`'] if report.command else []
    return '\n\n'.join([*parts, '\n'.join(f'- {line}' for line in lines), note])


def _circumstances(results: Sequence[Result]) -> dict[str, str]:
    """What all cells were run with; where they differ, each value is named with its number of cells."""
    found: dict[str, dict[str, int]] = {}
    for result in results:
        noted = result.circumstances
        machine = ', '.join(str(noted[key]) for key in ('gpu', 'cpu') if noted.get(key))
        threads = noted.get('threads')
        tools: Mapping[str, str] = noted.get('versions', {})
        for label, text in (
            ('machine', f'{machine}, {noted.get("cores")} cores' if machine else ''),
            ('threads of a cell', '' if threads is None else str(threads)),
            ('commit', str(noted.get('commit', ''))),
            ('versions', ', '.join(f'{name} {version}' for name, version in tools.items())),
        ):
            if text:
                counts = found.setdefault(label, {})
                counts[text] = counts.get(text, 0) + 1
    return {
        label: next(iter(counts))
        if len(counts) == 1
        else '; '.join(f'{text} ({number} of {len(results)})' for text, number in counts.items())
        for label, counts in found.items()
    }


def metric_table(report: Report, metric: str) -> str:
    """Rows are arms; columns the seeds, mean, deviation, paired difference with its interval, verdict."""
    head = ['arm', *(f'seed {seed}' for seed in report.seeds), 'mean', 'deviation']
    head += [f'− {report.baseline}', 'pairs', 'verdict']
    rows = [head, ['---', *['---:'] * (len(head) - 2), '---']]
    for arm in report.arms:
        summary = summarise(report.results, arm, metric)
        row = [arm, *(figure(summary.values.get(seed, math.nan)) for seed in report.seeds)]
        row += [figure(summary.mean), figure(summary.deviation)]
        rows.append(
            row + (['', '', 'baseline'] if arm == report.baseline else _against(report.comparison(arm, metric)))
        )
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)


def _against(comparison: Comparison) -> list[str]:
    pairs = str(len(comparison.differences))
    if comparison.missing:
        pairs += f' (without seed {", ".join(map(str, comparison.missing))})'
    if not comparison.differences:
        return ['–', pairs, 'no pairs']
    if len(comparison.differences) == 1:
        return [signed(comparison.mean), pairs, 'one pair: no interval']
    span = f'{signed(comparison.mean)} [{signed(comparison.lower)}, {signed(comparison.upper)}]'
    return [span, pairs, comparison.verdict + (' ✔' if is_winner(comparison) else '')]


def figure(value: float) -> str:
    """Four significant digits, large numbers whole; – where there is none."""
    if not math.isfinite(value):
        return '–'
    return f'{value:.0f}' if abs(value) >= 1000 else f'{value:.4g}'


def signed(value: float) -> str:
    """A difference with its sign, three significant digits."""
    if not math.isfinite(value):
        return '–'
    value = round(value, 12)  # a sum of differences that cancel leaves 1e-17
    text = f'{value:+.0f}' if abs(value) >= 1000 else f'{value:+.3g}'
    return text.replace('-', '−', 1)


def _one_line(text: str) -> str:
    return ' '.join(text.split())[:300]


def cells_csv(report: Report) -> str:
    """arm, seed, metric, value of every finished cell."""
    return _csv(
        ('arm', 'seed', 'metric', 'value'),
        [
            (result.arm, result.seed, metric, result.metrics.get(metric, math.nan))
            for metric in report.metrics
            for result in report.results
        ],
    )


def comparisons_csv(report: Report) -> str:
    """metric, arm, baseline, pairs, mean, deviation, lower, upper, confidence, verdict."""
    return _csv(
        ('metric', 'arm', 'baseline', 'pairs', 'mean', 'deviation', 'lower', 'upper', 'confidence', 'verdict'),
        [
            (
                *(item.metric, item.arm, item.baseline, len(item.differences)),
                *(item.mean, item.deviation, item.lower, item.upper, item.confidence, item.verdict),
            )
            for item in report.comparisons
        ],
    )


def _csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def write_report(report: Report, page: Path, pictures: Collection[str] = (), section: str = '') -> None:
    """Write the page, and beside it `<page>_cells.csv` and `<page>_comparisons.csv`."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(markdown(report, pictures, section), encoding='utf-8')
    for kind, text in (('cells', cells_csv(report)), ('comparisons', comparisons_csv(report))):
        page.with_name(f'{page.stem}_{kind}.csv').write_text(text, encoding='utf-8')
