"""Matching, on cases worked out by hand."""

import numpy as np
import pytest

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections
from kd_perception.detection.overlap import iou
from kd_perception.metrics.matching import judge, match

SQUARE = (0, 0, 10, 10)
FAR = (100, 100, 110, 110)


def found(*rows: tuple[tuple[float, ...], float, int]) -> Detections:
    """Detections from (box, score, class id)."""
    boxes, scores, class_ids = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(np.array(boxes), np.array(scores), np.array(class_ids))


@pytest.mark.parametrize(
    ('box', 'share'),
    [
        (SQUARE, 1.0),
        ((0, 0, 10, 5), 0.5),
        ((5, 0, 15, 10), 1 / 3),
        ((5, 5, 15, 15), 25 / 175),
        ((10, 0, 20, 10), 0.0),
        ((3, 3, 3, 3), 0.0),
    ],
)
def test_iou(box, share):
    assert iou(np.array([SQUARE], np.float32), np.array([box], np.float32))[0, 0] == pytest.approx(share)


def test_empty_boxes_have_no_overlap_with_themselves():
    empty = np.array([(3, 3, 3, 3)], np.float32)
    assert iou(empty, empty)[0, 0] == 0


def test_each_object_goes_to_the_best_scored_detection():
    # the better placed box scores lower, so it finds the object taken
    detections = found(((0, 0, 10, 9), 0.6, 0), ((0, 0, 10, 8), 0.9, 0))
    assert match(detections, found((SQUARE, 1, 0)), 0.5).tolist() == [False, True]


def test_verdicts_of_all_images_come_by_falling_score():
    detections = [found((SQUARE, 0.6, 0), (FAR, 0.3, 1)), found((SQUARE, 0.9, 0))]
    truth = [GroundTruth.of(found((SQUARE, 1, 0))), GroundTruth.of(found((FAR, 1, 1)))]
    judged = judge(detections, truth, class_count=2)
    assert judged.scores.tolist() == pytest.approx([0.9, 0.6, 0.3])
    assert judged.right.tolist() == [False, True, False]
    assert judged.objects.tolist() == [1, 1]
    assert judged.images == 2
    assert judged.of_class(1).right.tolist() == [False]
