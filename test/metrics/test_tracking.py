"""Tracking figures of cases that are computed by hand."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from kd_perception.detection.detections import Detections
from kd_perception.errors import EvaluationError
from kd_perception.metrics.tracking import TrackedFrame, tracking_figures


def boxes(places, classes=0):
    corners = np.array([(x, 0, x + 10, 10) for x in places], np.float32)
    return Detections(corners, np.ones(len(places)), np.full(len(places), classes))


def frame(truth, found, classes=0):
    """`truth` and `found`: id → x of a box of 10 × 10."""
    ids = [np.array(list(side), np.int64) for side in (truth, found)]
    return TrackedFrame(boxes(truth.values()), ids[0], boxes(found.values(), classes), ids[1])


def test_perfect_tracks_under_other_ids():
    figures = tracking_figures([frame({1: 0, 2: 50}, {70: 0, 30: 50})] * 4)
    assert (figures.hota, figures.idf1, figures.mota) == pytest.approx((1, 1, 1))
    assert (figures.id_switches, figures.objects, figures.tracks) == (0, 8, 2)


def test_an_id_that_changes_halfway():
    """One object in four frames, as track 1 in two and as track 2 in two.

    MOTA = 1 − 1/4. IDF1: the better track gives IDTP = 2, IDFN = IDFP = 2: 2·2 / (2·2 + 2 + 2) = 1/2.
    HOTA: DetA = 1; each detection's association is TPA = 2, FNA = 2, FPA = 0: AssA = 1/2; HOTA = √(1/2).
    """
    figures = tracking_figures([frame({5: 0}, {1: 0})] * 2 + [frame({5: 0}, {2: 0})] * 2)
    assert figures.mota == pytest.approx(3 / 4)
    assert figures.idf1 == pytest.approx(1 / 2)
    assert figures.hota == pytest.approx(math.sqrt(1 / 2))
    assert figures.id_switches == 1


def test_a_miss_and_a_false_alarm():
    """Two objects in two frames; one of the four boxes is missed, and one false alarm comes: MOTA = 1 − 2/4, IDF1 = 6/8."""
    figures = tracking_figures([frame({1: 0, 2: 50}, {1: 0, 2: 50}), frame({1: 0, 2: 50}, {1: 0, 9: 200})])
    assert figures.mota == pytest.approx(1 / 2)
    assert figures.idf1 == pytest.approx(6 / 8)
    assert figures.id_switches == 0


def test_boxes_of_another_class_do_not_match():
    figures = tracking_figures([frame({1: 0}, {1: 0}, classes=3)] * 2)
    assert (figures.hota, figures.idf1, figures.mota) == pytest.approx((0, 0, -1))


@pytest.mark.parametrize(('truth', 'found', 'mota'), [({1: 0}, {}, 0), ({}, {1: 0}, 0), ({}, {}, 0)])
def test_empty_sides(truth, found, mota):
    assert tracking_figures([frame(truth, found)] * 2).mota <= mota


def test_without_trackeval_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'trackeval', None)
    monkeypatch.setitem(sys.modules, 'trackeval.metrics', None)
    with pytest.raises(EvaluationError, match='pip install --no-deps trackeval'):
        tracking_figures([])
