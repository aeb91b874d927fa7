"""Pictures that an export turned are set upright again."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_perception.bags.ground_truth import AnnotatedObject
from training.data.picture import Picture, Source
from training.data.straightening import Turn, straightened, turn_of

SIDE = 240


def street(seed=0):
    """A picture with detail up to its border."""
    image = np.random.default_rng(seed).integers(60, 250, (12, 12, 3), np.uint8)
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)


def matrix_of(turn, across, down):
    """A rotation and then a shear, degrees, about the center."""
    angle = math.radians(turn)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.array([[1, math.tan(math.radians(across))], [math.tan(math.radians(down)), 1]]) @ rotation


def turned(image, matrix, filling=(0, 0, 0)):
    center = np.array([SIDE, SIDE]) / 2 - 0.5
    forth = np.concatenate([matrix, (center - matrix @ center)[:, None]], 1)
    return cv2.warpAffine(image, forth, (SIDE, SIDE), borderValue=filling)


def box_around(box, matrix):
    """The upright box around a turned one."""
    x1, y1, x2, y2 = box
    corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)]) - SIDE / 2
    corners = corners @ matrix.T + SIDE / 2
    return (*corners.min(0), *corners.max(0))


@settings(max_examples=30)
@given(st.floats(-12, 12), st.floats(-10, 10), st.floats(-10, 10))
def test_what_was_done_is_read_off_the_border(turn, across, down):
    matrix = matrix_of(turn, across, down)
    found = turn_of(turned(street(), matrix))
    if found is None:  # hardly anything of the border is seen
        axes = matrix / np.linalg.norm(matrix, axis=0)
        assert min(abs(axes[1, 0]), abs(axes[0, 1])) < math.sin(math.radians(4))
        return
    np.testing.assert_allclose(found.matrix, matrix, atol=0.05)
    box = (80.0, 60.0, 110.0, 150.0)
    np.testing.assert_allclose(found.upright_box(box_around(box, matrix), SIDE, SIDE), box, atol=8)


def test_the_picture_is_upright_again():
    matrix = matrix_of(8, 5, -3)
    upright = turn_of(turned(street(), matrix)).upright_picture(turned(street(), matrix))
    inner = slice(60, 180)
    difference = np.abs(upright[inner, inner].astype(int) - street()[inner, inner])
    assert np.median(difference) <= 2


@pytest.mark.parametrize(
    ('image', 'why'),
    [
        (street(), 'it was not turned'),
        (np.full((SIDE, SIDE, 3), 90, np.uint8), 'one color has no edges'),
        (cv2.copyMakeBorder(street(), 0, 60, 0, 0, cv2.BORDER_CONSTANT)[60:], 'a bar below is no turn'),
        (np.zeros((8, 8, 3), np.uint8), 'nothing to be seen'),
    ],
)
def test_other_pictures_stay_as_they_are(image, why):
    assert turn_of(image) is None, why


def test_a_box_never_grows_and_never_vanishes():
    turn = Turn(matrix_of(15, 15, 15))
    for box in ((0.0, 0.0, 200.0, 4.0), (10.0, 10.0, 14.0, 200.0), (50.0, 50.0, 60.0, 60.0)):
        x1, y1, x2, y2 = turn.upright_box(box, SIDE, SIDE)
        assert 0 < x2 - x1 <= box[2] - box[0] + 1e-6
        assert 0 < y2 - y1 <= box[3] - box[1] + 1e-6


def test_only_what_is_trained_on_is_set_upright():
    matrix = matrix_of(10, 0, 0)
    image, box = turned(street(), matrix, (80, 80, 80)), (80.0, 60.0, 110.0, 150.0)
    loose = AnnotatedObject(tuple(float(value) for value in box_around(box, matrix)), 'lamp')
    source = Source(tuple(Picture(name, lambda: image, (loose,), name, name) for name in ('train', 'val')), ('lamp',))
    train, val = straightened(source).pictures
    np.testing.assert_allclose(train.objects[0].box, box, atol=5)
    inner = slice(60, 180)
    assert np.median(np.abs(train.read()[inner, inner].astype(int) - street()[inner, inner])) <= 2
    assert val.objects[0].box == loose.box
    assert np.array_equal(val.read(), image)


def test_a_set_in_which_few_pictures_look_turned_stays_as_it_is():
    images = [turned(street(), matrix_of(10, 0, 0)), street(1), street(2)]
    source = Source(
        tuple(Picture(str(k), lambda k=k: images[k], (), str(k), 'train') for k in range(len(images))), ('lamp',)
    )
    assert turn_of(images[0]) is not None
    assert straightened(source) is source
