"""The evaluation beside its engine: frames a second of reading a bag, of the engine alone, and of a whole run, in turn."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from kd_perception import engines
from kd_perception.bags.making import BagForm, make_bag
from kd_perception.bags.reader import open_bag
from kd_perception.bags.sources import SceneSource
from kd_perception.bundles.bundle import Bundle
from kd_perception.cli.evaluate import READ_AHEAD
from kd_perception.evaluation.evaluate import Job, run_job

SIZE = (640, 480)


def measure(bundle: Bundle, frames: int = 150, rounds: int = 3) -> dict[str, Any]:
    """Medians over rounds in which the three take turns; peak memory of this process after bags of one and of three lengths."""
    with TemporaryDirectory() as folder:
        bag, long_bag = (_bag(Path(folder) / name, count) for name, count in (('bag', frames), ('long', 3 * frames)))
        job = Job(bag, bundle.folder, journal=Path(folder) / 'journal.jsonl', ahead=READ_AHEAD)
        rows = [
            (
                _rate(frames, lambda: _read(bag)),
                _rate(frames, lambda: _infer(bundle, frames)),
                _rate(frames, lambda: run_job(job)),
            )
            for _ in range(rounds)
        ]
        short_mb = _peak_mb()
        run_job(Job(long_bag, bundle.folder, ahead=READ_AHEAD))
        long_mb = _peak_mb()
    reading, engine, whole = np.median(np.array(rows), axis=0)
    return {
        'size': SIZE,
        'frames': frames,
        'precision': bundle.artifacts[0].precision,
        'reading_fps': float(reading),
        'engine_fps': float(engine),
        'evaluate_fps': float(whole),
        'share_of_engine': float(np.median([w / e for _, e, w in rows])),
        'peak_mb': short_mb,
        'peak_mb_three_times_as_long': long_mb,
    }


def _bag(path: Path, frames: int) -> Path:
    make_bag(SceneSource(0, *SIZE, 30.0), path, BagForm(frames=frames))
    return path


def _rate(frames: int, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return frames / (time.perf_counter() - started)


def _read(bag: Path) -> None:
    for frame in open_bag(bag):
        frame.decode()


def _infer(bundle: Bundle, frames: int) -> None:
    engine = engines.load(bundle, bundle.artifacts[0])
    batch = np.full(bundle.input.shape, 114, bundle.input.dtype)
    for _ in range(frames):
        engine.infer(batch)
    engine.close()


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
