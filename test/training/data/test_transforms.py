"""Augmentation of our own: boxes follow the pixels, the same seed gives the same sample, and cut objects go."""

import numpy as np
import pytest

from training.data.augment import AugmentSettings
from training.data.transforms import Labelled, augmented

SIZE = 96
STILL = {'mosaic': 0, 'scale': 0, 'translate': 0, 'fliplr': 0, 'hsv_h': 0, 'hsv_s': 0, 'hsv_v': 0, 'by': 'opencv'}


def picture(number=0):
    """A black picture with one white rectangle, and its box."""
    image = np.zeros((64, SIZE, 3), np.uint8)
    image[20 + number : 40 + number, 10:50] = 255
    boxes = np.array([[10, 20 + number, 50, 40 + number]], np.float32)
    return Labelled(image, np.array([number], np.float32), boxes)


def sample(seed=0, made_of_four=False, **settings):
    how = AugmentSettings(**{**STILL, **settings})
    return augmented(0, picture, 4, SIZE, how, np.random.default_rng(seed), mosaic=made_of_four)


def white(image):
    """The box around what is white."""
    rows, columns = np.nonzero(image.min(2) > 200)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_without_any_change_a_picture_lies_in_the_middle_of_the_square():
    found = sample()
    assert found.image.shape == (SIZE, SIZE, 3)
    np.testing.assert_allclose(found.boxes, [[10, 36, 50, 56]])
    np.testing.assert_allclose(white(found.image), found.boxes[0], atol=1)


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize(
    'settings',
    [
        *({'fliplr': 1}, {'flipud': 1}, {'scale': 0.4}, {'translate': 0.2}, {'hsv_h': 0.5, 'hsv_s': 0.5, 'hsv_v': 0.2}),
        {'fliplr': 0.5, 'flipud': 0.5, 'scale': 0.3, 'translate': 0.15},
    ],
)
def test_boxes_follow_the_pixels(settings, seed):
    found = sample(seed, **settings)
    assert len(found.boxes) == 1
    np.testing.assert_allclose(white(found.image), found.boxes[0], atol=1.6)


def test_a_turned_box_holds_the_turned_rectangle():
    found = sample(3, degrees=20)
    assert (np.array(white(found.image)[:2]) >= found.boxes[0, :2] - 1).all()
    assert (np.array(white(found.image)[2:]) <= found.boxes[0, 2:] + 1).all()


def test_a_mosaic_holds_objects_of_other_pictures_inside_the_square():
    seen = [sample(seed, True, mosaic=1) for seed in range(20)]
    assert len({int(class_id) for found in seen for class_id in found.class_ids}) > 1
    for found in seen:
        assert found.image.shape == (SIZE, SIZE, 3)
        assert ((found.boxes >= 0) & (found.boxes <= SIZE)).all()
        assert len(found.boxes) == len(found.class_ids)


def test_a_box_of_which_next_to_nothing_is_left_is_no_object():
    kept = [len(sample(seed, translate=0.9).boxes) for seed in range(40)]
    assert {0, 1} == set(kept)


def test_the_same_seed_gives_the_same_sample():
    how = {'mosaic': 0.5, 'scale': 0.5, 'fliplr': 0.5, 'hsv_h': 0.1, 'hsv_v': 0.4}
    first, again, other = (sample(seed, True, **how) for seed in (5, 5, 6))
    assert (first.image == again.image).all()
    assert (first.boxes == again.boxes).all()
    assert first.image.shape != other.image.shape or (first.image != other.image).any()
