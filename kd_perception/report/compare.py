"""Several reports in one table and one Pareto picture, and what makes them incomparable."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_perception.errors import KdPerceptionError
from kd_perception.regular_file import read_regular
from kd_perception.report.figures import FIGURES

MAX_REPORT_BYTES = 256 << 20
SCHEMA_FILE = Path(__file__).with_name('report.schema.json')


@dataclass(frozen=True)
class Report:
    """A report and what to call it here."""

    name: str
    content: dict[str, Any]

    def figure(self, key: str) -> float | None:
        """A figure by its name in `FIGURES`; None where the report does not have it."""
        value: Any = self.content
        for step in FIGURES[key]:
            value = value.get(step) if isinstance(value, dict) else None
        return None if value is None else float(value)

    @property
    def model(self) -> str:
        """Bundle and precision."""
        return f'{self.content["bundle"]["name"]} {self.content["bundle"]["precision"]}'

    @property
    def host(self) -> str:
        """The machine, and how many threads it gave to the engine."""
        host, threads = self.content['host'], self.content['bundle'].get('threads')
        power = '' if host['power_mode'] in ('not reported', 'not told') else f', {host["power_mode"]}'
        return f'{host["cpu"]}, {host["cores"]} cores{power}' + (f', engine threads {threads}' if threads else '')


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        title: its heading.
        key: name of the figure in `FIGURES`.
        form: how a figure is written.
        best: the better of two figures: `max` or `min`.
    """

    title: str
    key: str
    form: str
    best: Callable[..., float]


COLUMNS = (
    Column('AP50', 'map50', '.3f', max),
    Column('AP50-95', 'map', '.3f', max),
    Column('sAP50-95', 'sap', '.3f', max),
    Column('p50 ms', 'p50_ms', '.1f', min),
    Column('p95 ms', 'p95_ms', '.1f', min),
    Column('p99 ms', 'p99_ms', '.1f', min),
    Column('frames/s', 'fps', '.1f', max),
    Column('false/image', 'false_alarms', '.2f', min),
    Column('D-ECE', 'd_ece', '.3f', min),
)


@dataclass(frozen=True)
class Cell:
    """A figure as it is written, and whether none beats it."""

    text: str
    value: float | None
    best: bool


def read_reports(paths: Sequence[Path]) -> list[Report]:
    """Reports under names that tell them apart.

    Raises:
        KdPerceptionError: one cannot be read or is no report.
    """
    files = [path / 'report.json' if path.is_dir() else path for path in paths]
    names = [file.parent.resolve().name if file.name == 'report.json' else file.stem for file in files]
    return [
        Report(name if names.count(name) == 1 else str(path), _read(file))
        for name, path, file in zip(names, paths, files, strict=True)
    ]


def _read(file: Path) -> dict[str, Any]:
    import jsonschema

    if not file.exists():
        raise KdPerceptionError(f'{file}: not there; `kd_perception evaluate` writes it')
    try:
        content: dict[str, Any] = json.loads(
            read_regular(file, MAX_REPORT_BYTES, KdPerceptionError), object_hook=_without_drawings
        )
        jsonschema.validate(content, json.loads(SCHEMA_FILE.read_text(encoding='utf-8')))
    except (ValueError, RecursionError) as error:
        raise KdPerceptionError(f'{file} cannot be read: {error}') from error
    except jsonschema.ValidationError as error:
        where = '.'.join(str(step) for step in error.absolute_path) or 'top level'
        raise KdPerceptionError(f'{file} is no report of ours: {where}: {error.message[:200]}') from error
    return content


def _without_drawings(entry: dict[str, Any]) -> dict[str, Any]:
    """Curves and timelines are nearly all of a report, are not compared, and would take seconds to check."""
    return {key: [] if key in ('curve', 'timeline') else value for key, value in entry.items()}


def differences(reports: Sequence[Report]) -> list[str]:
    """What differs between the reports besides the detector, and which figures it makes incomparable."""
    tests: tuple[tuple[Callable[[Report], Any], str], ...] = (
        (_bags, 'the bags differ: no figure can be compared'),
        (_judged, 'the ground truth differs: accuracies cannot be compared'),
        (lambda r: r.content['bundle']['classes'], 'the classes differ: their mean accuracies cannot be compared'),
        (lambda r: r.host, 'the machines or thread counts differ: latencies cannot be compared'),
        (_streaming, 'some are streamed otherwise (mode, rate, source of latencies): sAP cannot be compared'),
    )
    return [words for key, words in tests if any(key(report) != key(reports[0]) for report in reports)]


def _bags(report: Report) -> list[str]:
    return sorted(bag['sha256'] + bag['topic'] for bag in report.content['bags'])


def _judged(report: Report) -> tuple[int, int] | None:
    accuracy = report.content['accuracy']
    return (accuracy['images'], accuracy['objects']) if accuracy else None


def _streaming(report: Report) -> tuple[float, str] | None:
    streaming = report.content['streaming']
    return (streaming['rate'], streaming['latency_source']) if streaming else None


def table(reports: Sequence[Report]) -> list[list[Cell]]:
    """A row of cells per report, in the order of `COLUMNS`."""
    columns = []
    for column in COLUMNS:
        values = [report.figure(column.key) for report in reports]
        known = [value for value in values if value is not None]
        best = column.best(known) if len(known) > 1 else None
        columns.append([_cell(value, column.form, value is not None and value == best) for value in values])
    return [list(row) for row in zip(*columns, strict=True)]


def _cell(value: float | None, form: str, best: bool) -> Cell:
    return Cell('–' if value is None else format(value, form), value, best)


def as_text(reports: Sequence[Report]) -> str:
    """The table for a terminal; `*` marks the best of a column."""
    heading = ['report', 'bundle', *(column.title for column in COLUMNS)]
    rows = [
        [report.name, report.model, *(cell.text + ('*' if cell.best else ' ') for cell in cells)]
        for report, cells in zip(reports, table(reports), strict=True)
    ]
    widths = [max(len(row[i]) for row in [heading, *rows]) for i in range(len(heading))]
    forms = [f'{{:{"<" if i < 2 else ">"}{width}}}' for i, width in enumerate(widths)]
    lines = ['  '.join(forms).format(*row) for row in [heading, *rows]]
    hosts = {report.host: None for report in reports}
    if len(hosts) == 1:
        lines.append(f'host: {next(iter(hosts))}')
    else:
        lines += [f'host of {report.name}: {report.host}' for report in reports]
    return '\n'.join(line.rstrip() for line in lines)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (latency, accuracy) that no other beats in one and equals or beats in the other.

    Returns:
        by rising latency.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        beaten = front and points[i][1] <= points[front[-1]][1] and points[i] != points[front[-1]]
        if not beaten:
            front.append(i)
    return front


def write_comparison(reports: Sequence[Report], warnings: Sequence[str], path: Path) -> None:
    """Write the comparison for people, into a folder that is made if need be.

    Raises:
        KdPerceptionError: the file cannot be written.
    """
    from kd_perception.report import charts
    from kd_perception.report.html import render
    from kd_perception.whole_file import write_whole

    points = [
        (report.name, latency, accuracy)
        for report in reports
        if (latency := report.figure('p95_ms')) is not None and (accuracy := report.figure('map')) is not None
    ]
    front = pareto_front([(latency, accuracy) for _, latency, accuracy in points])
    page = render(
        'compare.html',
        title='Comparison',
        columns=COLUMNS,
        rows=list(zip(reports, table(reports), strict=True)),
        warnings=warnings,
        picture=charts.pareto(points, front, 'AP50-95') if points else '',
        front=[points[i][0] for i in front],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
