"""Running a study for its command: the missing cells with a progress bar, then the page with its pictures and tables."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from training.study.plan import Cell, Result, Study

if TYPE_CHECKING:
    from training.study.paired import Failure
    from training.study.tables import Report

DEFAULT_COST = 'gflops'
"""Over which accuracy is plotted unasked, where networks differ in it."""


def run_study(
    study: Study,
    options: argparse.Namespace,
    title: str,
    beside: Callable[[], Mapping[str, Sequence[Result]]] = dict,
    section: Callable[[Sequence[Result]], str] = lambda results: '',
) -> int:
    """Run what is missing with a progress bar, write the page with its pictures, print the tables; returns the exit status.

    Args:
        beside: what else the pictures over a cost show, by group; asked once all cells are done.
        section: what else the page says of the finished cells, Markdown.
    """
    from training.study.paired import missing_cells, run
    from training.study.tables import make_report

    if options.dry_run:
        return _show_plan(study)
    with closing(_Bar(study)) as bar:
        try:
            outcome = run(study, options.workers, options.scheduler, options.cell_threads, bar.done, bar.say)
        except KeyboardInterrupt:
            left = len(missing_cells(study, lambda _: None))
            print(
                f'\ninterrupted with {left} of {len(study.cells)} cells to do; the same command goes on',
                file=sys.stderr,
            )
            return 130
    for failure in outcome.failures:
        print(f'training: {failure}\n{failure.detail}', file=sys.stderr)
    if not outcome.results:
        return 1
    command = shlex.join(['python', '-m', 'training', *sys.argv[1:]])
    report = make_report(study, outcome, title, options.metric, options.confidence, command)
    page = options.report or study.folder / 'report.md'
    _publish(report, page, options.against, beside(), section(outcome.results))
    return 1 if outcome.failures else 0


def _show_plan(study: Study) -> int:
    from training.study.paired import missing_cells

    missing = {cell.name for cell in missing_cells(study)}
    for cell in study.cells:
        print(f'{"to do" if cell.name in missing else "done":6}{cell.name}')
    print(f'{len(missing)} of {len(study.cells)} cells to do, baseline {study.baseline}, in {study.folder}')
    return 0


def _publish(
    report: Report, page: Path, cost: str | None, beside: Mapping[str, Sequence[Result]], section: str
) -> None:
    from training.study.tables import metric_table, write_report

    pictures = [file.name for file in _pictures(report, page, cost, beside) if file.suffix == '.png']
    write_report(report, page, pictures, section)
    for metric in report.metrics:
        print(f'{metric}\n{metric_table(report, metric)}\n')
    if section:
        print(f'{section}\n')
    print(f'written: {os.path.relpath(page)}')


def _pictures(report: Report, page: Path, asked: str | None, beside: Mapping[str, Sequence[Result]]) -> Iterator[Path]:
    from training.study.plots import plot_paired, plot_tradeoff, points_of
    from training.study.tables import lower_is_better

    for metric in report.metrics:
        name = f'{page.stem}_{_file_name(metric)}'
        yield from plot_paired(report, metric, page.with_name(name))
        cost = asked or DEFAULT_COST
        groups = {'': report.results, **beside}
        points = [point for group, results in groups.items() for point in points_of(results, cost, metric, group)]
        differ = len({point.cost for point in points}) > 1
        if cost != metric and (differ or (asked and points)):
            file = page.with_name(f'{name}_over_{_file_name(cost)}')
            yield from plot_tradeoff(points, cost, metric, file, lower_accuracy_is_better=lower_is_better(metric))


def _file_name(metric: str) -> str:
    return ''.join(letter if letter.isalnum() or letter in '_-' else '_' for letter in metric)


class _Bar:
    """Progress over the cells, in a log a line for each; what failed is reported at once."""

    def __init__(self, study: Study) -> None:
        from tqdm import tqdm

        from training.study.paired import missing_cells

        self._total = len(study.cells)
        self._left = self._to_do = len(missing_cells(study, lambda _: None))
        self._started = time.monotonic()
        initial = self._total - self._left
        self._bar = tqdm(total=self._total, initial=initial, unit='cell', disable=None, dynamic_ncols=True)

    def done(self, cell: Cell, failure: Failure | None) -> None:
        self._left -= 1
        if failure:
            self.say(f'failed: {failure}')
            return
        self._bar.update(1)
        if self._bar.disable:
            minutes = (time.monotonic() - self._started) / (self._to_do - self._left) * self._left / 60
            self.say(f'{cell.name} done, {self._left} of {self._total} cells to do, about {minutes:.0f} minutes')

    def say(self, line: str) -> None:
        self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
