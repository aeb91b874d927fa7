"""How far an INT8 network is from its float one: on the robot's path, against labels where there are some, and in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd_perception import engines
from kd_perception.bundles.bundle import Bundle
from kd_perception.detection.detections import Detections
from kd_perception.detection.detector import Detector
from kd_perception.detection.overlap import iou
from kd_perception.engines.options import EngineOptions
from kd_perception.metrics.accuracy import measure
from kd_perception.metrics.matching import assign
from kd_perception.metrics.resampling import paired_difference
from training.export import parity as parities
from training.export.parity import MATCH_IOU, Parity, compare
from training.measure import LOWEST_SCORE, with_file
from training.quantize.pictures import Pictures
from training.quantize.timing import Times, measure_times

ASKED_SCORE = 0.05
"""Detections from this score on make the drift: what is fainter, nobody sees."""
MOST_DRIFT = 0.04
"""Without labels, and where the labels of a few dozen pictures cannot tell, a search goes on beyond it."""
MOST_DRIFT_WITH_LABELS = 0.07
"""Where labels show that mAP is kept. It is not endless: on a few dozen pictures mAP moves by whole points without a cause."""
RESAMPLES = 200


@dataclass(frozen=True)
class Verdict:
    """What was measured of a network against its float one.

    Attributes:
        drift: what detections changed by, over how many there are: scores, overlaps, and those that came or went; 0 is the same.
        parity: sure detections found again.
        map: mAP50-95 on the labels, 0 … 1; None without labels.
        float_map: the float network's.
        most: upper end of the 95 % interval of their difference, by resampling the pictures.
    """

    drift: float
    parity: Parity
    map: float | None = None
    float_map: float | None = None
    most: float | None = None

    @property
    def loss(self) -> float | None:
        """The share of the float network's mAP50-95 that is gone; None without labels."""
        if self.map is None or not self.float_map:
            return None
        return 1 - self.map / self.float_map

    def is_near(self, most_loss: float) -> bool:
        """Whether the drift is small enough to stop: mAP decides where it shows that no more than `most_loss` is lost."""
        is_kept = self.loss is not None and self.loss <= most_loss
        return self.drift <= (MOST_DRIFT_WITH_LABELS if is_kept else MOST_DRIFT)

    def holds(self, most_loss: float) -> bool:
        """Whether it is the same detector: found again within the limits of parity, and no loss over `most_loss` is shown."""
        same = self.parity.found >= parities.QUANTIZED.found and self.parity.score <= parities.QUANTIZED.score
        near = self.parity.overlap >= parities.QUANTIZED.overlap
        is_shown = self.most is None or self.most < 0
        return same and near and (self.loss is None or self.loss <= most_loss or not is_shown)


class Judge:
    """The float network's detections, with which others are compared.

    Args:
        bundle: with the float network.
        engine: that runs the networks that are judged.
        pictures: the judged ones are used.
        threads: CPU threads of an inference.
    """

    def __init__(self, bundle: Bundle, engine: str, pictures: Pictures, threads: int) -> None:
        self._bundle, self._engine, self._pictures, self._threads = bundle, engine, pictures, threads
        self.float_file = bundle.folder / bundle.artifact('onnxruntime', 'fp32').file
        self._wanted = self._detect(self.float_file, 'fp32')
        self.float_map = self._map(self._wanted)

    @property
    def sees_anything(self) -> bool:
        """Whether the float network is sure of anything on these pictures."""
        return any((found.scores >= ASKED_SCORE).any() for found in self._wanted)

    def judge(self, file: Path) -> Verdict:
        """Detect with another network and compare."""
        found = self._detect(file, 'int8')
        parity = compare(self._wanted, found, parities.QUANTIZED.asked_score)
        return Verdict(drift(self._wanted, found), parity, self._map(found), self.float_map, self._most(found))

    def times(self, file: Path, rounds: int, amx: bool | None = None) -> Times:
        """A network's time beside the float one's.

        Args:
            file: of the network.
            rounds: timed inferences of each.
            amx: whether OpenVINO may use AMX; None measures which is faster.
        """
        networks = {'float': (self.float_file, 'fp32'), 'int8': (file, 'int8')}
        return measure_times(self._bundle, self._engine, networks, self._pictures.fed[0], rounds, self._threads, amx)

    def _detect(self, file: Path, precision: str) -> list[Detections]:
        one = with_file(self._bundle, file, precision, self._engine)
        engine = engines.load(one, one.artifacts[0], EngineOptions(threads=self._threads))
        detector = Detector(one, engine, self._bundle.thresholds.down_to(LOWEST_SCORE))
        try:
            return [detector.detect(image)[0] for image in self._pictures.judged]
        finally:
            detector.close()

    def _most(self, found: Sequence[Detections]) -> float | None:
        """The most that mAP50-95 may have gained, by resampling the pictures."""
        if self._pictures.truth is None:
            return None
        count, most = len(self._bundle.classes), self._bundle.output.max_detections
        truth = self._pictures.truth
        return paired_difference(found, self._wanted, truth, count, max_detections=most, resamples=RESAMPLES).high

    def _map(self, found: Sequence[Detections]) -> float | None:
        if self._pictures.truth is None:
            return None
        spec = self._bundle
        most = spec.output.max_detections
        score = spec.thresholds.score
        return measure(found, self._pictures.truth, spec.classes, score_threshold=score, max_detections=most).map


def drift(wanted: Sequence[Detections], found: Sequence[Detections]) -> float:
    """What detections changed by, over how many the reference has.

    A detection that is found again (same class, IoU 0.5) counts with the difference of its scores and 1 − IoU, weighted by its
    score; one that came or went counts with its score.
    """
    changed, asked = 0.0, 0
    for reference, other in zip(wanted, found, strict=True):
        mine = reference.select(reference.scores >= ASKED_SCORE)
        taken = assign(mine, other, MATCH_IOU)
        hits = taken >= 0
        matched = other.select(taken[hits])
        overlap = iou(mine.boxes[hits], matched.boxes).diagonal()
        changed += float(np.abs(mine.scores[hits] - matched.scores).sum())
        changed += float((mine.scores[hits] * (1 - overlap)).sum()) + float(mine.scores[~hits].sum())
        new = np.ones(len(other), np.bool_)
        new[taken[hits]] = False
        changed += float(other.scores[new & (other.scores >= ASKED_SCORE)].sum())
        asked += len(mine)
    return changed / max(asked, 1)
