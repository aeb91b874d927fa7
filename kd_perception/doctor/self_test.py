"""Build, parity and latency of one engine on this machine, for boards that nobody of us has: what it prints is what to report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from kd_perception import engines
from kd_perception.benchmark.parity import Parity, compare
from kd_perception.bundles.bundle import Artifact, Bundle
from kd_perception.detection.detections import Detections
from kd_perception.detection.detector import Detector
from kd_perception.detection.engine import Array, EngineInfo
from kd_perception.detection.thresholds import Thresholds
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import EngineError, KdPerceptionError
from kd_perception.machine import host
from kd_perception.scene import Scene

REFERENCE = 'onnxruntime'
SCENES = 4
LOWEST_SCORE = 0.02
"""Below, nothing that a network finds means anything."""
TIMED_FRAMES = 50
TIMED_SECONDS = 10.0


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may lie from ONNX Runtime in FP32.

    Attributes:
        score: largest difference of the scores of counterparts.
        iou: lowest overlap of counterparts.
        unmatched: largest share of detections that only one of the two has.
    """

    score: float
    iou: float
    unmatched: float

    def holds(self, parity: Parity) -> bool:
        """Whether something was compared, and nothing is further off."""
        total = max(parity.reference, 1)
        return (
            parity.reference > 0
            and parity.worst_score <= self.score
            and parity.worst_iou >= self.iou
            and (parity.missing + parity.extra) / total <= self.unmatched
        )


TOLERANCES: Mapping[str, Tolerance] = {
    'fp32': Tolerance(score=0.001, iou=0.99, unmatched=0.0),
    'fp16': Tolerance(score=0.05, iou=0.9, unmatched=0.05),
    'bf16': Tolerance(score=0.1, iou=0.8, unmatched=0.1),
    'int8': Tolerance(score=0.3, iou=0.5, unmatched=0.3),
}
"""By the precision in which the engine computes."""


@dataclass(frozen=True)
class Run:
    """One artifact in one precision.

    Attributes:
        artifact: what it was made for, and its precision.
        precision: what the engine was asked to compute in.
        fault: why it did not run; empty when it did.
        load_s: seconds until the engine was there, its building included where none was kept.
        p50_ms, p95_ms: the engine's time for a frame, warm.
        parity: detections against ONNX Runtime's in FP32.
        same: whether they lie within `TOLERANCES`.
        info: what the engine says of itself.
    """

    artifact: str
    precision: str
    fault: str = ''
    load_s: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    parity: Parity | None = None
    same: bool = False
    info: EngineInfo | None = None

    def line(self) -> str:
        """For people."""
        head = f'{"✔" if self.same else "✘"} {self.artifact} in {self.precision}: '
        if self.fault or self.parity is None:
            return head + self.fault
        parity = self.parity
        head += f'loaded in {self.load_s:.1f} s; {self.p50_ms:.1f} ms a frame, p95 {self.p95_ms:.1f}; '
        if not parity.reference:
            return f'{head}not compared: the reference finds nothing, this run {parity.extra or "nothing"}'
        return head + (
            f'of {parity.reference} detections {parity.missing} missing, {parity.extra} extra, '
            f'scores within {parity.worst_score:.4f}, IoU at least {parity.worst_iou:.3f}'
        )


@dataclass(frozen=True)
class SelfTest:
    """What to report.

    Attributes:
        engine: registry name.
        bundle: its name.
        usual_score: the bundle's threshold.
        score: detections from this score on were compared: the bundle's threshold, or lower where that finds nothing.
        runs: one for each artifact and precision.
        machine: where it ran.
    """

    engine: str
    bundle: str
    usual_score: float
    score: float
    runs: tuple[Run, ...]
    machine: Mapping[str, Any] = field(default_factory=host.describe)

    @property
    def passed(self) -> bool:
        """Whether at least one artifact ran, and all that ran agree with the reference on at least one detection."""
        return bool(self.runs) and all(run.same for run in self.runs)

    @property
    def compared(self) -> bool:
        """Whether the reference found anything that could be compared."""
        return any(run.parity is not None and run.parity.reference > 0 for run in self.runs)

    def text(self) -> str:
        """For people: the machine, one line a run, and what the engine warns of."""
        machine = ', '.join(f'{key} {value}' for key, value in self.machine.items())
        infos = [run.info for run in self.runs if run.info is not None]
        lines = [f'{self.engine} on {self.bundle}: {"passed" if self.passed else "FAILED"}', f'  {machine}']
        if not self.compared and any(run.parity is not None for run in self.runs):
            lines[0] += ', nothing was compared'
            lines.append('  ! the network finds nothing in the pictures: give some of what it detects with --picture')
        elif self.score < self.usual_score:
            lines.append(
                f'  compared from score {self.score:.2f} on, for from {self.usual_score:g} on it finds nothing here'
            )
        if infos:
            versions = ', '.join(f'{name} {version}' for name, version in infos[0].versions.items())
            lines.append(f'  {infos[0].provider}; {versions}')
        lines += [f'  {run.line()}' for run in self.runs]
        lines += [f'  ! {warning}' for warning in dict.fromkeys(w for info in infos for w in info.warnings)]
        return '\n'.join(lines)

    def as_json(self) -> dict[str, Any]:
        """For other programs and for bug reports."""
        return {**asdict(self), 'passed': self.passed}


