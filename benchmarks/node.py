"""The real node behind a real camera over DDS: overhead of a frame, drops, start, memory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from vision_msgs.msg import Detection2DArray

from kd_perception.detection.stage_times import STAGES
from kd_perception.ros import qos
from kd_perception.ros.large_messages import allow_large_messages
from kd_perception.ros.spinning import spinning

SIZES = ((640, 480), (1920, 1080))
PATIENCE = 120.0
"""Seconds that the first detections may take."""


def prepare_environment(repository: Path) -> None:
    """What all three processes need; before anything initialises ROS."""
    os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 101)
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    allow_large_messages()
    os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'


class Recorder(Node):  # type: ignore[misc]  # Any, for mypy
    """Keeps the detector's per-frame latencies and its newest accounts."""

    def __init__(self) -> None:
        super().__init__('benchmark_recorder')
        self.first_detection: float | None = None
        self.frames: list[tuple[float, ...]] = []
        self.accounts: dict[str, int] = {}
        self.create_subscription(Detection2DArray, 'detections', self._on_detections, 10)
        self.create_subscription(DiagnosticArray, 'detector/frame_latency', self._on_latency, qos.IMAGE)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def _on_detections(self, _: Detection2DArray) -> None:
        if self.first_detection is None:
            self.first_detection = time.monotonic()

    def _on_latency(self, message: DiagnosticArray) -> None:
        values = {value.key: float(value.value) for value in message.status[0].values}
        self.frames.append(tuple(values[stage] for stage in STAGES))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith(': input'):
                keys = ('received', 'published', 'pending', 'lost_by_middleware')
                self.accounts = {
                    v.key: int(v.value) for v in status.values if v.key in keys or v.key.startswith('dropped.')
                }


@dataclass(frozen=True)
class Run:
    """What to run: a bundle's folder or name, its precision, threads of one inference, and the camera."""

    model: str
    precision: str
    threads: int
    size: tuple[int, int]
    rate: float


def measure(run: Run, seconds: float) -> dict[str, Any]:
    """Run camera and node for `seconds` and say what became of the frames."""
    with _camera(run) as camera, _recorder() as recorder:
        started = time.monotonic()
        with _detector(run) as detector:
            launch = _wait_for_detections(recorder, detector) - started
            time.sleep(3.0)  # caches, threads and the middleware's buffers settle
            before, first = dict(recorder.accounts), len(recorder.frames)
            memory = memory_mb(detector.pid)
            time.sleep(seconds)
            frames, after = np.array(recorder.frames[first:]), dict(recorder.accounts)
            grown = memory_mb(detector.pid)
        sent = _end(camera)['sent']
    stages = {stage: frames[:, i] for i, stage in enumerate(STAGES)}
    overhead = stages['age'] - stages['infer']
    return {
        **asdict(run),
        'seconds': seconds,
        'launch_to_first_detection_s': launch,
        'overhead_ms': _percentiles(overhead),
        'stages_ms': {stage: _percentiles(values) for stage, values in stages.items()},
        'fps_out': len(frames) / seconds,
        'frames': {key: after[key] - before[key] for key in after if key != 'pending'},
        'sent_in_all': sent,
        'memory_mb': {'start': memory, 'end': grown},
    }


def soak(run: Run, minutes: float) -> dict[str, Any]:
    """The node's memory over `minutes`, one reading every two seconds, the first after ten seconds of work."""
    with _camera(run), _recorder() as recorder, _detector(run) as detector:
        _wait_for_detections(recorder, detector)
        time.sleep(10.0)
        readings, began = [], time.monotonic()
        while (elapsed := time.monotonic() - began) < 60 * minutes:
            memory = memory_mb(detector.pid)
            readings.append((elapsed / 60, memory['resident'], memory['private']))
            time.sleep(2.0)
    at, resident, private = np.array(readings).T
    return {
        **asdict(run),
        'minutes': minutes,
        'resident_mb': {'start': float(resident[0]), 'end': float(resident[-1]), 'max': float(resident.max())},
        'private_mb': {'start': float(private[0]), 'end': float(private[-1]), 'max': float(private.max())},
        'private_growth_mb_per_minute': float(np.polyfit(at, private, 1)[0]),
        'readings': readings,
        'frames': recorder.accounts,
    }


def memory_mb(pid: int) -> dict[str, float]:
    """Memory of a process in MB: all that is resident, and of that what is its own.

    The difference is files that are mapped, and the camera's shared-memory segment, which fills up as frames pass.
    """
    kilobytes = {}
    for line in Path(f'/proc/{pid}/status').read_text().splitlines():
        key, _, value = line.partition(':')
        if key in ('VmRSS', 'RssAnon'):
            kilobytes[key] = int(value.split()[0])
    return {'resident': kilobytes['VmRSS'] / 1e3, 'private': kilobytes['RssAnon'] / 1e3}


def _percentiles(values: np.ndarray) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {'p50': float(p50), 'p95': float(p95), 'p99': float(p99)}


@contextlib.contextmanager
def _recorder() -> Iterator[Recorder]:
    rclpy.init()
    try:
        with spinning(Recorder()) as node:
            yield node
    finally:
        rclpy.try_shutdown()


@contextlib.contextmanager
def _camera(run: Run) -> Iterator[subprocess.Popen[str]]:
    width, height = map(str, run.size)
    command = [sys.executable, '-m', 'benchmarks.camera', '--width', width, '--height', height, '--rate', str(run.rate)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != 'ready':
            raise RuntimeError('the camera did not start')
        yield process
    finally:
        _stop(process)


@contextlib.contextmanager
def _detector(run: Run) -> Iterator[subprocess.Popen[bytes]]:
    settings: dict[str, Any] = {
        'autostart': 'true',
        'model': run.model,
        'precision': run.precision,
        'threads': run.threads,
    }
    settings |= {'max_map_drop': 1.0, 'diagnostics_period_s': 0.2}  # measure what is asked for; fresh accounts
    command = [sys.executable, '-m', 'kd_perception.ros.start_detector', '--ros-args', '--log-level', 'warn']
    for name, value in settings.items():
        command += ['-p', f'{name}:={value}']
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        _stop(process)


def _wait_for_detections(recorder: Recorder, detector: subprocess.Popen[bytes]) -> float:
    """The monotonic time of the first detections."""
    deadline = time.monotonic() + PATIENCE
    while recorder.first_detection is None:
        if detector.poll() is not None:
            raise RuntimeError(f'the detector ended with status {detector.returncode} before its first detections')
        if time.monotonic() > deadline:
            raise RuntimeError(f'no detections after {PATIENCE:.0f} s; the detector says why on stderr')
        time.sleep(0.002)
    return recorder.first_detection


def _end(camera: subprocess.Popen[str]) -> dict[str, int]:
    """Stop the camera and read what it says of itself."""
    camera.send_signal(signal.SIGINT)
    output, _ = camera.communicate(timeout=10)
    counts: dict[str, int] = json.loads(output.strip().splitlines()[-1])
    return counts


def _stop(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
