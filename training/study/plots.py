"""Pictures of a study: every seed of every arm with paired differences, and accuracy against a cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from training.study.plan import Result
from training.study.statistics import ABOVE, BELOW, summarise, values_of
from training.study.tables import Report, lower_is_better

GOOD, BAD, OPEN = '#1b7f3b', '#b3261e', '#666666'
"""Colours of a difference: shown for the better, shown for the worse, not shown."""
TEACHER = 'teacher'
MARKERS = 'os^vP*'
"""Of the arms of a study, and of those of other studies beside it."""
DOT = 10
"""Printer's points from one dot to the next."""


def plot_paired(report: Report, metric: str, file: Path) -> list[Path]:
    """Left every seed as a line over the arms, right the mean difference to the baseline with its interval.

    Args:
        report: what is shown.
        metric: one of its metrics.
        file: without ending; `.png` and `.svg` are written.

    Returns:
        The two files.
    """
    figure = Figure(figsize=(9, 1.8 + 0.45 * len(report.arms)), layout='constrained')
    values, differences = figure.subplots(1, 2, sharey=True)
    rows = {arm: len(report.arms) - number for number, arm in enumerate(report.arms)}
    _draw_seeds(values, report, metric, rows)
    _draw_differences(differences, report, metric, rows)
    values.set_yticks(list(rows.values()), list(rows))
    values.set_ylim(0.4, len(rows) + 0.6)
    figure.suptitle(f'{metric}: {len(report.seeds)} seeds, differences paired by seed')
    return save_figure(figure, file)


def _draw_seeds(axes: Any, report: Report, metric: str, rows: Mapping[str, int]) -> None:
    by_arm = {arm: summarise(report.results, arm, metric) for arm in report.arms}
    for seed in report.seeds:
        points = [(by_arm[arm].values.get(seed, math.nan), rows[arm]) for arm in report.arms]
        axes.plot(*zip(*points, strict=True), 'o-', linewidth=0.8, markersize=5, alpha=0.75, label=f'seed {seed}')
    means = [(by_arm[arm].mean, rows[arm]) for arm in report.arms]
    axes.scatter(*zip(*means, strict=True), marker='|', color='black', s=300, linewidth=2, label='mean')
    axes.set_xlabel(metric)
    axes.grid(axis='x', alpha=0.3)
    if len(report.seeds) <= 6:
        axes.legend(fontsize='x-small', markerscale=0.6)


def _draw_differences(axes: Any, report: Report, metric: str, rows: Mapping[str, int]) -> None:
    better, worse = (BELOW, ABOVE) if lower_is_better(metric) else (ABOVE, BELOW)
    colors = {better: GOOD, worse: BAD}
    for arm in report.arms:
        if arm == report.baseline:
            continue
        comparison = report.comparison(arm, metric)
        dots = list(comparison.differences.values())
        axes.plot(dots, [rows[arm] + 0.18] * len(dots), '.', color=OPEN, alpha=0.6)
        if len(dots) > 1:
            color = colors.get(comparison.verdict, OPEN)
            reach = [[comparison.mean - comparison.lower], [comparison.upper - comparison.mean]]
            axes.errorbar(comparison.mean, rows[arm], xerr=reach, fmt='o', color=color, capsize=4)
    axes.axvline(0, color='black', linewidth=0.8)
    axes.set_xlabel(f'difference to {report.baseline}, {100 * report.confidence:g} % t interval of the mean')
    axes.grid(axis='x', alpha=0.3)


@dataclass(frozen=True)
class Point:
    """One thing in a picture of accuracy against cost.

    Attributes:
        name: in the legend; of a teacher, beside its dot.
        cost: size, time or FLOPs.
        values: its accuracy, or a drop of it, with each seed.
        group: dots of one group share a marker: arms of the study, `TEACHER`, or another study's name.
    """

    name: str
    cost: float
    values: tuple[float, ...]
    group: str = ''

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return math.fsum(self.values) / len(self.values)


