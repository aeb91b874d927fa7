"""Mixed precision: which layers stay in float, under a limit of size or time.

Greedy by what a layer's float weights gain for what they cost, as far as the limit reaches; each step is recorded as measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from training.data.spread import spread
from training.errors import QuantizationError
from training.quantize.calibration import Image
from training.quantize.qdq import MixedSettings, QuantizeSettings, float_nodes, quantize_model, ranges_of, with_shapes
from training.quantize.sensitivity import Drift, Judge, Sensitivity, SensitivityTable, sensitivity

LEAST_MS = 0.05
"""Differences of time below this are noise; a layer costs at least so much."""


@dataclass(frozen=True)
class MixedStep:
    """One more layer in float.

    Attributes:
        layer: its name; empty for the network with every layer in INT8.
        drift: of the network then.
        file_bytes: of its file.
        ms: median time of an inference.
    """

    layer: str
    drift: Drift
    file_bytes: int
    ms: float


@dataclass(frozen=True)
class Mixed:
    """The choice and how it came about.

    Attributes:
        float_nodes: names of the nodes to leave in float, for `QuantizeSettings.float_nodes`.
        steps: first the network with every layer in INT8, then layer by layer.
    """

    float_nodes: tuple[str, ...]
    steps: tuple[MixedStep, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as a bundle's record keeps them."""
        return asdict(self)

    def to_markdown(self) -> str:
        """A line a step."""
        lines = ['| left in float as well | drift: score, box | file | inference |', '|---|---|---|---|']
        lines += [
            f'| {f"`{step.layer}`" if step.layer else "nothing"} | {step.drift.score:.5f}, {step.drift.box:.5f} '
            f'| {step.file_bytes / 1e6:.2f} MB | {step.ms:.1f} ms |'
            for step in self.steps
        ]
        return '\n'.join(lines)


def choose(
    source: Path,
    images: Sequence[Image],
    settings: QuantizeSettings,
    target: MixedSettings,
    table: SensitivityTable | None = None,
) -> Mixed:
    """Choose the layers that stay in float.

    Args:
        source: a float network in the `boxes_scores` layout.
        images: calibration images.
        settings: how the other layers are quantized.
        target: the limit.
        table: of `sensitivity` for these settings; measured where it is not given.

    Raises:
        QuantizationError: the network is over the limit with every layer in INT8.
    """
    judged = spread(images, target.judged_images)
    table = table or sensitivity(source, images, settings, judged=judged, threads=target.threads)
    model = with_shapes(source)
    left = float_nodes(model.graph, settings)
    ranges = ranges_of(model, images, settings)
    judge = Judge(model, judged, target.threads)

    def step(name: str, nodes: Sequence[str]) -> MixedStep:
        quantized = quantize_model(model, ranges, settings, [*left, *nodes])
        drift, milliseconds = judge.drift(quantized)
        return MixedStep(name, drift, quantized.ByteSize(), milliseconds)

    steps = [step('', ())]
    if not _fits(steps[0], target):
        raise QuantizationError(
            f'with every layer in INT8 the network has {steps[0].file_bytes} bytes and takes {steps[0].ms:.1f} ms; '
            f'the limit is lower'
        )
    chosen: list[str] = []
    for row in by_gain_per_cost(table, target):
        if len(steps) > target.most_layers:
            break
        tried = step(row.layer.name, [*chosen, *row.layer.nodes])
        if _fits(tried, target) and tried.drift.total < steps[-1].drift.total:
            steps.append(tried)
            chosen += row.layer.nodes
    return Mixed(tuple(chosen), tuple(steps))


def by_gain_per_cost(table: SensitivityTable, target: MixedSettings) -> list[Sensitivity]:
    """Layers that gain anything in float, by falling gain for their cost in bytes or, under a limit of time, in ms."""
    gaining = [row for row in table.rows if table.gain(row) > 0]

    def worth(row: Sensitivity) -> float:
        cost = row.extra_bytes if target.max_ms is None else max(row.extra_ms, LEAST_MS)
        return table.gain(row) / max(cost, 1e-9)

    return sorted(gaining, key=worth, reverse=True)


def with_choice(settings: QuantizeSettings, mixed: Mixed) -> QuantizeSettings:
    """The settings with the chosen layers in float."""
    return replace(settings, mixed=None, float_nodes=(*settings.float_nodes, *mixed.float_nodes))


def _fits(step: MixedStep, target: MixedSettings) -> bool:
    return (target.max_bytes is None or step.file_bytes <= target.max_bytes) and (
        target.max_ms is None or step.ms <= target.max_ms
    )
