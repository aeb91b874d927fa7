"""Which boxes pass: by class, place and size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.detection.box_filter import BoxFilter, BoxFilterError, inside, parse_region
from kd_perception.detection.detections import Detections

NAMES = ('car', 'truck', 'bus')
FOUND = Detections(
    np.array([[0, 0, 10, 10], [50, 50, 90, 60], [90, 90, 100, 100]], np.float32), [0.9, 0.5, 0.3], [0, 1, 2]
)


@pytest.mark.parametrize(
    ('box_filter', 'kept'),
    [
        (BoxFilter(), [0, 1, 2]),
        (BoxFilter(classes=('truck', 'bus')), [1, 2]),
        (BoxFilter(min_side=10.0), [0, 1, 2]),
        (BoxFilter(min_side=10.5), []),
        (BoxFilter(region=((0.5, 0.5), (1, 0.5), (1, 1), (0.5, 1))), [1, 2]),
        (BoxFilter(region=((0, 0), (0.5, 0), (0, 0.5))), [0]),
    ],
)
def test_what_passes(box_filter, kept):
    assert np.flatnonzero(box_filter.wanted(FOUND, NAMES, (100, 100))).tolist() == kept


def test_nothing_found():
    full = BoxFilter(('car',), ((0, 0), (1, 0), (1, 1)), 4.0)
    assert full.wanted(Detections.empty(), NAMES, (100, 100)).tolist() == []


@pytest.mark.parametrize(
    'text', ['', '0,0 1,0', '0,0 1,0 1', '0,0 1,0 1,1.2', '0,0 1,0 a,1', '0,0 1,0 nan,1', '0,0,0 1,0 1,1']
)
def test_regions_that_cannot_be_read(text):
    with pytest.raises(BoxFilterError, match='corners'):
        parse_region(text)


def test_what_can_be_read():
    assert parse_region('off') == ()
    assert parse_region('0,0.4  1,0.4 1,1') == ((0, 0.4), (1, 0.4), (1, 1))


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
