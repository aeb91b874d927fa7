"""Preprocess and postprocess of the core, side by side with the plain float path that detectors are usually shipped with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from kd_perception.detection.decoding import decode_output
from kd_perception.detection.letterbox import Letterbox
from kd_perception.detection.nms import nms

SOURCE, INPUT = (1280, 720), (640, 640)
CANDIDATES, CLASSES, OBJECTS = 8400, 5, 50
SCORE, IOU, MOST = 0.25, 0.5, 300


@dataclass(frozen=True)
class Pair:
    """Medians in ms of the same work done our way and the plain way, taken in turns."""

    work: str
    core_ms: float
    plain_ms: float

    @property
    def ratio(self) -> float:
        """How many times quicker the core is."""
        return self.plain_ms / self.core_ms


def measure(repetitions: int = 300) -> dict[str, Any]:
    """All pairs, and the sum that the target speaks of."""
    image = np.random.default_rng(0).integers(0, 256, (SOURCE[1], SOURCE[0], 3), np.uint8)
    boxes, scores = network_outputs()
    core = CorePath()
    if not np.allclose(core.postprocess(boxes, scores), plain_postprocess(boxes, scores), atol=0.01):
        raise RuntimeError('the two postprocessing paths do not find the same boxes: the comparison means nothing')
    pairs = [
        _pair('preprocess', lambda: core.preprocess(image), lambda: plain_preprocess(image), repetitions),
        _pair(
            'postprocess',
            lambda: core.postprocess(boxes, scores),
            lambda: plain_postprocess(boxes, scores),
            repetitions,
        ),
    ]
    return {
        'source': SOURCE,
        'input': INPUT,
        'candidates': CANDIDATES,
        'classes': CLASSES,
        'above_threshold': int((scores > SCORE).sum()),
        'pairs': [{**asdict(pair), 'ratio': pair.ratio} for pair in pairs],
        'core_sum_ms': sum(pair.core_ms for pair in pairs),
        'plain_sum_ms': sum(pair.plain_ms for pair in pairs),
    }


def network_outputs() -> tuple[np.ndarray, np.ndarray]:
    """What a detector says of a street: 50 objects with 8 overlapping candidates each, the rest low scores."""
    rng = np.random.default_rng(1)
    scores = (rng.random((1, CANDIDATES, CLASSES)) ** 30 * SCORE).astype(np.float32)
    boxes = rng.uniform(0, 600, (1, CANDIDATES, 4)).astype(np.float32)
    boxes[..., 2:] = boxes[..., :2] + 20
    owner = np.repeat(np.arange(OBJECTS), 8)
    rows = rng.choice(CANDIDATES, len(owner), replace=False)
    centers = rng.uniform(20, 620, (OBJECTS, 2))[owner] + rng.normal(0, 1, (len(owner), 2))
    half = rng.uniform(10, 25, (OBJECTS, 2))[owner]
    boxes[0, rows] = np.hstack([centers - half, centers + half])
    scores[0, rows, owner % CLASSES] = rng.uniform(0.3, 0.95, len(owner))
    return boxes, scores


class CorePath:
    """The path of the node: buffers reused, uint8 to the network."""

    def __init__(self) -> None:
        self._letterbox = Letterbox(SOURCE, INPUT)
        self._canvas = np.empty((INPUT[1], INPUT[0], 3), np.uint8)

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """Letterbox; normalization and channel order are in the graph's first convolution."""
        return self._letterbox.apply(image, self._canvas)[None]

    def postprocess(self, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Boxes in source pixels, by descending score."""
        found = decode_output('boxes_scores', {'boxes': boxes, 'scores': scores}, score_threshold=SCORE)
        return self._letterbox.to_source(nms(found, IOU, MOST).boxes)


def plain_preprocess(image: np.ndarray) -> np.ndarray:
    """Resize, pad, swap channels, scale to float, transpose: each step a new array."""
    width, height = 640, 360
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    padded = cv2.copyMakeBorder(resized, 140, 140, 0, 0, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    rgb = cv2.cvtColor(padded, cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(rgb.astype(np.float32).transpose(2, 0, 1)[None] / 255)


def plain_postprocess(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Best class of every row, threshold, then NMS box by box with its IoUs in numpy, class after class."""
    best, classes = scores[0].max(axis=1), scores[0].argmax(axis=1)
    keep = best > SCORE
    found, best, classes = boxes[0][keep], best[keep], classes[keep]
    kept: list[int] = []
    for class_id in np.unique(classes):
        order = np.flatnonzero(classes == class_id)
        order = order[np.argsort(-best[order], kind='stable')]
        while len(order):
            kept.append(int(order[0]))
            a, rest = found[order[0]], found[order[1:]]
            corners = np.minimum(a[2:], rest[:, 2:]) - np.maximum(a[:2], rest[:, :2])
            shared = np.clip(corners, 0, None).prod(axis=1)
            whole = (a[2:] - a[:2]).prod() + (rest[:, 2:] - rest[:, :2]).prod(axis=1) - shared
            order = order[1:][shared / whole <= IOU]
    kept = sorted(kept, key=lambda i: -best[i])[:MOST]
    source = found[kept]
    source[:, [1, 3]] -= 140
    source *= 2
    clipped: np.ndarray = np.clip(source, 0, SOURCE * 2)
    return clipped


def _pair(work: str, core: Callable[[], Any], plain: Callable[[], Any], repetitions: int) -> Pair:
    """Medians of both, in turns, so that a disturbance meets both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    for repetition in range(repetitions + 10):
        for way, samples in zip((core, plain), times, strict=True):
            started = time.perf_counter()
            way()
            elapsed = 1e3 * (time.perf_counter() - started)
            if repetition >= 10:
                samples.append(elapsed)
    return Pair(work, *(statistics.median(samples) for samples in times))
