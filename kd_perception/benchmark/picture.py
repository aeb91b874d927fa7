"""The benchmark's picture: one bar a configuration, to the median, with a line to the 95th percentile."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from kd_perception.benchmark.report import precision_text

WIDTH, RIGHT, ROW, TOP = 1080, 400, 24, 58
LETTER = 7.3
"""Width of a letter, rather too wide: names must not be cut off."""
_COLORS = ('#0072b2', '#d98a00', '#009e73', '#d55e00', '#c2609b', '#4aa3d8', '#8a8a00')
_STYLE = 'font: 13px system-ui, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif'


def picture(document: Mapping[str, Any]) -> str:
    """An SVG that stands alone, written from the JSON document; what could not run is named below the bars."""
    ran = sorted((row for row in document['rows'] if not row['fault']), key=lambda row: row['p95_ms'])
    faults = list(dict.fromkeys(_label(row, threads=False) for row in document['rows'] if row['fault']))
    engines = list(dict.fromkeys(row['engine'] for row in document['rows']))
    colors = {engine: _COLORS[n % len(_COLORS)] for n, engine in enumerate(engines)}
    longest = max((row['p95_ms'] for row in ran), default=1.0)
    left = 24 + LETTER * max((len(_label(row)) for row in ran), default=0)
    scale = max(100.0, WIDTH - left - RIGHT) / longest
    height = TOP + ROW * len(ran) + (26 if faults else 6)
    parts = [
        _text(14, 24, 'Milliseconds a frame: median (bar) and 95th percentile (line); scores against FP32', weight=600),
        _text(14, 43, str(document['machine']['cpu']), fill='#626b76'),
        *_grid(longest, left, scale, TOP + ROW * len(ran)),
    ]
    for number, row in enumerate(ran):
        parts += _bar(row, TOP + ROW * number, left, scale, colors[row['engine']])
    if faults:
        parts.append(_text(14, height - 10, f'could not run: {"; ".join(faults)}', fill='#626b76'))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" style=\'{_STYLE}\'>'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _label(row: Mapping[str, Any], threads: bool = True) -> str:
    count = f', {row["threads"]} thread{"s" * (row["threads"] > 1)}' if threads else ''
    return f'{row["model"]} {precision_text(row)}, {row["engine"]}{count}'


def _bar(row: Mapping[str, Any], top: int, left: float, scale: float, color: str) -> list[str]:
    middle, end, most = top + ROW / 2, left + scale * row['p50_ms'], left + scale * row['p95_ms']
    facts = f'{row["p50_ms"]:.1f} / {row["p95_ms"]:.1f} ms · {row["frames_per_s"]:.3g} fps · {row["memory_mb"]:.0f} MB'
    if row['parity'] is not None:
        facts += f' · score off by {row["parity"]["worst_score"]:.3f}'
    return [
        _text(left - 8, middle + 4, _label(row), anchor='end'),
        f'<rect x="{left:.1f}" y="{top + 4}" width="{end - left:.1f}" height="{ROW - 8}" fill="{color}"/>',
        f'<path d="M{end:.1f} {middle}H{most:.1f}M{most:.1f} {middle - 5}V{middle + 5}" stroke="{color}" stroke-width="2"/>',
        _text(most + 8, middle + 4, facts, fill='#626b76'),
    ]


def _grid(longest: float, left: float, scale: float, bottom: int) -> list[str]:
    """Vertical lines at round values; the bars start at the first."""
    step = 10 ** math.floor(math.log10(longest))
    step *= next(factor for factor in (0.2, 0.5, 1, 2) if longest / (step * factor) <= 6)
    lines = []
    for n in range(int(longest / step) + 1):
        x = left + scale * n * step
        lines.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#dfe3e8"/>')
        lines.append(_text(x, TOP - 4, f'{n * step:g}', fill='#626b76', anchor='middle'))
    return lines


def _text(x: float, y: float, words: str, *, fill: str = '#1b1f24', anchor: str = 'start', weight: int = 400) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" text-anchor="{anchor}" font-weight="{weight}">{escape(words)}</text>'
