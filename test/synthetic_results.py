"""Results of an evaluation without a detector: a scene's boxes, moved, forgotten and invented at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections
from kd_perception.detection.stage_times import StageTimes
from kd_perception.evaluation.results import BagResult, FrameResult

WIDTH, HEIGHT, FPS = 1280, 720, 15


def synthetic_result(
    name: str = 'flight',
    frames: int = 60,
    classes: int = 3,
    seed: int = 0,
    count: int = 0,
    truth: bool = True,
    latency_ms: float = 40.0,
    path: Path = Path('not-there'),
) -> BagResult:
    """A bag's results: objects that drift over the image, found by a detector that errs now and then."""
    random = np.random.default_rng(seed)
    count = count or 2 * classes
    corners = random.uniform(0, (WIDTH - 200, HEIGHT - 200), (count, 2))
    objects = np.hstack([corners, corners + random.uniform(15, 190, (count, 2))]).astype(np.float32)
    ids = random.permutation(np.arange(count, dtype=np.int32) % max(classes, 1))
    results, truths = [], {}
    for k in range(frames):
        stamp = k * 1_000_000_000 // FPS
        there = Detections(objects + 3.0 * np.sin(k / 9), np.ones(count, np.float32), ids)
        truths[stamp] = GroundTruth.of(there)
        results.append(FrameResult(stamp, _detect(there, random), _times(latency_ms, random)))
    return BagResult(
        name, path, f'{seed:064x}', '/image', tuple(results), truths if truth else {}, {'provider': 'CPU', 'threads': 1}
    )


def _detect(there: Detections, random: np.random.Generator) -> Detections:
    """Nine in ten of the objects, a little off, and a few that are not there; the better scores are right more often."""
    found = there.select(random.random(len(there)) < 0.9)
    boxes = found.boxes + random.normal(0, 2.5, found.boxes.shape)
    invented = random.uniform(0, (WIDTH - 90, HEIGHT - 90), (random.poisson(1.5), 2))
    alarms = np.hstack([invented, invented + 60])
    return Detections(
        np.concatenate([boxes, alarms]),
        np.concatenate([random.beta(6, 2, len(found)), random.beta(2, 5, len(alarms))]),
        np.concatenate([found.class_ids, random.integers(0, there.class_ids.max(initial=0) + 1, len(alarms))]),
    )


def _times(latency_ms: float, random: np.random.Generator) -> StageTimes:
    slow = 1 + random.gamma(1.5, 0.12)
    return StageTimes(
        decode=0.12 * latency_ms * slow,
        preprocess=0.06 * latency_ms,
        infer=0.8 * latency_ms * slow,
        postprocess=0.02 * latency_ms,
    )
