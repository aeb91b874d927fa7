"""Accuracy of detections against ground truth: COCO average precision, and precision and recall at one operating point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections, FloatArray
from kd_perception.metrics.average_precision import SIZES, average_precisions
from kd_perception.metrics.matching import judge
from kd_perception.metrics.operating_point import operating_point


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracy of one class.

    Attributes:
        objects: ground-truth objects of the class.
        map50: average precision at IoU 0.5; None for a class without objects.
        map: average precision, mean over IoU 0.50, 0.55 … 0.95; None likewise.
    """

    objects: int
    map50: float | None
    map: float | None


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a set of images.

    Attributes:
        images: number of images.
        objects: number of ground-truth objects, all classes together, crowds left out.
        map50: mean over the classes that occur of the average precision at IoU 0.5.
        map: the same, mean over IoU 0.50, 0.55 … 0.95 (COCO's AP).
        precision: right detections ÷ detections, at `score_threshold` and IoU 0.5, all classes together; 0 without detections.
        recall: right detections ÷ objects, likewise; 0 without objects.
        score_threshold: the operating point of `precision` and `recall`.
        per_class: by class name, in the order of the class list.
        per_size: `map` of small (under 32² pixels of the source), medium and large (from 96²) objects; None where there are none.
    """

    images: int
    objects: int
    map50: float
    map: float
    precision: float
    recall: float
    score_threshold: float
    per_class: dict[str, ClassAccuracy]
    per_size: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded to four places, as bundles keep them."""
        return {
            'images': self.images,
            'objects': self.objects,
            'map50': round(self.map50, 4),
            'map': round(self.map, 4),
            'precision': round(self.precision, 4),
            'recall': round(self.recall, 4),
            'score_threshold': self.score_threshold,
            'per_class': {
                name: {'objects': entry.objects}
                if entry.map is None or entry.map50 is None
                else {'objects': entry.objects, 'map50': round(entry.map50, 4), 'map': round(entry.map, 4)}
                for name, entry in self.per_class.items()
            },
            'per_size': {name: None if value is None else round(value, 4) for name, value in self.per_size.items()},
        }

    def __str__(self) -> str:
        lines = [f'{"class":<16}{"objects":>8}{"mAP50":>8}{"mAP":>8}']
        for name, entry in self.per_class.items():
            lines.append(f'{name:<16}{entry.objects:>8}{_percent(entry.map50):>8}{_percent(entry.map):>8}')
        lines.append(f'{"all":<16}{self.objects:>8}{_percent(self.map50):>8}{_percent(self.map):>8}')
        lines.append(
            f'at score {self.score_threshold:g}, IoU 0.5: precision {_percent(self.precision)}, recall {_percent(self.recall)}'
            f' ({self.images} images)'
        )
        return '\n'.join(lines)


def measure(
    detections: Sequence[Detections],
    truth: Sequence[GroundTruth],
    class_names: Sequence[str],
    *,
    score_threshold: float,
    lowest: FloatArray | None = None,
    max_detections: int = 300,
) -> Accuracy:
    """Compare detections with ground truth, image by image.

    Average precision sees every detection, so detect with a very low score threshold (0.001); `score_threshold` only sets
    the operating point of precision and recall.

    Args:
        detections: what was found, one entry an image.
        truth: what is there, in the same order.
        class_names: name of every class id that occurs.
        score_threshold: 0 … 1.
        lowest: score threshold of each class (C,) where they differ, see `Thresholds.scores_of`.
        max_detections: most detections counted per image and class, the best first.

    Raises:
        ValueError: the two lists differ in length or are empty, or a class id has no name.
    """
    if len(detections) != len(truth) or not truth:
        raise ValueError(
            f'{len(detections)} images with detections and {len(truth)} with ground truth: give one of each per image'
        )
    everything = [*detections, *(image.objects for image in truth)]
    highest = max((int(entry.class_ids.max()) for entry in everything if len(entry)), default=-1)
    if highest >= len(class_names):
        raise ValueError(f'class id {highest} has no name: only {len(class_names)} classes are named')
    judged = judge(detections, truth, len(class_names))
    table = average_precisions(detections, truth, len(class_names), max_detections)
    per_class = {
        name: ClassAccuracy(int(count), *((float(ap[0]), float(ap.mean())) if count else (None, None)))
        for name, count, ap in zip(class_names, judged.objects, table[:, :, 0].T, strict=True)
    }
    present = table[:, judged.objects > 0, :]
    point = operating_point(judged, score_threshold, lowest)
    return Accuracy(
        images=len(truth),
        objects=int(judged.objects.sum()),
        map50=float(present[0, :, 0].mean()) if present.size else 0.0,
        map=float(present[:, :, 0].mean()) if present.size else 0.0,
        precision=point.precision,
        recall=point.recall,
        score_threshold=score_threshold,
        per_class=per_class,
        per_size={name: _mean_of_known(table[:, :, area]) for area, name in enumerate(SIZES, 1)},
    )


def _mean_of_known(precisions: npt.NDArray[np.float64]) -> float | None:
    known = precisions[precisions > -1]
    return float(known.mean()) if known.size else None


def _percent(value: float | None) -> str:
    return '–' if value is None else f'{100 * value:.1f} %'
