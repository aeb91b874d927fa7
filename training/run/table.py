"""The table of a recipe's stages: what each costs, what it detects, how quick it is, and a picture of both."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_perception.machine import host


@dataclass(frozen=True)
class StageRow:
    """One stage. Accuracies are shares 0 … 1, latencies medians in ms.

    Attributes:
        name: of the stage.
        parameters: of the network, batch norms folded.
        gflops: 2·MAC at the exported size.
        map50: by precision.
        map: mAP50-95 by precision.
        megabytes: of the ONNX file by precision.
        latency_ms: of one inference by precision, measured in turn with all other rows.
    """

    name: str
    parameters: int
    gflops: float
    map50: Mapping[str, float]
    map: Mapping[str, float]
    megabytes: Mapping[str, float]
    latency_ms: Mapping[str, float]


COLUMNS = (
    *('stage', 'parameters', 'GFLOPs'),
    *('mAP50 fp32', 'mAP50-95 fp32', 'mAP50 int8', 'mAP50-95 int8'),
    *('MB fp32', 'MB int8', 'ms fp32', 'ms int8', 'faster fp32', 'faster int8'),
)


def cells(row: StageRow, baseline: StageRow) -> list[str]:
    """A row as text; `faster` is against the baseline in FP32."""
    whole = baseline.latency_ms['fp32']
    share = row.parameters / baseline.parameters - 1
    return [
        row.name,
        f'{row.parameters / 1e6:.3f} M ({share:+.1%})' if row is not baseline else f'{row.parameters / 1e6:.3f} M',
        f'{row.gflops:.2f}',
        *(f'{100 * row.map50["fp32"]:.1f} {100 * row.map["fp32"]:.1f}'.split()),
        *(f'{100 * row.map50["int8"]:.1f} {100 * row.map["int8"]:.1f}'.split()),
        *(f'{row.megabytes[precision]:.2f}' for precision in ('fp32', 'int8')),
        *(f'{row.latency_ms[precision]:.1f}' for precision in ('fp32', 'int8')),
        *(f'{whole / row.latency_ms[precision]:.2f}×' for precision in ('fp32', 'int8')),
    ]


def write(folder: Path, rows: Sequence[StageRow], baseline: str, command: str, notes: str) -> None:
    """Write stages.md, stages.csv and stages.png."""
    base = next(row for row in rows if row.name == baseline)
    table = [cells(row, base) for row in rows]
    machine = host.describe()
    lines = [
        f'`{command}`',
        '',
        f'{machine["cpu"]}, {machine["cores"]} cores; {notes}. `faster` is against {baseline} in FP32.',
        '',
        '| ' + ' | '.join(COLUMNS) + ' |',
        '|---|' + '---:|' * (len(COLUMNS) - 1),
        *('| ' + ' | '.join(row) + ' |' for row in table),
    ]
    (folder / 'stages.md').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    with (folder / 'stages.csv').open('w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([COLUMNS, *table])
    draw(folder / 'stages.png', rows)


def draw(file: Path, rows: Sequence[StageRow]) -> None:
    """Accuracy over latency, both precisions of a stage joined by a line."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout='constrained')
    for number, row in enumerate(rows):
        points = [(row.latency_ms[precision], 100 * row.map50[precision]) for precision in ('fp32', 'int8')]
        color = f'C{number}'
        axes.plot(*zip(*points, strict=True), color=color, linewidth=1, label=row.name)
        axes.scatter(*points[0], color=color, marker='o')
        axes.scatter(*points[1], color=color, marker='s')
    axes.set(xlabel='CPU latency, median, ms (log)', ylabel='mAP50, %', xscale='log', title='○ FP32   □ INT8')
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
