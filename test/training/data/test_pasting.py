"""Vehicles cut out of photographs and pasted elsewhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.aerial_traffic import CLASSES, TileSettings, tiles
from training.data.dataset import LabeledImage, ground_truth
from training.data.pasting import MOST_ENLARGED, Cutout, cutouts, paste

RED = (0, 0, 255)
CAR, BUS = CLASSES.index('car'), CLASSES.index('bus')


def photograph(vehicles: list[tuple[int, tuple[int, int, int, int]]], name: str = 'A-1') -> LabeledImage:
    """Grey ground with red rectangles."""
    image = np.full((300, 400, 3), 90, np.uint8)
    for _, (x1, y1, x2, y2) in vehicles:
        image[y1:y2, x1:x2] = RED
    return LabeledImage(name, image, ground_truth([box for _, box in vehicles], [kind for kind, _ in vehicles]))


@pytest.mark.parametrize(
    ('vehicles', 'taken'),
    [
        ([(CAR, (100, 100, 140, 118))], 1),
        ([(CAR, (100, 100, 118, 140))], 1),
        ([(CAR, (100, 100, 140, 130))], 0),  # stands askew: its box holds much ground
        ([(BUS, (100, 100, 160, 130))], 0),
        ([(BUS, (100, 100, 200, 126))], 1),
        ([(CAR, (0, 100, 40, 118))], 0),  # may be cut
        ([(CAR, (100, 100, 140, 118)), (CAR, (138, 100, 178, 118))], 0),  # each shows a bit of the other
    ],
)
def test_only_whole_vehicles_along_an_axis_are_cut_out(vehicles, taken):
    found = cutouts([photograph(vehicles)], 40.0)
    assert len(found) == taken
    for cutout in found:
        assert cutout.image.shape[1] > cutout.image.shape[0]
        assert (cutout.image == RED).all()


@given(seed=st.integers(0, 2**32 - 1), car_length=st.floats(12, 50))
def test_the_box_is_where_the_vehicle_was_painted(seed, car_length):
    image = np.full((160, 200, 3), 90, np.uint8)
    cutout = Cutout(np.full((18, 40, 3), RED, np.uint8), CAR, 40.0)
    box = paste(image, np.zeros((0, 4), np.float32), cutout, car_length, (0.0, 0.0), np.random.default_rng(seed))
    rows, columns = np.nonzero((image[..., 2] > 150) & (image[..., 1] < 50))
    painted = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert box == pytest.approx(painted, abs=1.6)


@given(seed=st.integers(0, 2**32 - 1))
def test_nothing_is_pasted_over_what_stands_there(seed):
    image = np.full((120, 120, 3), 90, np.uint8)
    before, there = image.copy(), np.array([(0, 0, 120, 50), (70, 0, 120, 120)], np.float32)
    cutout = Cutout(np.full((10, 24, 3), RED, np.uint8), CAR, 24.0)
    box = paste(image, there, cutout, 24.0, (0.0, 0.0), np.random.default_rng(seed))
    if box is None:
        assert np.array_equal(image, before)
    else:
        assert (image[:48] == before[:48]).all()  # edges are soft
        assert (image[:, 72:] == before[:, 72:]).all()


def test_small_vehicles_are_not_blown_up():
    image = np.full((300, 300, 3), 90, np.uint8)
    cutout = Cutout(np.full((8, 20, 3), RED, np.uint8), CAR, 20.0)
    length = 20.0 * MOST_ENLARGED * 1.2
    assert paste(image, np.zeros((0, 4), np.float32), cutout, length, (0.0, 0.0), np.random.default_rng(0)) is None


def test_tiles_hold_more_of_what_is_rare():
    cars = [(CAR, (x, y, x + 40, y + 18)) for x in (60, 130, 200, 270) for y in (60, 120)]
    source = [photograph([*cars, (BUS, (60, 200, 160, 226))])]
    plain, pasted = (
        np.concatenate([tile.objects.class_ids for tile in tiles(source, settings)])
        for settings in (
            TileSettings(size=256, count=30, car_px=(15, 30), seed=2, paste_share=share) for share in (0.0, 1.0)
        )
    )
    assert (pasted == BUS).sum() > 1.5 * (plain == BUS).sum()
