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

from training.study.statistics import ABOVE, BELOW, summarise
from training.study.tables import Report, lower_is_better

GOOD, BAD, OPEN = '#1b7f3b', '#b3261e', '#666666'
"""Colours of a difference: shown for the better, shown for the worse, not shown."""


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
    colours = {better: GOOD, worse: BAD}
    for arm in report.arms:
        if arm == report.baseline:
            continue
        comparison = report.comparison(arm, metric)
        dots = list(comparison.differences.values())
        axes.plot(dots, [rows[arm] + 0.18] * len(dots), '.', color=OPEN, alpha=0.6)
        if len(dots) > 1:
            colour = colours.get(comparison.verdict, OPEN)
            reach = [[comparison.mean - comparison.lower], [comparison.upper - comparison.mean]]
            axes.errorbar(comparison.mean, rows[arm], xerr=reach, fmt='o', color=colour, capsize=4)
    axes.axvline(0, color='black', linewidth=0.8)
    axes.set_xlabel(f'difference to {report.baseline}, {100 * report.confidence:g} % t interval of the mean')
    axes.grid(axis='x', alpha=0.3)


@dataclass(frozen=True)
class Point:
    """One thing in a picture of accuracy against cost.

    Attributes:
        name: written beside the dot.
        cost: size, time or FLOPs.
        accuracy: its figure, such as a mean over seeds, or a drop of it.
        lower: of the accuracy's interval; equal to `accuracy` where there is none.
        upper: of the same.
        group: dots of one group share a colour; the legend names it.
    """

    name: str
    cost: float
    accuracy: float
    lower: float
    upper: float
    group: str = ''


def points_of(report: Report, cost: str, accuracy: str) -> list[Point]:
    """Every arm at its means over the seeds, with the spread from the lowest to the highest seed."""
    points = []
    for arm in report.arms:
        x, y = summarise(report.results, arm, cost).mean, summarise(report.results, arm, accuracy)
        finite = [value for value in y.values.values() if math.isfinite(value)]
        if finite and math.isfinite(x):
            points.append(Point(arm, x, y.mean, min(finite), max(finite)))
    return points


def plot_tradeoff(
    points: Sequence[Point], cost: str, accuracy: str, file: Path, *, lower_accuracy_is_better: bool = False
) -> list[Path]:
    """Accuracy (or its drop) over size, latency or FLOPs; the line joins what nothing else beats in both.

    Args:
        points: what is shown.
        cost: label of the cost; less is better. Its axis is logarithmic where the costs span a factor of ten.
        accuracy: label of the accuracy.
        file: without ending; `.png` and `.svg` are written.
        lower_accuracy_is_better: the figure is a drop or an error.

    Returns:
        The two files.
    """
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes: Any = figure.subplots()
    for group in dict.fromkeys(point.group for point in points):
        members = [point for point in points if point.group == group]
        middle = [point.accuracy for point in members]
        reach = [
            [point.accuracy - point.lower for point in members],
            [point.upper - point.accuracy for point in members],
        ]
        axes.errorbar([point.cost for point in members], middle, yerr=reach, fmt='o', capsize=3, label=group or None)
    for point in points:
        axes.annotate(point.name, (point.cost, point.accuracy), xytext=(6, 4), textcoords='offset points', fontsize=8)
    edge = front(points, lower_accuracy_is_better=lower_accuracy_is_better)
    axes.plot([p.cost for p in edge], [p.accuracy for p in edge], '--', color=OPEN, linewidth=0.8, zorder=0)
    costs = [point.cost for point in points]
    if min(costs) > 0 and max(costs) >= 10 * min(costs):
        axes.set_xscale('log')
    axes.margins(x=0.15)  # room for the names
    axes.set_xlabel(cost)
    axes.set_ylabel(accuracy)
    axes.grid(alpha=0.3)
    if any(point.group for point in points):
        axes.legend(fontsize='small')
    return save_figure(figure, file)


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
