"""One network run in a process of its own: its crash, its hang and its memory are then not the caller's."""

from __future__ import annotations

import ctypes
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from kd_perception import engines
from kd_perception.bundles.bundle import load_bundle
from kd_perception.detection.detections import Detections
from kd_perception.detection.detector import Detector
from kd_perception.detection.stage_times import StageTimes
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import EngineError, KdPerceptionError
from kd_perception.machine import host
from kd_perception.machine.energy import EnergyMeter

Frame = npt.NDArray[np.uint8]

LOAD_LIMIT_S = 3600.0
"""Building a TensorRT engine on a small Jetson takes many minutes; no load takes longer than this."""

RUN_LIMIT_S = 60.0
"""A process that finishes no frame in this time hangs."""

MIN_FRAMES = 10
"""Fewer timed frames have no 95th percentile; a network so slow that they take five times as long as wanted has fewer."""

_ALIVE_S = 1.0
_LOOK_S = 0.1
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Limits:
    """What ends the process.

    Attributes:
        load_s: longest time until the network is loaded.
        run_s: longest time without a sign of life after that.
        memory_mb: highest resident memory in MiB; None where there is no limit.
    """

    load_s: float = LOAD_LIMIT_S
    run_s: float = RUN_LIMIT_S
    memory_mb: float | None = None


@dataclass(frozen=True)
class Trial:
    """What to time.

    Attributes:
        folder: the bundle's folder.
        artifact: which of its artifacts, as (engine, precision).
        engine: registry name of the engine that runs it.
        precision: what the engine computes in; empty means the artifact's own.
        threads, providers, device_id: see `EngineOptions`.
        frames: most frames that are timed.
        seconds: the timing ends after about this long, see `MIN_FRAMES`.
        warm_up: frames before, which are not counted.
        detect: return the detections of every frame too.
    """

    folder: str
    artifact: tuple[str, str]
    engine: str
    precision: str = ''
    threads: int = 0
    providers: tuple[str, ...] = ()
    device_id: int = 0
    frames: int = 60
    seconds: float = 1.5
    warm_up: int = 5
    detect: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a trial found.

    Attributes:
        preprocess, infer, postprocess: milliseconds of each timed frame.
        load_s: from the bundle's folder to the first result, in seconds.
        peak_memory_mb: the process's highest resident memory.
        energy_j: joules during the timed frames, of the whole board or package; None where no sensor tells.
        info: `EngineInfo` as a mapping.
        detections: for every frame given, if asked for: boxes, scores and class ids as lists.
    """

    preprocess: list[float]
    infer: list[float]
    postprocess: list[float]
    load_s: float
    peak_memory_mb: float
    energy_j: float | None
    info: dict[str, Any]
    detections: list[dict[str, Any]]

    @property
    def total(self) -> npt.NDArray[np.float64]:
        """Milliseconds of each timed frame: preprocess + infer + postprocess."""
        total: npt.NDArray[np.float64] = np.array([self.preprocess, self.infer, self.postprocess]).sum(axis=0)
        return total

    def found(self) -> list[Detections]:
        """The detections, as the core knows them."""
        return [
            Detections(
                np.array(d['boxes'], np.float32).reshape(-1, 4),
                np.array(d['scores'], np.float32),
                np.array(d['class_ids'], np.int32),
            )
            for d in self.detections
        ]


def scene_frames(size: tuple[int, int], count: int = 4) -> list[Frame]:
    """Pictures with something to find in them, since decoding and NMS take longer the more is found."""
    from kd_perception.scene import Scene

    scene = Scene(0, *size)
    return [scene.frame(30 * number).image for number in range(count)]


def run(
    trial: Trial,
    frames: Sequence[Frame],
    report: Callable[[str], None] | None = None,
    limits: Limits | None = None,
) -> Outcome:
    """Time one network on `frames`, again and again from the first.

    Args:
        trial: what is timed, and for how long.
        frames: BGR images of any size.
        report: takes a line about what takes long, see `EngineOptions`.
        limits: what ends it early.

    Raises:
        EngineError: the engine refused, failed, crashed, hung or took too much memory; says which.
    """
    with tempfile.TemporaryDirectory(prefix='kd_perception_trial_') as scratch:
        np.savez(Path(scratch) / 'frames.npz', *frames)
        with open(Path(scratch) / 'log', 'wb+') as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, '-m', __name__, json.dumps(asdict(trial)), str(Path(scratch) / 'frames.npz')),
                    str(os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # a terminal's Ctrl-C is the caller's
            )
            try:
                return _listen(process, log, report or (lambda line: None), limits or Limits())
            finally:
                process.kill()
                process.wait()


def _environment() -> dict[str, str]:
    """The caller's, with this very package found first, wherever the process starts."""
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get('PYTHONPATH')])]
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}


