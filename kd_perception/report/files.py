"""A report on disk and in the terminal: report.json, report.html, and the headline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd_perception.bundles.bundle import Bundle
from kd_perception.evaluation.results import BagResult
from kd_perception.report.html import write_html
from kd_perception.report.worst_frames import worst_frames
from kd_perception.whole_file import write_whole


def write_report(report: dict[str, Any], results: Sequence[BagResult], bundle: Bundle, out: Path) -> list[str]:
    """Write report.json and report.html into `out`, made if need be.

    Returns:
        The headline, line by line, for the terminal.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / 'report.json', json.dumps(report, indent=1, allow_nan=False) + '\n')
    write_html(report, worst_frames(results, bundle), out / 'report.html')
    return [*headline(report), f'  {out / "report.html"}']


def headline(report: dict[str, Any]) -> list[str]:
    """What one wants to know first."""
    bundle, accuracy, streaming, latency = (report[key] for key in ('bundle', 'accuracy', 'streaming', 'latency'))
    lines = [
        f'{bundle["name"]} {bundle["precision"]}, mode {report["mode"]}: '
        f'{len(report["bags"])} bag(s), {latency["frames"]} frames'
    ]
    if accuracy:
        point = accuracy['at_threshold']
        lines += [
            f'  AP50 {accuracy["map50"]:.3f}  AP50-95 {accuracy["map"]:.3f}  ({accuracy["images"]} frames with ground truth)',
            f'  at score {point["threshold"]:g}: precision {point["precision"]:.3f}, recall {point["recall"]:.3f}, '
            f'{point["false_alarms_per_image"]:.2f} false alarms a frame',
        ]
    strays = sum(bag['ground_truth_without_frame'] for bag in report['bags'])
    if strays:
        lines.append(f'  {strays} stamps of ground truth found no image: see --tolerance')
    if streaming:
        ap = f'sAP50 {streaming["sap50"]:.3f}  sAP {streaming["sap"]:.3f}  ' if 'sap' in streaming else ''
        lines.append(
            f'  {ap}processed {streaming["processed"]}, superseded {streaming["superseded"]} at rate {streaming["rate"]:g}'
        )
    if latency['frames']:
        total = latency['stages_ms']['total']
        lines.append(f'  latency p50 {total["p50"]:.1f}  p95 {total["p95"]:.1f}  p99 {total["p99"]:.1f} ms')
    return lines
