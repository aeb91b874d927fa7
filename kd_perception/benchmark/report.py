"""The benchmark's results as JSON, as a Markdown table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kd_perception.benchmark.measure import Effort, Row
from kd_perception.machine import host
from kd_perception.selection import selection

HEAD = (
    *('model', 'engine', 'precision', 'threads', 'p50 ms', 'p95 ms', 'p99 ms', 'frames/s', 'memory MB', 'mJ/frame'),
    *('mAP50-95', 'FP32 detections found', 'more', 'score off by', 'lowest IoU'),
)


def as_json(
    rows: Sequence[Row], absent: Mapping[str, str], images: Mapping[str, Any], effort: Effort
) -> dict[str, Any]:
    """Everything that was measured, and on what."""
    return {
        'machine': {**host.describe(), 'gpus': host.gpus()},
        'images': dict(images),
        'effort': asdict(effort),
        'engines_absent': dict(absent),
        'rows': [_row(row) for row in rows],
    }


def _row(row: Row) -> dict[str, Any]:
    configuration = row.configuration
    return {
        'model': configuration.bundle.name,
        'engine': configuration.engine,
        'artifact': configuration.artifact.precision,
        'precision': configuration.precision,
        'threads': configuration.threads,
        'sha256': configuration.artifact.sha256,
        'map': configuration.artifact.measured_map,
        'fault': row.fault,
        'versions': row.outcomes[0].info['versions'] if row.outcomes else {},
        'provider': row.outcomes[0].info['provider'] if row.outcomes else '',
        **row.figures(),
        'parity': None if row.parity is None else asdict(row.parity),
    }


def markdown(document: Mapping[str, Any]) -> str:
    """A table for people, the quickest first and what could not run last; written from the JSON alone."""
    ran = sorted((row for row in document['rows'] if not row['fault']), key=lambda row: (row['model'], row['p95_ms']))
    faults = [row for row in document['rows'] if row['fault']]
    machine, effort, images = document['machine'], document['effort'], document['images']
    versions = {name: version for row in ran for name, version in row['versions'].items()}
    lines = [
        '# Benchmark',
        '',
        f'{machine["cpu"]}, {machine["cores"]} cores, {machine["system"]}, Python {machine["python"]}, '
        f'{", ".join(f"{name} {version}" for name, version in versions.items())}; '
        f'{images["count"]} images ({images["source"]}), {effort["rounds"]} rounds of up to {effort["frames"]} frames, '
        f'each in a process of its own. Times are preprocess + infer + postprocess of one frame.',
        '',
        f'| {" | ".join(HEAD)} |',
        f'|{" --- |" * len(HEAD)}',
        *(f'| {" | ".join(_cells(row))} |' for row in ran),
    ]
    if any(row['parity'] for row in ran):
        lines += [
            '',
            'FP32 detections found: how many detections of FP32 on ONNX Runtime, at the bundle’s threshold, have a counterpart '
            'of the same class with an IoU of at least 0.5; more: detections without one; score off by, lowest IoU: the worst '
            'of the counterparts.',
        ]
    reasons = [f'{_name(row)}: {row["fault"]}' for row in faults] + list(document['engines_absent'].values())
    if reasons:
        lines += ['', 'Could not run:', '', *(f'- {reason}' for reason in dict.fromkeys(reasons))]
    return '\n'.join(lines) + '\n'


def _name(row: Mapping[str, Any]) -> str:
    return f'{row["model"]} {precision_text(row)} on {row["engine"]}'


def precision_text(row: Mapping[str, Any]) -> str:
    """The artifact's precision, and the engine's where it is another one."""
    return selection.precision_text(str(row['artifact']), str(row['precision']))


def _cells(row: Mapping[str, Any]) -> list[str]:
    energy, accuracy, parity = row['energy_mj_per_frame'], row['map'], row['parity']
    cells = [row['model'], row['engine'], precision_text(row), str(row['threads'])]
    cells += [f'{row[key]:.1f}' for key in ('p50_ms', 'p95_ms', 'p99_ms', 'frames_per_s')]
    cells += [f'{row["memory_mb"]:.0f}', '–' if energy is None else f'{energy:.0f}']
    cells.append('–' if accuracy is None else f'{accuracy:.3f}')
    if parity is None:
        return [*cells, '–', '–', '–', '–']
    found = f'{parity["reference"] - parity["missing"]} of {parity["reference"]}'
    return [*cells, found, str(parity['extra']), f'{parity["worst_score"]:.3f}', f'{parity["worst_iou"]:.3f}']
