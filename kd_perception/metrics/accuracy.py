"""Accuracy of detections against ground truth: COCO average precision, and precision and recall at one operating point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections
from kd_perception.metrics.matching import judge
from kd_perception.metrics.operating_point import operating_point

FloatArray = npt.NDArray[np.float64]
SIZES = ('small', 'medium', 'large')
SIZE_LIMITS = (32**2, 96**2)


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
        map50: mean over the classes that occur of the average precision at IoU 0.5.
        map: the same, mean over IoU 0.50, 0.55 … 0.95 (COCO's AP).
        precision: right detections ÷ detections, at `score_threshold` and IoU 0.5, all classes together; 0 without detections.
        recall: right detections ÷ objects, likewise; 0 without objects.
        score_threshold: the operating point of `precision` and `recall`.
        per_class: by class name, in the order of the class list.
        per_size: `map` of small (under 32² pixels of the source), medium and large (from 96²) objects; None where there are none.
    """

    images: int
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
        lines.append(f'{"all":<16}{self._objects():>8}{_percent(self.map50):>8}{_percent(self.map):>8}')
        lines.append(
            f'at score {self.score_threshold:g}, IoU 0.5: precision {_percent(self.precision)}, recall {_percent(self.recall)}'
            f' ({self.images} images)'
        )
        return '\n'.join(lines)

    def _objects(self) -> int:
        return sum(entry.objects for entry in self.per_class.values())


def measure(
    detections: Sequence[Detections],
    truth: Sequence[GroundTruth],
    class_names: Sequence[str],
    *,
    score_threshold: float,
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
    table = _average_precisions(detections, truth, len(class_names), max_detections)
    per_class = {
        name: ClassAccuracy(int(count), *((float(ap[0]), float(ap.mean())) if count else (None, None)))
        for name, count, ap in zip(class_names, judged.objects, table[:, :, 0].T, strict=True)
    }
    present = table[:, judged.objects > 0, :]
    point = operating_point(judged, score_threshold)
    return Accuracy(
        images=len(truth),
        map50=float(present[0, :, 0].mean()) if present.size else 0.0,
        map=float(present[:, :, 0].mean()) if present.size else 0.0,
        precision=point.precision,
        recall=point.recall,
        score_threshold=score_threshold,
        per_class=per_class,
        per_size={name: _mean_of_known(table[:, :, area]) for area, name in enumerate(SIZES, 1)},
    )


def _average_precisions(
    detections: Sequence[Detections], truth: Sequence[GroundTruth], class_count: int, max_detections: int
) -> FloatArray:
    """Average precision (10 IoU thresholds, classes, all + sizes) by faster-coco-eval; -1 where there is no object."""
    from faster_coco_eval import COCO, COCOeval_faster

    found = [entry for image_id, image in enumerate(detections, 1) for entry in _found(image, image_id)]
    objects = [entry for image_id, image in enumerate(truth, 1) for entry in _objects(image, image_id, class_count)]
    if not found or not objects:
        return _without_matches(truth, class_count)
    reference = COCO(
        {
            'images': [{'id': image_id, 'width': 1, 'height': 1} for image_id in range(1, len(truth) + 1)],
            'annotations': [entry | {'id': index} for index, entry in enumerate(objects, 1)],
            'categories': [{'id': class_id, 'name': str(class_id)} for class_id in range(class_count)],
        }
    )
    evaluation = COCOeval_faster(reference, reference.loadRes(found), 'bbox', print_function=_silent)
    evaluation.params.maxDets = [1, 10, max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    # precision: IoU × recall × class × area × detections
    precisions: FloatArray = evaluation.eval['precision'][..., -1].mean(axis=1)
    return precisions


def _without_matches(truth: Sequence[GroundTruth], class_count: int) -> FloatArray:
    """The library refuses empty sets: 0 for what is there and was not found, -1 for what is not there."""
    table = -np.ones((10, class_count, 1 + len(SIZES)))
    for image in truth:
        for entry in _objects(image, 0, 0):
            if not entry['iscrowd']:
                size = 1 + sum(entry['area'] >= limit for limit in SIZE_LIMITS)
                table[:, entry['category_id'], [0, size]] = 0
    return table


def _mean_of_known(precisions: FloatArray) -> float | None:
    known = precisions[precisions > -1]
    return float(known.mean()) if known.size else None


def _silent(*_: object) -> None:
    """The library prints progress; a library's caller decides what is printed."""


def _found(image: Detections, image_id: int) -> list[dict[str, Any]]:
    return [
        _annotation(box, int(class_id), image_id) | {'score': float(score)}
        for box, class_id, score in zip(image.boxes, image.class_ids, image.scores, strict=True)
    ]


def _objects(image: GroundTruth, image_id: int, class_count: int) -> list[dict[str, Any]]:
    """Objects and crowds; an ignored region is a crowd of every class."""
    rows = zip(image.objects.boxes, image.objects.class_ids, image.crowd, strict=True)
    objects = [_annotation(box, int(class_id), image_id) | {'iscrowd': int(crowd)} for box, class_id, crowd in rows]
    ignored = [
        _annotation(box, class_id, image_id) | {'iscrowd': 1}
        for box in image.ignored
        for class_id in range(class_count)
    ]
    return objects + ignored


def _annotation(box: npt.NDArray[np.float32], class_id: int, image_id: int) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return {
        'image_id': image_id,
        'category_id': class_id,
        'bbox': [x1, y1, x2 - x1, y2 - y1],
        'area': (x2 - x1) * (y2 - y1),
    }


def _percent(value: float | None) -> str:
    return '–' if value is None else f'{100 * value:.1f} %'
