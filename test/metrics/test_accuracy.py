"""COCO accuracy on cases worked out by hand."""

import numpy as np
import pytest

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections
from kd_perception.metrics.accuracy import Accuracy, measure

CLASSES = ('car', 'truck')
SQUARE = (0, 0, 10, 10)
FAR = (100, 100, 110, 110)


def found(*rows: tuple[tuple[float, ...], float, int]) -> Detections:
    """Detections from (box, score, class id)."""
    boxes, scores, class_ids = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(np.array(boxes), np.array(scores), np.array(class_ids))


def measured(detections: list[Detections], truth: list[Detections], score_threshold: float = 0.5) -> Accuracy:
    return measure(detections, [GroundTruth.of(t) for t in truth], CLASSES, score_threshold=score_threshold)


@pytest.mark.parametrize(
    ('why', 'detections', 'truth', 'map50', 'map50_95', 'precision', 'recall'),
    [
        ('all right', found((SQUARE, 0.9, 0)), found((SQUARE, 1, 0)), 1, 1, 1, 1),
        # IoU 0.72 counts at 0.50, 0.55, 0.60, 0.65, 0.70: five of ten thresholds
        ('IoU 0.72', found(((0, 0, 10, 7.2), 0.9, 0)), found((SQUARE, 1, 0)), 1, 0.5, 1, 1),
        ('IoU 0.4', found(((0, 0, 10, 4), 0.9, 0)), found((SQUARE, 1, 0)), 0, 0, 0, 0),
        ('wrong class', found((SQUARE, 0.9, 1)), found((SQUARE, 1, 0)), 0, 0, 0, 0),
        ('nothing found', found(), found((SQUARE, 1, 0)), 0, 0, 0, 0),
        ('below the operating point', found((SQUARE, 0.4, 0)), found((SQUARE, 1, 0)), 1, 1, 0, 0),
        # the false alarm scores higher: precision is 1/2 at every recall
        ('false alarm first', found((FAR, 0.9, 0), (SQUARE, 0.8, 0)), found((SQUARE, 1, 0)), 0.5, 0.5, 0.5, 1),
        # the false alarm scores lower: it costs no average precision
        ('false alarm last', found((FAR, 0.7, 0), (SQUARE, 0.8, 0)), found((SQUARE, 1, 0)), 1, 1, 0.5, 1),
        ('found twice', found((SQUARE, 0.8, 0), (SQUARE, 0.7, 0)), found((SQUARE, 1, 0)), 1, 1, 0.5, 1),
        # recall stops at 1/2: 51 of COCO's 101 recall points are reached
        ('one of two', found((SQUARE, 0.9, 0)), found((SQUARE, 1, 0), (FAR, 1, 0)), 51 / 101, 51 / 101, 1, 0.5),
        # car 1, truck 0: the mean over the classes that occur
        ('one class of two', found((SQUARE, 0.9, 0)), found((SQUARE, 1, 0), (FAR, 1, 1)), 0.5, 0.5, 1, 0.5),
        # a class that does not occur is no part of the mean, its false alarm is one at the operating point
        ('absent class', found((SQUARE, 0.9, 0), (FAR, 0.9, 1)), found((SQUARE, 1, 0)), 1, 1, 0.5, 1),
        ('empty image', found(), found(), 0, 0, 0, 0),
    ],
)
def test_one_image(why, detections, truth, map50, map50_95, precision, recall):
    accuracy = measured([detections], [truth])
    got = (accuracy.map50, accuracy.map, accuracy.precision, accuracy.recall)
    assert got == pytest.approx((map50, map50_95, precision, recall)), why


def test_detections_count_only_in_their_own_image():
    accuracy = measured([found((SQUARE, 0.9, 0)), found()], [found(), found((SQUARE, 1, 0))])
    assert (accuracy.map50, accuracy.precision, accuracy.recall) == (0, 0, 0)


def test_classes_are_told_apart_and_absent_ones_have_no_figure():
    accuracy = measured([found((SQUARE, 0.9, 0))], [found((SQUARE, 1, 0))])
    assert accuracy.per_class['car'].map50 == pytest.approx(1)
    assert accuracy.per_class['truck'].map50 is None
    assert accuracy.to_json()['per_class'] == {'car': {'objects': 1, 'map50': 1.0, 'map': 1.0}, 'truck': {'objects': 0}}
    assert 'truck' in str(accuracy)


def test_more_than_a_hundred_objects_in_one_image_all_count():
    boxes = [((20 * k, 0, 20 * k + 10, 10), 0.9, 0) for k in range(150)]
    assert measured([found(*boxes)], [found(*boxes)]).map == pytest.approx(1)


@pytest.mark.parametrize(
    ('detections', 'truth', 'message'),
    [
        ([found()], [found(), found()], '1 images with detections and 2'),
        ([], [], 'one of each per image'),
        ([found((SQUARE, 0.9, 7))], [found()], 'class id 7 has no name'),
    ],
)
def test_what_cannot_be_compared_is_refused(detections, truth, message):
    with pytest.raises(ValueError, match=message):
        measured(detections, truth)


def crowded(objects: Detections, *crowd: bool, ignored: tuple[float, ...] | None = None) -> GroundTruth:
    return GroundTruth(objects, np.array(crowd), np.array([ignored] if ignored else [], np.float32).reshape(-1, 4))


@pytest.mark.parametrize(
    ('why', 'truth'),
    [
        ('a crowd of the class', crowded(found((SQUARE, 1, 0), (FAR, 1, 0)), False, True)),
        ('an ignored region', crowded(found((SQUARE, 1, 0)), False, ignored=(90, 90, 200, 200))),
    ],
)
def test_what_is_found_in_a_crowd_or_ignored_region_is_judged_neither_way(why, truth):
    detections = found((FAR, 0.9, 0), ((101, 101, 109, 109), 0.85, 0), (SQUARE, 0.8, 0))
    accuracy = measure([detections], [truth], CLASSES, score_threshold=0.5)
    assert (accuracy.map50, accuracy.precision, accuracy.recall) == pytest.approx((1, 1, 1)), why
    assert accuracy.per_class['car'].objects == 1


def test_a_crowd_of_another_class_excuses_nothing():
    truth = crowded(found((SQUARE, 1, 0), (FAR, 1, 1)), False, True)
    accuracy = measure([found((FAR, 0.9, 0), (SQUARE, 0.8, 0))], [truth], CLASSES, score_threshold=0.5)
    assert (accuracy.map50, accuracy.precision) == pytest.approx((0.5, 0.5))


def test_sizes_are_scored_apart():
    small, medium, large = (0, 0, 20, 20), (100, 0, 150, 50), (300, 0, 400, 100)
    truth = [found((small, 1, 0), (medium, 1, 0), (large, 1, 0))]
    accuracy = measured([found((small, 0.9, 0), (large, 0.8, 0))], truth)
    assert accuracy.per_size == pytest.approx({'small': 1, 'medium': 0, 'large': 1})
    assert measured([found()], [found((medium, 1, 0))]).per_size == {'small': None, 'medium': 0, 'large': None}
