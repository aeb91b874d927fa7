"""The detector without ROS: every artifact of a bundle that runs here, by number of threads."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from kd_perception import engines
from kd_perception.bundles.bundle import Bundle
from kd_perception.detection.detector import Detector
from kd_perception.engines.options import EngineOptions
from kd_perception.scene import Scene

SIZES = ((640, 480), (1280, 720))


def measure(bundle: Bundle, threads: tuple[int, ...] = (1, 2), repetitions: int = 60) -> list[dict[str, Any]]:
    """One row for each artifact, image size and number of threads that the machine has."""
    rows = []
    frames = {size: [Scene(0, *size).frame(k).image for k in range(0, 300, 30)] for size in SIZES}
    for artifact in bundle.artifacts:
        if artifact.engine not in engines.ENGINES:
            continue
        for count in threads:
            if count > len(os.sched_getaffinity(0)):
                continue
            detector = Detector(
                bundle.operated_as(artifact), engines.load(bundle, artifact, EngineOptions(threads=count))
            )
            detector.warm_up(10)
            for size in SIZES:
                name = {'engine': artifact.engine, 'precision': artifact.precision, 'threads': count}
                rows.append({**name, 'size': size, **_run(detector, frames[size], repetitions)})
            detector.close()
    return rows


def _run(detector: Detector, frames: list[np.ndarray], repetitions: int) -> dict[str, Any]:
    times, found = [], 0
    for k in range(repetitions):
        detections, stages = detector.detect(frames[k % len(frames)])
        times.append((stages.preprocess, stages.infer, stages.postprocess))
        found += len(detections)
    table = np.array(times)
    preprocess, infer, postprocess = np.median(table, axis=0)
    total = table.sum(axis=1)
    return {
        'preprocess_ms': float(preprocess),
        'infer_ms': float(infer),
        'postprocess_ms': float(postprocess),
        'total_ms': float(np.median(total)),
        'total_p95_ms': float(np.percentile(total, 95)),
        'detections_per_frame': found / repetitions,
    }
