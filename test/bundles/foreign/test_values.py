"""What columns hold is told by their values: boxes of any form, probabilities and logits, class ids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.bundles.foreign.values import (
    CXCYWH,
    LOGITS,
    NEITHER,
    PROBABILITIES,
    XYXY,
    BoxForm,
    are_classes,
    box_form,
    kind_of_scores,
)

SIZE = (640, 480)


def centers(seed: int, count: int = 300) -> np.ndarray:
    """Boxes that lie in the picture, as center and size in pixels."""
    draw = np.random.default_rng(seed)
    sides = draw.uniform(4, 120, (count, 2))
    places = draw.uniform(sides / 2, np.array(SIZE) - sides / 2)
    return np.concatenate([places, sides], axis=1)


def corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


@given(st.integers(0, 10**6))
def test_boxes_tell_their_form(seed):
    boxes = centers(seed)
    for normalized, scale in ((False, 1), (True, np.array(SIZE * 2))):
        for format, table in ((CXCYWH, boxes), (XYXY, corners(boxes))):
            form = box_form(table / scale, SIZE)
            assert isinstance(form, BoxForm), form
            assert (form.format, form.normalized) == (format, normalized)


def test_the_user_decides():
    form = box_form(centers(0), SIZE, format=XYXY, normalized=True)
    assert (form.format, form.normalized) == (XYXY, True)


def test_what_values_do_not_decide():
    one = np.array([[100.0, 100, 200, 200]])
    assert '--box-format' in box_form(one, SIZE)
    assert box_form(one, SIZE, convention=CXCYWH).format == CXCYWH
    assert 'negative' in box_form(np.array([[300.0, 100, -20, 50]] * 9), SIZE, convention=XYXY)


@pytest.mark.parametrize(
    ('values', 'kind'),
    [
        ([], PROBABILITIES),
        ([0, 0.4, 1], PROBABILITIES),
        ([-0.001, 1.001], PROBABILITIES),
        ([-0.04, 0.15], PROBABILITIES),
        ([-1, 1], PROBABILITIES),
        ([np.nan, 0.4], PROBABILITIES),
        ([-8, -5, 2], LOGITS),
        ([-3, -2, -1], LOGITS),
        ([0, 1, 2.5], NEITHER),
        ([-8, -5, 640], NEITHER),
        ([-0.7, 1.2, 2.1], NEITHER),
    ],
)
def test_scores(values, kind):
    assert kind_of_scores(np.array(values, np.float32)) == kind


@pytest.mark.parametrize(
    ('values', 'counts', 'yes'),
    [
        ([0, 1], (2,), True),
        ([0, 2], (2,), False),
        ([0, 2], (2, 3), True),
        ([0.5], (2,), False),
        ([-1], (2,), False),
        ([7], (), True),
    ],
)
def test_class_ids(values, counts, yes):
    assert are_classes(np.array(values, np.float32), counts) is yes