def self_test(
    engine: str,
    bundle: Bundle,
    report: Callable[[str], None] | None = None,
    pictures: Sequence[Array] = (),
) -> SelfTest:
    """Run everything of a bundle that an engine can run, and compare it with ONNX Runtime in FP32.

    Args:
        engine: registry name.
        bundle: needs an artifact that ONNX Runtime can run in FP32.
        report: takes a line about what takes long.
        pictures: BGR images to detect on; none takes synthetic scenes.

    Raises:
        EngineError: no such engine, its library is missing, or the bundle has nothing to compare with.
    """
    state = engines.availability(engine)
    if not state:
        raise EngineError(state.reason)
    wanted = [
        (artifact, precision)
        for artifact in bundle.artifacts
        if engines.can_run(engine, artifact)
        for precision in engines.precisions(engine, artifact)
    ]
    if not wanted:
        reasons = '; '.join(f'{a.engine}/{a.precision}: {engines.obstacle(engine, a)}' for a in bundle.artifacts)
        raise EngineError(f'{engine} can run nothing of {bundle.name}: {reasons}')
    options = EngineOptions() if report is None else EngineOptions(report=report)
    frames = list(pictures) or [_scene(bundle, seed) for seed in range(SCENES)]
    thresholds, expected = _reference(bundle, frames)
    runs = tuple(
        _run(engine, bundle, artifact, replace(options, precision=p), frames, thresholds, expected)
        for artifact, p in wanted
    )
    return SelfTest(engine, bundle.name, bundle.thresholds.score, thresholds.score, runs)


def _scene(bundle: Bundle, seed: int) -> Array:
    return Scene(seed, bundle.input.width, bundle.input.height).frame(0).image


def _reference(bundle: Bundle, frames: Sequence[Array]) -> tuple[Thresholds, list[Detections]]:
    """What ONNX Runtime finds in FP32. Where that is nothing, the threshold falls to half of the best score that there is."""
    for artifact in bundle.artifacts:
        if artifact.precision == 'fp32' and engines.can_run(REFERENCE, artifact):
            with closing(Detector(bundle, engines.load(bundle, artifact, engine=REFERENCE))) as detector:
                usual = detector.thresholds
                detector.thresholds = usual.down_to(min(LOWEST_SCORE, usual.lowest))
                found = [detector.detect(frame)[0] for frame in frames]
            best = max((float(f.scores[0]) for f in found if len(f)), default=0.0)
            thresholds = usual.down_to(usual.score if best >= usual.score else max(best / 2, LOWEST_SCORE))
            return thresholds, [f.select(f.scores >= thresholds.score) for f in found]
    raise EngineError(f'{bundle.name} has no FP32 artifact for {REFERENCE}, and so nothing to compare with')


def _run(
    engine: str,
    bundle: Bundle,
    artifact: Artifact,
    options: EngineOptions,
    frames: Sequence[Array],
    thresholds: Thresholds,
    expected: Sequence[Detections],
) -> Run:
    run = Run(f'{artifact.engine}/{artifact.precision}', options.precision)
    started = time.perf_counter()
    try:
        with closing(Detector(bundle, engines.load(bundle, artifact, options, engine), thresholds)) as detector:
            loaded = time.perf_counter() - started
            parity = compare(expected, [detector.detect(frame)[0] for frame in frames])
            times = np.fromiter(_times(detector, frames), np.float64)
    except KdPerceptionError as error:
        return replace(run, fault=str(error))
    info = detector.engine.info
    tolerance = TOLERANCES.get(info.precision, TOLERANCES['int8'])
    p50, p95 = (float(value) for value in np.percentile(times, (50, 95)))
    same = tolerance.holds(parity)
    return replace(run, load_s=loaded, p50_ms=p50, p95_ms=p95, parity=parity, same=same, info=info)


def _times(detector: Detector, frames: Sequence[Array]) -> Iterator[float]:
    """The engine's milliseconds for one frame after another; the parity frames have warmed it up."""
    end = time.perf_counter() + TIMED_SECONDS
    for number in range(TIMED_FRAMES):
        yield detector.detect(frames[number % len(frames)])[1].infer
        if time.perf_counter() > end:
            return
