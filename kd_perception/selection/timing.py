"""How long a network takes on this machine: measured in a process of its own, and remembered under everything it depends on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata

import numpy as np

from kd_perception import engines
from kd_perception.bundles.bundle import Artifact, Bundle
from kd_perception.engines import cache
from kd_perception.engines.options import EngineOptions
from kd_perception.machine import host
from kd_perception.machine.cores import physical_cores
from kd_perception.selection import trial

_LIBRARIES = ('numpy', 'opencv-python-headless')


@dataclass(frozen=True)
class Timing:
    """How long a frame takes, warmed up.

    Attributes:
        p50_ms, p95_ms: percentiles of preprocess + infer + postprocess of one frame, in milliseconds.
        frames: how many were timed.
        load: the machine's load (of the last minute) before the first network was timed.
        cores: of this process at that time; over them, the machine was busy and the times are too long.
    """

    p50_ms: float
    p95_ms: float
    frames: int
    load: float = 0.0
    cores: int = 1

    @property
    def was_busy(self) -> bool:
        """Whether other programs wanted the processor too."""
        return self.load > self.cores

    def is_worth_repeating(self, load: float) -> bool:
        """Whether the machine, at this load, is quiet, or half as busy as it was then."""
        return self.was_busy and load < max(self.cores, self.load / 2)


KIND = 'timing'
"""What the cache calls its entries by."""


def kept_timings() -> list[Timing]:
    """All that were measured on this machine and are kept."""
    contents = [cache.kept(entry.made_of) for entry in cache.entries() if entry.made_of.get('engine') == KIND]
    return [Timing(**json.loads(content)) for content in contents if content is not None]


class Timer:
    """Times networks on scene frames of one size.

    Args:
        size: width and height of the frames.
        options: how engines are loaded.
        fresh: measure also what was measured before.
        report: takes a line before each measurement, and whatever an engine reports while it is built.
    """

    def __init__(
        self,
        size: tuple[int, int],
        options: EngineOptions,
        *,
        fresh: bool = False,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self._size = size
        self._options = options
        self._fresh = fresh
        self._report = report or (lambda line: None)
        self._frames: list[trial.Frame] = []
        # Before the first measurement, which is a load itself.
        self._load, self._cores = round(os.getloadavg()[0], 2), len(os.sched_getaffinity(0))

    def time(self, bundle: Bundle, artifact: Artifact, engine: str, precision: str) -> Timing:
        """The timing of one network, from the cache where it is there.

        Raises:
            EngineError: the engine refused, failed, crashed or hung.
        """
        conditions = self._conditions(bundle, artifact, engine, precision)
        measured_now = False

        def measure() -> bytes:
            nonlocal measured_now
            measured_now = True
            self._report(f'timing {bundle.name} {artifact.precision} on {engine} …')
            return json.dumps(asdict(self._measure(bundle, artifact, engine, precision))).encode()

        if self._fresh:
            cache.forget(conditions)
        timing = Timing(**json.loads(cache.cached(conditions, measure, self._report)))
        if measured_now or not timing.is_worth_repeating(self._load):
            return timing
        self._report(
            f'{bundle.name} {artifact.precision} on {engine} was timed on a busy machine (load {timing.load:.1f} on '
            f'{timing.cores} cores) and is timed again, for the load is {self._load:.1f} now'
        )
        cache.forget(conditions)
        return Timing(**json.loads(cache.cached(conditions, measure, self._report)))

    def _measure(self, bundle: Bundle, artifact: Artifact, engine: str, precision: str) -> Timing:
        if not self._frames:
            self._frames = trial.scene_frames(self._size)
            self._warn_of_load()
        outcome = trial.run(
            trial.Trial(
                folder=str(bundle.folder),
                artifact=(artifact.engine, artifact.precision),
                engine=engine,
                precision=precision,
                threads=self._options.threads,
                providers=self._options.providers,
                device_id=self._options.device_id,
            ),
            self._frames,
            self._report,
        )
        p50, p95 = np.percentile(outcome.total, [50, 95])
        return Timing(float(p50), float(p95), len(outcome.total), self._load, self._cores)

    def _warn_of_load(self) -> None:
        """What was measured on a busy machine is kept all the same: at a robot's start everything is busy."""
        if self._load > self._cores:
            self._report(
                f'the machine is busy (load {self._load:.1f} on {self._cores} cores), so that timings come out too long; they '
                f'are repeated at a quieter start, or at once by kd_perception select --measure-again'
            )

    def _conditions(self, bundle: Bundle, artifact: Artifact, engine: str, precision: str) -> dict[str, str]:
        """Everything that the time depends on and that can change; the budget is not of it."""
        frame = [asdict(part) for part in (bundle.input, bundle.output, bundle.thresholds_of(artifact))]
        libraries = {name: _version(name) for name in _LIBRARIES}
        return {
            'engine': KIND,
            'model': f'{bundle.name} {artifact.sha256}',
            'precision': precision,
            'runs_on': f'{engine} {engines.availability(engine).version}',
            'threads': str(self._options.threads or physical_cores()),
            'providers': f'{self._options.providers} {self._options.device_id}',
            'image_size': f'{self._size[0]}x{self._size[1]}',
            'frame': json.dumps(frame),
            'libraries': json.dumps(libraries),
            'host': json.dumps({**host.describe(), 'gpus': host.gpus()}),
        }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return 'not a wheel'
