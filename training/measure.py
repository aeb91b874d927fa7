"""Accuracy of a bundle on a data set, through the runtime's own path: the figures that a bundle states are made here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kd_perception import engines
from kd_perception.core.bundle import Bundle
from kd_perception.core.detections import Detections
from kd_perception.core.detector import Detector
from kd_perception.core.engine import EngineOptions
from kd_perception.evaluation.accuracy import Accuracy, measure
from kd_perception.evaluation.ground_truth import GroundTruth
from training.data.dataset import read_split

LOWEST_SCORE = 0.001
"""Average precision asks for the whole curve, so nearly everything is detected."""


def measure_bundle(
    bundle: Bundle, precision: str, dataset: Path, split: str = 'val', *, engine: str = 'onnxruntime', threads: int = 1
) -> Accuracy:
    """Detect on every image of the split and compare with its labels.

    Precision and recall are those at the bundle's own score threshold.

    Raises:
        BundleError, EngineError: the bundle has no such artifact, or it does not run.
        DataError: no such split.
    """
    artifact = bundle.artifact(engine, precision)
    options = EngineOptions(threads=threads)
    detector = Detector(bundle, engines.load(bundle, artifact, options), replace(bundle.thresholds, score=LOWEST_SCORE))
    found: list[Detections] = []
    truth: list[GroundTruth] = []
    try:
        for item in read_split(dataset, split):
            found.append(detector.detect(item.image)[0])
            truth.append(GroundTruth.of(item.objects))
    finally:
        detector.close()
    return measure(
        found,
        truth,
        bundle.classes,
        score_threshold=bundle.thresholds.score,
        max_detections=bundle.output.max_detections,
    )
