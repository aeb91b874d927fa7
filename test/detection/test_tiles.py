"""Tiles: they cover the frame, overlap enough and are never finer than of use; auto keeps to the budget and says so."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kd_perception.detection.tiles import MOST, SHARE, Tile, TilesError, Tiling, cut, most_passes, parse, useful_plans

NETWORK = (960, 544)
SIDES = st.integers(1, 5000)
FRAMES = st.tuples(SIDES, SIDES)
NETWORKS = st.sampled_from([(960, 544), (640, 640), (320, 192), (32, 32)])
GRIDS = st.tuples(st.integers(1, MOST), st.integers(1, MOST))
OVERLAPS = st.floats(0.0, 0.5)


@given(frame=FRAMES, network=NETWORKS, grid=GRIDS, overlap=OVERLAPS)
def test_tiles_of_one_size_cover_the_frame_stay_inside_and_overlap_as_asked(frame, network, grid, overlap):
    plan = cut(frame, network, grid, overlap)
    assert (plan.columns <= grid[0], plan.rows <= grid[1]) == (True, True)
    assert len(plan.passes) == plan.columns * plan.rows
    for axis, count in ((0, plan.columns), (1, plan.rows)):
        spans = sorted({((t.left, t.top)[axis], (t.right, t.bottom)[axis]) for t in plan.passes})
        assert len(spans) == count
        assert spans[0][0] == 0
        assert spans[-1][1] == frame[axis]
        assert len({stop - start for start, stop in spans}) == 1
        for (_, stop), (start, following) in itertools.pairwise(spans):
            assert stop - start >= overlap * (following - start)
            assert following > stop
    assert len(set(plan.passes)) == len(plan.passes)


@given(frame=FRAMES, network=NETWORKS, grid=GRIDS, overlap=OVERLAPS)
def test_a_tile_fits_into_the_network_at_the_plans_scale_and_is_never_enlarged(frame, network, grid, overlap):
    plan = cut(frame, network, grid, overlap)
    tile = plan.passes[0]
    width, height = tile.right - tile.left, tile.bottom - tile.top
    assert plan.scale <= 1
    assert plan.scale * width <= network[0] + 1e-6
    assert plan.scale * height <= network[1] + 1e-6
    # The scale is the grid's or the frame's own: one of them leaves no room.
    fills = plan.scale * (width + 1) > network[0] - 1e-6 or plan.scale * (height + 1) > network[1] - 1e-6
    assert plan.scale == 1 or fills


@pytest.mark.parametrize(
    ('frame', 'grid', 'first', 'count', 'scale'),
    [
        ((640, 480), (3, 3), (640, 480), (1, 1), 1.0),  # already at its own scale
        ((1284, 377), (3, 2), (960, 377), (2, 1), 1.0),  # two tiles of the input's width suffice
        ((1920, 1080), (2, 2), (1011, 572), (2, 2), 0.95),
        ((1920, 1080), (3, 3), (960, 544), (3, 3), 1.0),
        ((1920, 1080), (2, 1), (1905, 1080), (2, 1), 0.5),  # the height holds the scale down
        ((4000, 2250), (5, 5), (960, 544), (5, 5), 1.0),
    ],
)
def test_geometry(frame, grid, first, count, scale):
    plan = cut(frame, NETWORK, grid, 0.1)
    assert (plan.passes[0].right, plan.passes[0].bottom) == first
    assert (plan.columns, plan.rows) == count
    assert plan.scale == pytest.approx(scale, abs=0.005)


def test_the_whole_frame_is_a_pass_of_its_own_only_beside_tiles():
    assert cut((1920, 1080), NETWORK, (2, 2), 0.1, whole=True).passes[-1] == Tile(0, 0, 1920, 1080)
    assert len(cut((1920, 1080), NETWORK, (2, 2), 0.1, whole=True).passes) == 5
    assert len(cut((640, 480), NETWORK, (2, 2), 0.1, whole=True).passes) == 1


def test_a_tile_is_a_view_of_the_frame():
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    view = Tile(2, 1, 5, 4).of(image)
    assert view.base is not None
    np.testing.assert_array_equal(view, image[1:4, 2:5])


@given(frame=FRAMES, network=NETWORKS, whole=st.booleans())
def test_more_passes_are_only_of_use_where_they_show_objects_larger(frame, network, whole):
    assume(frame[0] * frame[1] < 40 * network[0] * network[1])
    plans = useful_plans(frame, network, 0.1, whole)
    assert len(plans[0].passes) == 1
    for coarser, finer in itertools.pairwise(plans):
        assert len(finer.passes) > len(coarser.passes)
        assert finer.scale >= 1.1 * coarser.scale


@given(frame=FRAMES, pass_ms=st.floats(0.1, 1000), budget_ms=st.floats(1, 60000))
def test_auto_takes_the_finest_that_fits_the_budget(frame, pass_ms, budget_ms):
    plan = Tiling(None, budget_ms=budget_ms).plan(frame, NETWORK, pass_ms)
    for other in useful_plans(frame, NETWORK, 0.1):
        fits = len(other.passes) * pass_ms <= SHARE * budget_ms
        assert not fits or other.scale <= plan.scale
    assert len(plan.passes) == 1 or len(plan.passes) * pass_ms <= budget_ms


@pytest.mark.parametrize(
    ('frame', 'budget_ms', 'grid', 'says'),
    [
        ((1920, 1080), 200, (2, 2), '120 ms at 30.0 ms a pass, within 90% of the budget of 200 ms'),
        ((1920, 1080), 100, (1, 1), '2x2 would take 120 ms'),
        ((1920, 1080), 20, (1, 1), 'over 90% of the budget of 20 ms, but less is not possible'),
        ((4000, 2250), 300, (3, 3), '4x4 would take 480 ms'),
        ((4000, 2250), math.inf, (5, 5), 'finer tiles would show nothing better'),
    ],
)
def test_auto_says_why(frame, budget_ms, grid, says):
    plan = Tiling(None, budget_ms=budget_ms).plan(frame, NETWORK, 30.0)
    assert (plan.columns, plan.rows) == grid
    assert says in str(plan)


@pytest.mark.parametrize(
    ('text', 'tiling', 'passes'),
    [
        ('off', None, 1),
        ('auto', Tiling(None, whole=True), 1),
        ('2x1', Tiling((2, 1)), 2),
        ('3x2+whole', Tiling((3, 2), whole=True), 7),
    ],
)
def test_what_users_write(text, tiling, passes):
    assert parse(text) == tiling
    assert most_passes(text) == passes


@pytest.mark.parametrize(
    'text', ['', 'on', '2', '2x', 'x2', '2x2x2', '-1x2', '٢x2', '2X2', 'off+whole', 'auto+whole', '100x1']
)
def test_what_nobody_can_read_is_refused_with_what_to_write(text):
    with pytest.raises(TilesError, match='off, auto, or COLUMNSxROWS'):
        parse(text)


@pytest.mark.parametrize('text', ['0x1', '1x17'])
def test_columns_and_rows_have_limits(text):
    with pytest.raises(TilesError, match='from 1 to 16'):
        parse(text)


@pytest.mark.parametrize('overlap', [-0.1, 0.51, math.nan])
def test_overlap_has_limits(overlap):
    with pytest.raises(TilesError, match='overlap'):
        parse('2x2', overlap)
