"""The measurement: every configuration in processes of its own, in rounds, so that a drift of the machine hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kd_perception.benchmark.configurations import Configuration
from kd_perception.benchmark.parity import Parity, compare
from kd_perception.detection.detections import Detections
from kd_perception.errors import BundleError, EngineError
from kd_perception.selection import trial
from kd_perception.selection.trial import Frame, Outcome, Trial

REFERENCE = ('onnxruntime', 'fp32')
"""Engine and precision that the others are compared with."""

Progress = Callable[[Configuration, int], None]
"""Called before each measurement with the configuration and the round, from 0."""


@dataclass(frozen=True)
class Effort:
    """How long it is measured.

    Attributes:
        rounds: how often every configuration has its turn, each time in a new process.
        frames: most frames timed in a turn.
        seconds: a turn ends after this long, once ten frames are through.
    """

    rounds: int = 3
    frames: int = 100
    seconds: float = 3.0


@dataclass
class Row:
    """What was measured of one configuration.

    Attributes:
        configuration: what ran.
        outcomes: of each round.
        fault: why it could not run; then there are no figures.
        parity: against FP32; None where the bundle has no FP32 artifact that ran.
    """

    configuration: Configuration
    outcomes: list[Outcome] = field(default_factory=list)
    fault: str = ''
    parity: Parity | None = None
    found: list[Detections] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """All figures by name, times in ms; empty where it could not run."""
        if self.fault or not self.outcomes:
            return {}
        total = np.concatenate([outcome.total for outcome in self.outcomes])
        p50, p95, p99 = np.percentile(total, [50, 95, 99])
        energies = [outcome.energy_j for outcome in self.outcomes if outcome.energy_j is not None]
        return {
            'p50_ms': float(p50),
            'p95_ms': float(p95),
            'p99_ms': float(p99),
            'preprocess_ms': self._median('preprocess'),
            'infer_ms': self._median('infer'),
            'postprocess_ms': self._median('postprocess'),
            'frames_per_s': 1e3 / float(total.mean()),
            'frames': len(total),
            'round_p50_ms': [float(np.median(outcome.total)) for outcome in self.outcomes],
            'load_s': float(np.median([outcome.load_s for outcome in self.outcomes])),
            'memory_mb': max(outcome.peak_memory_mb for outcome in self.outcomes),
            'energy_mj_per_frame': 1e3 * sum(energies) / len(total) if len(energies) == len(self.outcomes) else None,
        }

    def _median(self, stage: str) -> float:
        return float(np.median(np.concatenate([getattr(outcome, stage) for outcome in self.outcomes])))


def measure(
    configurations: Sequence[Configuration], frames: Sequence[Frame], effort: Effort, progress: Progress | None = None
) -> list[Row]:
    """Measure all, one process at a time. What fails once is not tried again, and is a row with its fault.

    Args:
        configurations: what to measure.
        frames: BGR images, the same for all; detections on them are compared too.
        effort: how long.
        progress: called before each measurement.
    """
    rows = [Row(configuration) for configuration in configurations]
    for number in range(effort.rounds):
        for row in rows:
            if row.fault:
                continue
            if progress is not None:
                progress(row.configuration, number)
            _turn(row, frames, effort, first=number == 0)
    _compare(rows)
    return rows


def _turn(row: Row, frames: Sequence[Frame], effort: Effort, first: bool) -> None:
    configuration = row.configuration
    wanted = Trial(
        folder=str(configuration.bundle.folder),
        artifact=(configuration.artifact.engine, configuration.artifact.precision),
        engine=configuration.engine,
        precision=configuration.precision,
        threads=configuration.threads,
        frames=effort.frames,
        seconds=effort.seconds,
        detect=first,
    )
    try:
        outcome = trial.run(wanted, frames)
    except (BundleError, EngineError) as error:
        row.fault = str(error)
        return
    row.outcomes.append(outcome)
    if first:
        row.found = outcome.found()


def _compare(rows: Sequence[Row]) -> None:
    """Every row with the FP32 row of its bundle."""
    references: dict[str, list[Detections]] = {}
    for row in rows:
        configuration = row.configuration
        ran_as = (configuration.engine, configuration.precision)
        if ran_as == REFERENCE and configuration.artifact.precision == 'fp32' and row.found:
            references.setdefault(configuration.bundle.name, row.found)
    for row in rows:
        reference = references.get(row.configuration.bundle.name)
        if reference is not None and row.found:
            row.parity = compare(reference, row.found)
