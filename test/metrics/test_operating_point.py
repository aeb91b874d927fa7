"""Operating points and calibration, on verdicts written by hand."""

import numpy as np
import pytest

from kd_perception.metrics.matching import Judged
from kd_perception.metrics.operating_point import (
    at_false_alarms,
    at_recall,
    calibration,
    operating_point,
    precision_recall_curve,
)


def judged(*rows: tuple[float, bool], objects: int = 4, images: int = 2) -> Judged:
    scores, right = zip(*rows, strict=True) if rows else ((), ())
    return Judged(
        np.array(scores, float), np.array(right, bool), np.zeros(len(rows), np.int32), np.array([objects]), images
    )


FOUR = judged((0.9, True), (0.8, False), (0.6, True), (0.4, False))


@pytest.mark.parametrize(
    ('threshold', 'precision', 'recall', 'f1', 'false_alarms'),
    [(0.95, 0, 0, 0, 0), (0.9, 1, 0.25, 0.4, 0), (0.5, 2 / 3, 0.5, 4 / 7, 0.5), (0.0, 0.5, 0.5, 0.5, 1.0)],
)
def test_operating_point(threshold, precision, recall, f1, false_alarms):
    point = operating_point(FOUR, threshold)
    got = (point.precision, point.recall, point.f1, point.false_alarms_per_image)
    assert got == pytest.approx((precision, recall, f1, false_alarms))


@pytest.mark.parametrize(('recall', 'threshold'), [(0.1, 0.9), (0.25, 0.9), (0.5, 0.6), (0.75, None)])
def test_threshold_for_a_recall(recall, threshold):
    point = at_recall(FOUR, recall)
    assert (point and point.threshold) == threshold


@pytest.mark.parametrize(('per_image', 'threshold'), [(0, 0.9), (0.4, 0.9), (0.5, 0.6), (1, 0.4), (9, 0.4)])
def test_threshold_for_false_alarms(per_image, threshold):
    point = at_false_alarms(FOUR, per_image)
    assert point.threshold == threshold
    assert point.false_alarms_per_image <= per_image


def test_equal_scores_are_kept_or_left_together():
    equal = judged((0.9, True), (0.8, True), (0.8, False), (0.7, True))
    assert at_false_alarms(equal, 0.4).threshold == 0.9
    assert at_false_alarms(equal, 0.5).threshold == 0.7
    assert at_false_alarms(judged((0.8, True), (0.8, False)), 0.4) is None


def test_nothing_found_and_nothing_there():
    assert operating_point(judged(), 0.5).precision == 0
    assert at_recall(judged(), 0.5) is None
    assert at_false_alarms(judged(), 0.5) is None
    assert at_recall(judged((0.9, False), objects=0), 0.5) is None
    assert precision_recall_curve(judged()) == []
    assert calibration(judged(), 0.1).error == 0


def test_calibration_error_by_hand():
    # Two bins: scores 0.95 and 0.91 (mean 0.93, precision 0.5), and 0.15 (precision 1).
    result = calibration(judged((0.95, True), (0.91, False), (0.15, True)), 0.0)
    assert result.error == pytest.approx((2 * abs(0.5 - 0.93) + 1 * abs(1 - 0.15)) / 3)
    assert [b.detections for b in result.bins] == [1, 2]


def test_a_calibrated_detector_has_no_error():
    rows = [(0.75, True)] * 3 + [(0.75, False)]
    assert calibration(judged(*rows), 0.0).error == pytest.approx(0)


def test_curve_runs_from_the_highest_score_down():
    assert precision_recall_curve(FOUR) == [
        pytest.approx(row) for row in [(0.25, 1, 0.9), (0.25, 0.5, 0.8), (0.5, 2 / 3, 0.6), (0.5, 0.5, 0.4)]
    ]
