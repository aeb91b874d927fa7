"""COCO average precision by faster-coco-eval: of a set of images once, and of many samples of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections

FloatArray = npt.NDArray[np.float64]
SIZES = ('small', 'medium', 'large')
SIZE_LIMITS = (32**2, 96**2)
_IOUS = 10


def average_precisions(
    detections: Sequence[Detections], truth: Sequence[GroundTruth], class_count: int, max_detections: int
) -> FloatArray:
    """Average precision, float64 (10 IoU thresholds, classes, all + `SIZES`); -1 where there is no object."""
    evaluation = _evaluation(detections, truth, class_count, max_detections)
    if evaluation is None:
        return _without_matches(truth, class_count)
    evaluation.accumulate()
    return _mean_over_recall(evaluation.eval)


def sampled_maps(
    detections: Sequence[Detections],
    truth: Sequence[GroundTruth],
    class_count: int,
    samples: npt.NDArray[np.int64],
    max_detections: int,
) -> FloatArray:
    """mAP50-95 of each sample of the images, float64 (S,): the mean over the classes that occur in it, 0 where none does.

    An image is matched with its objects once; a sample only sums up anew, so that a thousand take seconds.

    Args:
        detections: what was found, one entry an image.
        truth: what is there, in the same order.
        class_count: number of classes.
        samples: int64 (S, images), the numbers of the images that each sample holds; an image may be in it several times.
        max_detections: most detections counted per image and class, the best first.
    """
    evaluation = _evaluation(detections, truth, class_count, max_detections, by_size=False)
    if evaluation is None:
        return np.zeros(len(samples))
    import faster_coco_eval.faster_eval_api_cpp as library

    # By class, then by image: `evaluate` leaves them so for `accumulate`, which only sums up.
    matched = np.empty(len(evaluation._evalImgs_cpp), object)
    matched[:] = evaluation._evalImgs_cpp
    images = matched.reshape(class_count, len(truth))
    maps = np.zeros(len(samples))
    for number, sample in enumerate(samples):
        summed = library.COCOevalAccumulate(evaluation._paramsEval, images[:, sample].ravel().tolist())
        of_class = _mean_over_recall(summed)[:, :, 0].mean(axis=0)
        present = of_class[of_class > -1]
        maps[number] = present.mean() if present.size else 0.0
    return maps


def _evaluation(
    detections: Sequence[Detections],
    truth: Sequence[GroundTruth],
    class_count: int,
    max_detections: int,
    *,
    by_size: bool = True,
) -> Any:
    """The library's evaluation with every image matched; None where it has nothing to match, which it refuses."""
    from faster_coco_eval import COCO, COCOeval_faster

    found = [entry for image_id, image in enumerate(detections, 1) for entry in _found(image, image_id)]
    objects = [entry for image_id, image in enumerate(truth, 1) for entry in _objects(image, image_id, class_count)]
    if not found or not objects:
        return None
    reference = COCO(
        {
            'images': [{'id': image_id, 'width': 1, 'height': 1} for image_id in range(1, len(truth) + 1)],
            'annotations': [entry | {'id': index} for index, entry in enumerate(objects, 1)],
            'categories': [{'id': class_id, 'name': str(class_id)} for class_id in range(class_count)],
        }
    )
    evaluation = COCOeval_faster(
        reference, reference.loadRes(found), 'bbox', print_function=_silent, separate_eval=True
    )
    evaluation.params.maxDets = [1, 10, max_detections]
    if not by_size:
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
    evaluation.evaluate()
    return evaluation


def _mean_over_recall(evaluated: Any) -> FloatArray:
    """precision: IoU × recall × class × area × detections."""
    precisions: FloatArray = np.asarray(evaluated['precision'])[..., -1].mean(axis=1)
    return precisions


def _without_matches(truth: Sequence[GroundTruth], class_count: int) -> FloatArray:
    """0 for what is there and was not found, -1 for what is not there."""
    table = -np.ones((_IOUS, class_count, 1 + len(SIZES)))
    for image in truth:
        for entry in _objects(image, 0, 0):
            if not entry['iscrowd']:
                size = 1 + sum(entry['area'] >= limit for limit in SIZE_LIMITS)
                table[:, entry['category_id'], [0, size]] = 0
    return table


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
