"""Which boxes pass: by class, score, place and size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.detection.box_filter import BoxFilter, BoxFilterError, inside, parse_class_scores, parse_region
from kd_perception.detection.detections import Detections

NAMES = ('car', 'truck', 'bus')
FOUND = Detections(
    np.array([[0, 0, 10, 10], [50, 50, 90, 60], [90, 90, 100, 100]], np.float32), [0.9, 0.5, 0.3], [0, 1, 2]
)


@pytest.mark.parametrize(
    ('box_filter', 'kept'),
    [
        (BoxFilter(), [0, 1, 2]),
        (BoxFilter(score=0.5), [0, 1]),
        (BoxFilter(score=0.5, class_scores={'bus': 0.3}), [0, 1, 2]),
        (BoxFilter(score=0.1, class_scores={'car': 0.95}), [1, 2]),
        (BoxFilter(classes=('truck', 'bus')), [1, 2]),
        (BoxFilter(classes=('truck', 'bus'), score=0.4), [1]),
        (BoxFilter(min_side=10.0), [0, 1, 2]),
        (BoxFilter(min_side=10.5), []),
        (BoxFilter(region=((0.5, 0.5), (1, 0.5), (1, 1), (0.5, 1))), [1, 2]),
        (BoxFilter(region=((0, 0), (0.5, 0), (0, 0.5))), [0]),
    ],
)
def test_what_passes(box_filter, kept):
    assert np.flatnonzero(box_filter.wanted(FOUND, NAMES, (100, 100))).tolist() == kept


def test_nothing_found():
    full = BoxFilter(0.5, {'car': 0.2}, ('car',), ((0, 0), (1, 0), (1, 1)), 4.0)
    assert full.wanted(Detections.empty(), NAMES, (100, 100)).tolist() == []
    assert full.lowest_score == 0.2
    assert full.unknown_classes(('bus',)) == ['car']


@pytest.mark.parametrize(
    'text', ['', '0,0 1,0', '0,0 1,0 1', '0,0 1,0 1,1.2', '0,0 1,0 a,1', '0,0 1,0 nan,1', '0,0,0 1,0 1,1']
)
def test_regions_that_cannot_be_read(text):
    with pytest.raises(BoxFilterError, match='corners'):
        parse_region(text)


@pytest.mark.parametrize('entries', [['car'], ['=0.4'], ['car=x'], ['car=1.5'], ['car=nan'], ['car=0.1', 'car=0.2']])
def test_class_thresholds_that_cannot_be_read(entries):
    with pytest.raises(BoxFilterError, match='NAME=SCORE'):
        parse_class_scores(entries)


def test_what_can_be_read():
    assert parse_region('off') == ()
    assert parse_region('0,0.4  1,0.4 1,1') == ((0, 0.4), (1, 0.4), (1, 1))
    assert parse_class_scores(['']) == {}
    assert parse_class_scores(['car=0.4', 'a=b=1']) == {'car': 0.4, 'a=b': 1.0}


unit = st.integers(0, 64).map(lambda value: value / 64)


@given(
    polygon=st.lists(st.tuples(unit, unit), min_size=3, max_size=8),
    points=st.lists(st.tuples(st.floats(0.001, 0.999), st.floats(0.001, 0.999)), min_size=1, max_size=20),
)
def test_inside_is_what_opencv_says_off_the_border(polygon, points):
    contour = np.array(polygon, np.float32).reshape(-1, 1, 2)
    ours = inside(np.array(points), polygon)
    for point, is_inside in zip(points, ours, strict=True):
        distance = cv2.pointPolygonTest(contour, point, True)
        if abs(distance) > 1e-4:
            assert is_inside == (distance > 0)
