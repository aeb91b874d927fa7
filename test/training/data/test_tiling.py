"""A grid of tiles: every pixel is covered, boxes stay on their pixels, what is cut is neither learnt nor judged."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.dataset import LabeledImage, ground_truth
from training.data.tiling import GridSettings, grid, tiles_of

side = st.integers(1, 400)


@settings(deadline=None)
@given(side, side, st.integers(32, 200), st.data())
def test_tiles_cover_the_picture_and_overlap_as_asked(width, height, size, data):
    settings = GridSettings(size, data.draw(st.integers(0, size - 1)))
    covered = np.zeros((height, width), np.bool_)
    places = grid(width, height, settings)
    for x1, y1, x2, y2 in places:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert (x2 - x1, y2 - y1) == (min(size, width), min(size, height))
        covered[y1:y2, x1:x2] = True
    assert covered.all()
    starts = sorted({place[0] for place in places})
    assert all(after - before <= size - settings.overlap for before, after in itertools.pairwise(starts))


@pytest.mark.parametrize(('overlap', 'columns', 'rows'), [(0, 4, 2), (128, 4, 2), (192, 5, 2)])
def test_traffic_light_pictures_give_few_tiles_of_640(overlap, columns, rows):
    assert len(grid(2048, 1024, GridSettings(640, overlap))) == columns * rows


corner = st.tuples(st.integers(0, 150), st.integers(0, 110), st.integers(2, 60), st.integers(2, 60))


@given(st.lists(corner, max_size=4), st.integers(0, 30), st.floats(0.1, 1))
def test_boxes_in_tiles_lie_on_the_same_pixels(corners, overlap, min_visible):
    boxes = np.array([(x, y, min(x + w, 160), min(y + h, 120)) for x, y, w, h in corners]).reshape(-1, 4)
    image = np.zeros((120, 160, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(160), np.arange(120)[:, None]  # every pixel tells where it is
    item = LabeledImage('a', image, ground_truth(boxes, range(len(boxes))))
    for tile in tiles_of(item, GridSettings(64, overlap, min_visible)):
        x0, y0 = tile.item.image[0, 0, :2].astype(int)
        assert (x0, y0) == tile.place[:2]
        for box, number in zip(tile.item.objects.boxes.astype(int), tile.item.objects.class_ids, strict=True):
            x1, y1, x2, y2 = box + np.array([x0, y0, x0, y0])
            whole = boxes[number]
            assert (x1 >= whole[0], y1 >= whole[1], x2 <= whole[2], y2 <= whole[3]) == (True,) * 4
            area = (whole[2] - whole[0]) * (whole[3] - whole[1])
            assert (x2 - x1) * (y2 - y1) >= min_visible * area - 0.5
        assert len(tile.item.objects) + len(tile.item.ignored) <= len(boxes)


def test_every_whole_object_is_learnt_in_some_tile_if_the_overlap_holds_it():
    boxes = np.array([(x, y, x + 20, y + 20) for x in range(0, 140, 7) for y in range(0, 100, 9)])
    item = LabeledImage('a', np.zeros((120, 160, 3), np.uint8), ground_truth(boxes, range(len(boxes))))
    tiles = list(tiles_of(item, GridSettings(64, 20, min_visible=1.0)))
    assert {number for tile in tiles for number in tile.item.objects.class_ids.tolist()} == set(range(len(boxes)))


def test_what_the_border_leaves_of_an_object_is_ignored():
    item = LabeledImage('a', np.zeros((64, 128, 3), np.uint8), ground_truth([[58, 10, 78, 20]], [0]))
    left, right = tiles_of(item, GridSettings(64, 0))
    assert (len(left.item.objects), left.item.ignored.tolist()) == (0, [[58, 10, 64, 20]])
    assert (right.item.objects.boxes.tolist(), len(right.item.ignored)) == ([[0, 10, 14, 20]], 0)
    assert (left.item.name, right.item.name) == ('a_x0_y0', 'a_x64_y0')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'size': 16}, 'size must be at least 32, not 16'),
        ({'overlap': 640}, 'overlap must be at least 0 and below 640, not 640'),
        ({'overlap': -1}, 'overlap must be at least 0 and below 640, not -1'),
        ({'min_visible': 0}, 'min_visible must be above 0 and at most 1, not 0'),
        ({'empty_share': 2}, 'empty_share must be from 0 to 1, not 2'),
    ],
)
def test_settings_that_make_no_grid_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GridSettings(**changes)
