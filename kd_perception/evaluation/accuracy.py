"""Accuracy of detections against ground truth: COCO average precision, and precision and recall at one operating point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_perception.core.detections import Detections

FloatArray = npt.NDArray[np.float64]


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
    """

    images: int
    map50: float
    map: float
    precision: float
    recall: float
    score_threshold: float
    per_class: dict[str, ClassAccuracy]

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
    truth: Sequence[Detections],
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
        truth: what is there, in the same order; scores are ignored.
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
    highest = max((int(entry.class_ids.max()) for entry in (*detections, *truth) if len(entry)), default=-1)
    if highest >= len(class_names):
        raise ValueError(f'class id {highest} has no name: only {len(class_names)} classes are named')
    precisions = _average_precisions(detections, truth, len(class_names), max_detections)
    objects = np.bincount(np.concatenate([entry.class_ids for entry in truth]), minlength=len(class_names))
    per_class = {
        name: ClassAccuracy(int(count), *((float(ap[0]), float(ap.mean())) if count else (None, None)))
        for name, count, ap in zip(class_names, objects, precisions, strict=True)
    }
    present = precisions[objects > 0]
    right, found = _count_matches(detections, truth, score_threshold)
    return Accuracy(
        images=len(truth),
        map50=float(present[:, 0].mean()) if len(present) else 0.0,
        map=float(present.mean()) if len(present) else 0.0,
        precision=right / found if found else 0.0,
        recall=right / int(objects.sum()) if objects.sum() else 0.0,
        score_threshold=score_threshold,
        per_class=per_class,
    )


def _average_precisions(
    detections: Sequence[Detections], truth: Sequence[Detections], class_count: int, max_detections: int
) -> FloatArray:
    """Average precision (classes, 10 IoU thresholds) by faster-coco-eval; rows of classes without objects mean nothing."""
    from faster_coco_eval import COCO, COCOeval_faster

    result = np.zeros((class_count, 10))
    found = [entry for image_id, image in enumerate(detections, 1) for entry in _annotations(image, image_id)]
    objects = [entry for image_id, image in enumerate(truth, 1) for entry in _annotations(image, image_id)]
    if not found or not objects:
        return result
    reference = COCO(
        {
            'images': [{'id': image_id, 'width': 1, 'height': 1} for image_id in range(1, len(truth) + 1)],
            'annotations': [entry | {'id': index, 'iscrowd': 0} for index, entry in enumerate(objects, 1)],
            'categories': [{'id': class_id, 'name': str(class_id)} for class_id in range(class_count)],
        }
    )
    evaluation = COCOeval_faster(reference, reference.loadRes(found), 'bbox', print_function=_silent)
    evaluation.params.maxDets = [1, 10, max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    # precision: IoU × recall × class × area × detections
    result[:] = evaluation.eval['precision'][:, :, :, 0, -1].mean(axis=1).T
    return result


def _silent(*_: object) -> None:
    """The library prints progress; a library's caller decides what is printed."""


def _annotations(image: Detections, image_id: int) -> list[dict[str, Any]]:
    boxes = image.boxes.astype(np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]
    return [
        {
            'image_id': image_id,
            'category_id': int(class_id),
            'bbox': [*corner.tolist(), *side.tolist()],
            'area': float(side.prod()),
            'score': float(score),
        }
        for corner, side, class_id, score in zip(boxes[:, :2], sides, image.class_ids, image.scores, strict=True)
    ]


def _count_matches(
    detections: Sequence[Detections], truth: Sequence[Detections], score_threshold: float
) -> tuple[int, int]:
    """Right detections and all detections at the threshold."""
    right = found = 0
    for image, objects in zip(detections, truth, strict=True):
        kept = image.select(image.scores >= score_threshold)
        found += len(kept)
        right += int(match(kept, objects, iou_threshold=0.5).sum())
    return right, found


def match(detections: Detections, objects: Detections, *, iou_threshold: float) -> npt.NDArray[np.bool_]:
    """Which detections are right: by falling score, each takes the free object of its class with the highest IoU.

    Returns:
        bool (N,), in the order of `detections`.
    """
    overlaps = iou(detections.boxes, objects.boxes)
    overlaps[detections.class_ids[:, None] != objects.class_ids[None]] = 0
    right = np.zeros(len(detections), np.bool_)
    if not len(objects):
        return right
    for index in np.argsort(-detections.scores, kind='stable'):
        best = int(overlaps[index].argmax())
        if overlaps[index, best] >= iou_threshold:
            right[index] = True
            overlaps[:, best] = 0
    return right


def iou(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> FloatArray:
    """Intersection over union (N, M) of two sets of boxes x1, y1, x2, y2; 0 where both are empty."""
    a, b = first.astype(np.float64)[:, None], second.astype(np.float64)[None]
    overlap = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.maximum(overlap, 0).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - intersection
    shares: FloatArray = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return shares


def _percent(value: float | None) -> str:
    return '–' if value is None else f'{100 * value:.1f} %'
