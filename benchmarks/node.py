"""The real node behind a real camera over DDS: overhead of a frame, drops, start, memory."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from vision_msgs.msg import Detection2DArray

from benchmarks import processes
from kd_perception.detection.stage_times import STAGES
from kd_perception.ros import qos
from kd_perception.ros.large_messages import allow_large_messages

SIZES = ((640, 480), (1920, 1080))


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
        self.first_detection = 0.0
        self.frames: list[tuple[float, ...]] = []
        self.accounts: dict[str, int] = {}
        self.create_subscription(Detection2DArray, 'detections', self._on_detections, 10)
        self.create_subscription(DiagnosticArray, 'detector/frame_latency', self._on_latency, qos.IMAGE)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def _on_detections(self, _: Detection2DArray) -> None:
        if not self.first_detection:
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
    with processes.camera(run.size, run.rate) as camera, processes.spun(Recorder) as recorder:
        started = time.monotonic()
        with processes.running(_detector(run)) as detector:
            processes.wait_for_answer(lambda: recorder.first_detection, detector, 'the detector')
            launch = recorder.first_detection - started
            time.sleep(3.0)  # caches, threads and the middleware's buffers settle
            before, first = dict(recorder.accounts), len(recorder.frames)
            memory = memory_mb(detector.pid)
            time.sleep(seconds)
            frames, after = np.array(recorder.frames[first:]), dict(recorder.accounts)
            grown = memory_mb(detector.pid)
        sent = processes.end_camera(camera)
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
    with (
        processes.camera(run.size, run.rate),
        processes.spun(Recorder) as recorder,
        processes.running(_detector(run)) as detector,
    ):
        processes.wait_for_answer(lambda: recorder.first_detection, detector, 'the detector')
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


def _detector(run: Run) -> list[str]:
    settings = {'model': run.model, 'precision': run.precision, 'threads': run.threads}
    return processes.detector_command({**settings, 'diagnostics_period_s': 0.2})  # fresh accounts
