"""The measurements as a markdown table beside the targets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

OVERHEAD_TARGETS_MS = {(640, 480): 3.0, (1920, 1080): 12.0}
CORE_TARGET_MS = 0.6
LAUNCH_TARGET_S = 2.0
MEMORY_TARGET_MB = 300.0
INFER_LIMIT_MS = 25.0
ENGINE_SHARE_TARGET = 0.9
READING_TARGET_FPS = 500.0


def markdown(results: dict[str, Any]) -> str:
    """All parts that were measured, one table each, after a line about the machine."""
    parts = [machine_line(results['machine'])]
    if 'core_path' in results:
        parts.append(_core_path(results['core_path']))
    if 'detector' in results:
        parts.append(_detector(results['detector']))
    if 'evaluation' in results:
        parts.append(_evaluation(results['evaluation']))
    if 'node' in results:
        parts.append(_node(results['node']))
    if 'soak' in results:
        parts.append(_soak(results['soak']))
    return '\n\n'.join(parts)


def publish(name: str, results: dict[str, Any], text: str, folder: Path) -> None:
    """Leave the results as `<name>.json` and their page as `<name>.md` in the folder, and print the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{name}.json').write_text(json.dumps(results, indent=1) + '\n')
    (folder / f'{name}.md').write_text(text + '\n')
    print(text)


def machine_line(machine: dict[str, Any]) -> str:
    """The machine, the versions and the load in one line."""
    versions = ', '.join(f'{name} {version}' for name, version in machine['versions'].items())
    return (
        f'{machine["cpu"]}, {machine["cores"]} cores, {machine["memory_gb"]} GB, {machine["system"]}, '
        f'Python {machine["python"]}, {versions}; load average before: {machine["load_average_before"][0]}'
    )


def _core_path(core: dict[str, Any]) -> str:
    rows = [
        (pair['work'], f'{pair["core_ms"]:.3f}', f'{pair["plain_ms"]:.3f}', f'{pair["ratio"]:.1f}')
        for pair in core['pairs']
    ]
    total = core['core_sum_ms']
    verdict = f'{total:.3f} ({_met(total <= CORE_TARGET_MS)} ≤ {CORE_TARGET_MS})'
    rows.append(('sum', verdict, f'{core["plain_sum_ms"]:.3f}', f'{core["plain_sum_ms"] / total:.1f}'))
    title = f'Core path, {_size(core["source"])} → {_size(core["input"])}, '
    title += f'{core["candidates"]} candidates of which {core["above_threshold"]} are above the threshold; medians'
    return f'**{title}**\n\n' + table(('work', 'core ms', 'plain float path ms', 'times quicker'), rows)


def _detector(rows: list[dict[str, Any]]) -> str:
    head = (
        'engine',
        'precision',
        'threads',
        'image',
        'preprocess ms',
        'infer ms',
        'postprocess ms',
        'total ms',
        'total p95 ms',
    )
    keys = ('preprocess_ms', 'infer_ms', 'postprocess_ms', 'total_ms', 'total_p95_ms')
    body = [
        (row['engine'], row['precision'], str(row['threads']), _size(row['size']), *(f'{row[key]:.2f}' for key in keys))
        for row in rows
    ]
    return '**Detector without ROS, medians**\n\n' + table(head, body)


def _evaluation(row: dict[str, Any]) -> str:
    share, reading = row['share_of_engine'], row['reading_fps']
    head = (
        *('image', 'precision', 'reading fps', 'engine alone fps', 'evaluate fps', 'share of the engine'),
        *('peak MB', 'peak MB, three times as long'),
    )
    body = (
        *(_size(row['size']), row['precision']),
        f'{reading:.0f} ({_met(reading >= READING_TARGET_FPS)} ≥ {READING_TARGET_FPS:g})',
        *(f'{row["engine_fps"]:.1f}', f'{row["evaluate_fps"]:.1f}'),
        f'{share:.2f} ({_met(share >= ENGINE_SHARE_TARGET)} ≥ {ENGINE_SHARE_TARGET:g})',
        *(f'{row["peak_mb"]:.0f}', f'{row["peak_mb_three_times_as_long"]:.0f}'),
    )
    title = f'kd_perception evaluate --mode every, {row["frames"]} raw frames from an mcap bag, medians'
    return f'**{title}**\n\n' + table(head, [body])


def _node(rows: list[dict[str, Any]]) -> str:
    head = (
        *(
            'image',
            'Hz',
            'precision',
            'threads',
            'overhead p50 ms',
            'p95',
            'infer p50 ms',
            'p95',
            'age p50 ms',
            'fps out',
        ),
        *('received', 'dropped', 'lost', 'launch → first s', 'memory MB'),
    )
    body = []
    for row in rows:
        overhead, infer, frames = row['overhead_ms'], row['stages_ms']['infer'], row['frames']
        target = OVERHEAD_TARGETS_MS[tuple(row['size'])]
        dropped = {key.removeprefix('dropped.'): n for key, n in frames.items() if key.startswith('dropped.') and n}
        none_expected = infer['p95'] < INFER_LIMIT_MS
        launch, memory = row['launch_to_first_detection_s'], row['memory_mb']['end']['resident']
        body.append(
            (
                *(_size(row['size']), f'{row["rate"]:g}', row['precision'], str(row['threads'])),
                f'{overhead["p50"]:.2f} ({_met(overhead["p50"] <= target)} ≤ {target:g})',
                *(f'{overhead["p95"]:.2f}', f'{infer["p50"]:.1f}', f'{infer["p95"]:.1f}'),
                *(f'{row["stages_ms"]["age"]["p50"]:.1f}', f'{row["fps_out"]:.1f}', str(frames['received'])),
                (', '.join(f'{n} {cause}' for cause, n in dropped.items()) or '0')
                + (f' ({_met(not dropped)} 0)' if none_expected else ''),
                str(frames['lost_by_middleware']),
                f'{launch:.2f} ({_met(launch <= LAUNCH_TARGET_S)} ≤ {LAUNCH_TARGET_S:g})',
                f'{memory:.0f} ({_met(memory <= MEMORY_TARGET_MB)} ≤ {MEMORY_TARGET_MB:g})',
            )
        )
    title = 'Node, camera and detector in two processes over DDS, bgr8; overhead = age − infer'
    stages = _node_stages(rows)
    return f'**{title}**\n\n' + table(head, body) + '\n\n**Its stages, medians in ms**\n\n' + stages


def _node_stages(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0]['stages_ms'])
    body = [
        (
            _size(row['size']),
            f'{row["rate"]:g}',
            row['precision'],
            *(f'{row["stages_ms"][name]["p50"]:.2f}' for name in names),
        )
        for row in rows
    ]
    return table(('image', 'Hz', 'precision', *names), body)


def _soak(soak: dict[str, Any]) -> str:
    names = ('start', 'end', 'max')
    resident, private = (tuple(f'{soak[key][name]:.1f}' for name in names) for key in ('resident_mb', 'private_mb'))
    growth = f'{soak["private_growth_mb_per_minute"]:+.3f}'
    head = (
        'image',
        'Hz',
        'minutes',
        *(f'resident MB {n}' for n in names),
        *(f'private MB {n}' for n in names),
        'its growth a minute',
    )
    row = (_size(soak['size']), f'{soak["rate"]:g}', f'{soak["minutes"]:g}', *resident, *private, growth)
    return '**Memory of the node over time**\n\n' + table(head, [row])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _size(size: Sequence[int]) -> str:
    return f'{size[0]}x{size[1]}'


def _met(yes: bool) -> str:
    return 'met' if yes else 'missed'
