"""The foreground's depth inside a box, and boxes that have none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kd_perception.localization.depth import box_depth

BOX = np.array([20.0, 20.0, 60.0, 100.0])


def scene(share: float, near: float = 5.0, far: float = 20.0) -> np.ndarray:
    """Background, and in BOX columns of an object that fills a share of it; deterministic noise of 1 %."""
    image = np.full((120, 160), far, np.float32)
    image[20:100, 40 - round(20 * share) : 40 + round(20 * share)] = near
    return image * np.random.default_rng(0).normal(1.0, 0.01, image.shape).astype(np.float32)


@pytest.mark.parametrize('share', [0.35, 0.5, 0.7, 1.0])
def test_the_foreground_counts_also_where_it_is_less_than_half(share):
    measured = box_depth(scene(share), BOX)
    assert measured.depth == pytest.approx(5.0, rel=0.01)
    assert 0.0 < measured.deviation < 0.2
    assert measured.extent < 0.5


def test_specks_before_the_object_do_not_count():
    image = scene(0.8)
    image[50:56, 35:41] = 0.4
    assert box_depth(image, BOX).depth == pytest.approx(5.0, rel=0.01)


def test_millimeters_and_meters_are_alike():
    meters = scene(0.7)
    assert box_depth((meters * 1000).astype(np.uint16), BOX).depth == pytest.approx(
        box_depth(meters, BOX).depth, abs=2e-3
    )


@pytest.mark.parametrize('invalid', [0.0, np.nan, np.inf, -np.inf, -1.0])
def test_invalid_pixels_are_left_out(invalid):
    image = scene(0.8)
    image[::2] = invalid
    assert box_depth(image, BOX).depth == pytest.approx(5.0, rel=0.01)
    image[:] = invalid
    assert box_depth(image, BOX) is None


@pytest.mark.parametrize(
    'box',
    [
        (200, 200, 260, 260),
        (-50, -50, -10, -10),
        (60, 100, 20, 20),
        (30, 30, 31, 31),
        (np.nan, 0, 10, 10),
        (0, 0, np.inf, 10),
    ],
)
def test_a_box_without_enough_pixels_has_no_depth(box):
    assert box_depth(scene(0.8), np.array(box, np.float64)) is None


@given(
    arrays.arrays(np.float32, (12, 16), elements=st.floats(width=32)),
    arrays.arrays(np.float64, 4, elements=st.floats(-1e6, 1e6)),
)
def test_whatever_the_image_holds_the_depth_is_one_of_its_own(image, box):
    measured = box_depth(image, box)
    if measured is not None:
        valid = image[np.isfinite(image) & (image > 0)]
        assert valid.min() * 0.999 <= measured.depth <= valid.max() * 1.001
        assert measured.deviation > 0
