"""How long a network takes on this machine: measured in a process of its own, and remembered under everything it depends on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception import engines
from kd_perception.core import host
from kd_perception.core.bundle import Artifact, Bundle
from kd_perception.core.engine import EngineOptions
from kd_perception.engines import trial
from kd_perception.engines.cores import physical_cores

MAX_CACHED_BYTES = 1 << 16
_LIBRARIES = ('numpy', 'opencv-python-headless')


@dataclass(frozen=True)
class Timing:
    """Percentiles of preprocess + infer + postprocess of one frame, in milliseconds, warmed up."""

    p50_ms: float
    p95_ms: float
    frames: int


class Timer:
    """Times networks on scene frames of one size.

    Args:
        size: width and height of the frames.
        options: how engines are loaded.
        fresh: measure also what was measured before.
        report: takes a line before each measurement, and whatever an engine reports while it is built.
        cache: folder of earlier timings; one that cannot be written is done without.
    """

    def __init__(
        self,
        size: tuple[int, int],
        options: EngineOptions,
        *,
        fresh: bool = False,
        report: Callable[[str], None] | None = None,
        cache: Path | None = None,
    ) -> None:
        self._size = size
        self._options = options
        self._fresh = fresh
        self._report = report or (lambda line: None)
        self._cache = cache or cache_folder()
        self._frames: list[trial.Frame] = []

    def time(self, bundle: Bundle, artifact: Artifact, engine: str, precision: str) -> Timing:
        """The timing of one network, from the cache where it is there.

        Raises:
            EngineError: the engine refused, failed, crashed or hung.
        """
        conditions = self._conditions(bundle, artifact, engine, precision)
        path = self._cache / f'{_digest(conditions)}.json'
        known = None if self._fresh else _read(path, conditions)
        if known is not None:
            return known
        self._report(f'timing {bundle.name} {artifact.precision} on {engine} …')
        measured = self._measure(bundle, artifact, engine, precision)
        _write(path, {'conditions': conditions, 'timing': asdict(measured)}, self._report)
        return measured

    def _measure(self, bundle: Bundle, artifact: Artifact, engine: str, precision: str) -> Timing:
        self._frames = self._frames or trial.scene_frames(self._size)
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
        return Timing(float(p50), float(p95), len(outcome.total))

    def _conditions(self, bundle: Bundle, artifact: Artifact, engine: str, precision: str) -> dict[str, Any]:
        """Everything that the time depends on and that can change; the budget is not of it."""
        conditions = {
            'artifact': artifact.sha256,
            'input': asdict(bundle.input),
            'output': asdict(bundle.output),
            'thresholds': asdict(bundle.thresholds),
            'engine': [engine, engines.availability(engine).version, precision],
            'libraries': {name: _version(name) for name in _LIBRARIES},
            'threads': self._options.threads or physical_cores(),
            'providers': list(self._options.providers),
            'device_id': self._options.device_id,
            'image_size': list(self._size),
            'host': host.describe(),
            'gpus': host.gpus(),
        }
        plain: dict[str, Any] = json.loads(json.dumps(conditions))  # as it will be read back: no tuples
        return plain


def cache_folder() -> Path:
    """Where timings are kept: `kd_perception/timings` in the user's cache folder."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'kd_perception' / 'timings'


def _digest(conditions: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:32]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return 'not a wheel'


def _read(path: Path, conditions: dict[str, Any]) -> Timing | None:
    """A timing of the same conditions; None where there is none, or nothing that we wrote."""
    try:
        if path.stat().st_size > MAX_CACHED_BYTES:
            return None
        entry = json.loads(path.read_text(encoding='utf-8'))
        if entry['conditions'] != conditions:
            return None
        timing = Timing(**entry['timing'])
        return timing if 0 < timing.p50_ms <= timing.p95_ms < float('inf') else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _write(path: Path, entry: dict[str, Any], report: Callable[[str], None]) -> None:
    """Keep a timing, whole or not at all, also when two nodes keep the same one at once."""
    scratch = path.with_suffix(f'.{os.getpid()}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_text(json.dumps(entry, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        report(f'the timing is not kept for the next start: {path.parent} cannot be written ({error.strerror})')