def points_of(results: Sequence[Result], cost: str, accuracy: str, group: str = '') -> list[Point]:
    """Every arm that has both figures, at its mean cost."""
    points = []
    for arm in dict.fromkeys(result.arm for result in results):
        x = summarise(results, arm, cost).mean
        values = tuple(value for value in values_of(results, arm, accuracy).values() if math.isfinite(value))
        if values and math.isfinite(x):
            points.append(Point(arm, x, values, group))
    return points


def plot_tradeoff(
    points: Sequence[Point], cost: str, accuracy: str, file: Path, *, lower_accuracy_is_better: bool = False
) -> list[Path]:
    """Accuracy (or its drop) over size, latency or FLOPs: seeds faint, means strong; the line joins what nothing beats in both.

    Dots of one cost stand side by side, so that none hides another.

    Args:
        points: what is shown.
        cost: label of the cost; less is better. Its axis is logarithmic where the costs span a factor of ten.
        accuracy: label of the accuracy.
        file: without ending; `.png` and `.svg` are written.
        lower_accuracy_is_better: the figure is a drop or an error.

    Returns:
        The two files.
    """
    figure = Figure(figsize=(8, 4.5), layout='constrained')
    axes: Any = figure.subplots()
    edge = front(points, lower_accuracy_is_better=lower_accuracy_is_better)
    axes.plot([p.cost for p in edge], [p.accuracy for p in edge], '--', color=OPEN, linewidth=0.8, zorder=0)
    axes.update_datalim([(point.cost, value) for point in points for value in point.values])
    groups = [group for group in dict.fromkeys(point.group for point in points) if group != TEACHER]
    for number, (point, aside) in enumerate(zip(points, _side_by_side(points), strict=True)):
        place = axes.transData + ScaledTranslation(aside / 72, 0, figure.dpi_scale_trans)
        look, label = {'marker': 'D', 'color': 'black'}, None
        if point.group == TEACHER:
            beside = {'xytext': (-8, 3), 'textcoords': 'offset points', 'ha': 'right'}
            axes.annotate(point.name, (point.cost, point.accuracy), fontsize=8, **beside)
        else:
            look = {'marker': MARKERS[groups.index(point.group) % len(MARKERS)], 'color': f'C{number % 10}'}
            label = ': '.join(filter(None, [point.group, point.name]))
        axes.scatter([point.cost] * len(point.values), point.values, s=18, alpha=0.3, transform=place, **look)
        axes.scatter([point.cost], [point.accuracy], s=60, transform=place, label=label, **look)
    costs = [point.cost for point in points]
    if min(costs) > 0 and max(costs) >= 10 * min(costs):
        axes.set_xscale('log')
    axes.margins(0.15)  # room for the names
    axes.autoscale_view()
    axes.set_xlabel(cost)
    axes.set_ylabel(accuracy)
    axes.grid(alpha=0.3)
    figure.legend(loc='outside right upper', fontsize='small')
    return save_figure(figure, file)


def _side_by_side(points: Sequence[Point]) -> list[float]:
    """How far each dot stands aside, in printer's points: those of one cost lie around it."""
    columns = [[other for other in points if math.isclose(other.cost, point.cost, rel_tol=0.01)] for point in points]
    return [DOT * (column.index(point) - (len(column) - 1) / 2) for point, column in zip(points, columns, strict=True)]


def front(points: Sequence[Point], *, lower_accuracy_is_better: bool = False) -> list[Point]:
    """The points that no other one beats in cost and accuracy, by rising cost (the Pareto front)."""
    sign = -1 if lower_accuracy_is_better else 1
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -sign * p.accuracy)):
        if not best or sign * point.accuracy > sign * best[-1].accuracy:
            best.append(point)
    return best


def save_figure(figure: Figure, file: Path) -> list[Path]:
    """As PNG and SVG; the same picture gives the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    files = [file.with_name(f'{file.name}.{ending}') for ending in ('png', 'svg')]
    with matplotlib.rc_context({'svg.hashsalt': 'study'}):
        figure.savefig(files[0], dpi=120, metadata={'Software': None})
        figure.savefig(files[1], metadata={'Date': None})
    return files
