"""The operating point: the lowest score of each class."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.detection.detections import Detections
from kd_perception.detection.thresholds import ClassScoreError, Thresholds, parse_class_scores

NAMES = ('car', 'truck', 'bus')
FOUND = Detections(np.tile([[0, 0, 10, 10]], (3, 1)), [0.9, 0.5, 0.3], [0, 1, 2])


@pytest.mark.parametrize(
    ('score', 'class_scores', 'lowest', 'reported'),
    [
        (0.0, {}, 0.0, [0, 1, 2]),
        (0.5, {}, 0.5, [0, 1]),
        (0.5, {'bus': 0.3}, 0.3, [0, 1, 2]),
        (0.1, {'car': 0.95}, 0.1, [1, 2]),
        (0.9, {'bus': 0.9}, 0.9, [0]),  # 0.9 in single precision is not below 0.9
        (0.9, {}, 0.9, [0]),
    ],
)
def test_what_is_reported(score, class_scores, lowest, reported):
    thresholds = Thresholds(score, 0.5, class_scores=class_scores)
    assert np.flatnonzero(thresholds.reported(FOUND, NAMES)).tolist() == reported
    assert thresholds.lowest == lowest
    assert thresholds.reported(Detections.empty(), NAMES).tolist() == []
    assert thresholds.down_to(0.2) == Thresholds(0.2, 0.5)


@pytest.mark.parametrize('entries', [['car'], ['=0.4'], ['car=x'], ['car=1.5'], ['car=nan'], ['car=0.1', 'car=0.2']])
def test_scores_that_cannot_be_read(entries):
    with pytest.raises(ClassScoreError, match='NAME=SCORE'):
        parse_class_scores(entries)


def test_scores_that_can_be_read():
    assert parse_class_scores(['']) == {}
    assert parse_class_scores(['car=0.4', 'a=b=1']) == {'car': 0.4, 'a=b': 1.0}
