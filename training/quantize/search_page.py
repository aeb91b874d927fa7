"""What a search did, for people: the table of its steps, accuracy over time as a picture, and which layers lose and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from training.quantize.artifact import Judgement
from training.quantize.noise import LayerNoise
from training.quantize.search import Found, SearchStep

WORST = 12
"""So many layers are explained."""


def table(steps: Sequence[SearchStep]) -> str:
    """The steps as a Markdown table, the float network first."""
    first = steps[0]
    wanted = first.verdict.float_map
    lines = [
        '| step | mAP50-95 | found again | drift | ms | times float | convolutions in float | s |',
        '|---|---|---|---|---|---|---|---|',
        f'| float network | {_percent(wanted)} | 100.0 % | 0 | {first.float_ms:.2f} | 1 | all | |',
    ]
    for step in steps:
        verdict = step.verdict
        name = step.name if step.kept else f'{step.name} (taken back)'
        lines.append(
            f'| {name} | {_percent(verdict.map)} | {100 * verdict.parity.found:.1f} % | {verdict.drift:.4f} | {step.ms:.2f} '
            f'| {step.speed:.2f} | {step.float_layers} | {step.seconds:.0f} |'
        )
    return '\n'.join(lines)


def explanation(layers: Sequence[LayerNoise], count: int = WORST) -> str:
    """The noisiest layers, each with its reason, as a Markdown table."""
    lines = ['| layer | noise | of it by the weights | reads | why |', '|---|---|---|---|---|']
    for layer in sorted(layers, key=lambda layer: -layer.noise)[:count]:
        share = 100 * min(layer.by_weights / max(layer.noise, 1e-12), 1)
        lines.append(
            f'| `{layer.name}` | {100 * layer.noise:.2f} % | {share:.0f} % | {layer.low:.2f} … {layer.high:.2f} | {layer.why} |'
        )
    return '\n'.join(lines)


def write_pages(found: Found, folder: Path) -> None:
    """Leave steps.md, steps.json, layers.md, layers.json and steps.svg in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'steps.md').write_text(table(found.steps) + '\n', encoding='utf-8')
    (folder / 'layers.md').write_text(explanation(found.layers, len(found.layers)) + '\n', encoding='utf-8')
    for name, content in (('steps', found.steps), ('layers', found.layers)):
        text = json.dumps([entry.to_json() for entry in content], indent=1)
        (folder / f'{name}.json').write_text(text, encoding='utf-8')
    _plot(found, folder / 'steps.svg')


def plot_precision_recall(judgement: Judgement, file: Path) -> None:
    """Precision over recall on the val split, INT8 beside float; a cross at the threshold of the bundle."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5), layout='constrained')
    axes = figure.subplots()
    for name, measured, color in (('fp32', judgement.float, 'black'), ('int8', judgement.int8, 'tab:green')):
        if measured is None:
            continue
        accuracy = measured.accuracy
        label = f'{name}, mAP50-95 {100 * accuracy.map:.1f} %'
        axes.plot([row[0] for row in measured.curve], [row[1] for row in measured.curve], color=color, label=label)
        axes.plot(accuracy.recall, accuracy.precision, 'x', color=color)
    axes.set_xlabel('recall')
    axes.set_ylabel('precision')
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small')
    figure.savefig(file, metadata={'Date': None})


def export_ranges(found: Found, file: Path) -> None:
    """Write the ranges of the activations as JSON, for compilers that take such: RKNN, Hailo and others.

    By the name of a tensor `range` (low, high), or `low` and `high` of each channel where it has scales of its own.
    """
    candidate = found.candidate
    tensors: dict[str, dict[str, list[float]]] = {
        name: {'range': [float(low), float(high)]} for name, (low, high) in candidate.ranges.items()
    }
    for name, (lows, highs) in candidate.channel_ranges.items():
        tensors.setdefault(name, {}).update(low=lows.astype(float).tolist(), high=highs.astype(float).tolist())
    document = {'step': found.best.name, 'float_nodes': candidate.left, 'tensors': tensors}
    file.write_text(json.dumps(document, indent=1), encoding='utf-8')


def _plot(found: Found, file: Path) -> None:
    """Accuracy, or what is found again, over the time of an inference."""
    from matplotlib.figure import Figure

    labelled = found.best.verdict.map is not None

    def height(step: SearchStep) -> float:
        return 100 * (step.verdict.map if step.verdict.map is not None else step.verdict.parity.found)

    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.subplots()
    first = found.steps[0]
    top = 100 * (first.verdict.float_map if first.verdict.float_map is not None else 1.0)
    axes.plot(first.float_ms, top, 's', color='black')
    axes.annotate('float', (first.float_ms, top), fontsize=8, xytext=(4, 4), textcoords='offset points')
    for step in found.steps:
        color = 'tab:green' if step is found.best else 'tab:blue' if step.kept else 'tab:gray'
        axes.plot(step.ms, height(step), 'o', color=color)
        axes.annotate(step.name, (step.ms, height(step)), fontsize=7, xytext=(4, 4), textcoords='offset points')
    axes.set_xlabel('median time of an inference, ms')
    axes.set_ylabel('mAP50-95, %' if labelled else 'sure detections of the float network found again, %')
    axes.grid(alpha=0.3)
    figure.savefig(file, metadata={'Date': None})


def _percent(value: float | None) -> str:
    return '–' if value is None else f'{100 * value:.2f}'