def _listen(process: subprocess.Popen[bytes], log: IO[bytes], report: Callable[[str], None], limits: Limits) -> Outcome:
    """Read the process's lines as they come: reports while it loads, signs of life, then the outcome or the error."""
    assert process.stdout is not None
    lines: queue.Queue[bytes] = queue.Queue()
    pipe = process.stdout

    def read() -> None:
        for line in pipe:
            lines.put(line)
        lines.put(b'')

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    limit, heard = limits.load_s, time.monotonic()
    while True:
        memory = host.memory_of_process_mb(process.pid) if limits.memory_mb is not None else None
        if memory is not None and limits.memory_mb is not None and memory > limits.memory_mb:
            raise EngineError(f'it takes more than {limits.memory_mb:.0f} MiB of memory')
        try:
            line = lines.get(timeout=min(_LOOK_S, limit))
        except queue.Empty:
            if time.monotonic() - heard > limit:
                raise EngineError(f'nothing happened for {limit:g} s: the engine hangs') from None
            continue
        heard = time.monotonic()
        if not line:
            reader.join()
            raise EngineError(_ending(process.wait(), log))
        message = json.loads(line)
        if 'error' in message:
            raise EngineError(message['error'])
        if 'outcome' in message:
            return Outcome(**message['outcome'])
        if 'report' in message:
            report(message['report'])
        else:
            limit = limits.run_s


def _ending(status: int, log: IO[bytes]) -> str:
    """Why a process ended without a word: the signal or status, and the last line that it wrote."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - 4000))
    said = log.read().decode('utf-8', 'replace').strip().splitlines()
    how = f'was killed by signal {-status}' if status < 0 else f'ended with status {status}'
    return f"the engine's process {how}{': ' + said[-1][:300] if said else ''}"


def _end_with_caller(caller: int) -> None:
    """Nobody waits for what the caller has left; and a crash leaves no image of its memory."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != caller:
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _main(arguments: Sequence[str]) -> None:
    """The process's side. Only our lines go to its standard output; whatever a library prints goes to the log."""
    _end_with_caller(int(arguments[2]))
    with os.fdopen(os.dup(1), 'w', encoding='utf-8') as channel:
        os.dup2(2, 1)

        def tell(message: dict[str, Any]) -> None:
            channel.write(json.dumps(message) + '\n')
            channel.flush()

        trial = Trial(**json.loads(arguments[0], object_hook=_with_tuples))
        try:
            with np.load(arguments[1], allow_pickle=False) as archive:
                frames = [archive[name] for name in archive.files]
            outcome = _measure(trial, frames, tell)
            tell({'outcome': asdict(outcome)})
        except KdPerceptionError as error:
            tell({'error': str(error)})


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _detector(trial: Trial, report: Callable[[str], None]) -> Detector:
    bundle = load_bundle(trial.folder)
    artifact = bundle.artifact(*trial.artifact)
    options = EngineOptions(
        threads=trial.threads,
        providers=trial.providers,
        precision=trial.precision,
        device_id=trial.device_id,
        report=report,
    )
    return Detector(bundle.operated_as(artifact), engines.load(bundle, artifact, options, trial.engine))


def _measure(trial: Trial, frames: Sequence[Frame], tell: Callable[[dict[str, Any]], None]) -> Outcome:
    started = reported = time.perf_counter()
    detector = _detector(trial, lambda line: tell({'report': line}))
    tell({'alive': 0})

    def detect(number: int) -> tuple[Detections, StageTimes]:
        nonlocal reported
        result = detector.detect(frames[number % len(frames)])
        if time.perf_counter() - reported > _ALIVE_S:
            tell({'alive': number})
            reported = time.perf_counter()
        return result

    detect(0)
    load_s = time.perf_counter() - started
    for number in range(trial.warm_up):
        detect(number)
    rows: list[tuple[float, float, float]] = []
    with EnergyMeter() as meter:
        started = time.perf_counter()
        while len(rows) < trial.frames and not _enough(len(rows), time.perf_counter() - started, trial.seconds):
            _, times = detect(len(rows))
            rows.append((times.preprocess, times.infer, times.postprocess))
    preprocess, infer, postprocess = (list(column) for column in zip(*rows, strict=True))
    found = [detect(number)[0] for number in range(len(frames))] if trial.detect else []
    return Outcome(
        preprocess=preprocess,
        infer=infer,
        postprocess=postprocess,
        load_s=load_s,
        peak_memory_mb=host.peak_memory_mb() or 0.0,
        energy_j=meter.joules,
        info=asdict(detector.engine.info),
        detections=[
            {'boxes': d.boxes.tolist(), 'scores': d.scores.tolist(), 'class_ids': d.class_ids.tolist()} for d in found
        ],
    )


def _enough(frames: int, elapsed: float, seconds: float) -> bool:
    return elapsed > (seconds if frames >= MIN_FRAMES else 5 * seconds) and frames > 0


if __name__ == '__main__':
    _main(sys.argv[1:])
