"""Seams: of a detector without faults the merged tiles give exactly what is there; parts go or are joined, and nobody is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kd_perception.detection.detections import Detections
from kd_perception.detection.thresholds import ALL_CLASSES, Thresholds
from kd_perception.detection.tile_merging import merge
from kd_perception.detection.tiles import Plan, Tile, cut

FRAME, NETWORK = (640, 480), (160, 120)


def detections(boxes, scores=None, class_ids=None) -> Detections:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    return Detections(boxes, np.ones(count) if scores is None else scores, class_ids or [0] * count)


def seen(objects: Detections, tile: Tile) -> Detections:
    """What a detector without faults finds in a tile: of every object the part inside, in the tile's pixels."""
    corner = np.array([tile.left, tile.top] * 2, np.float32)
    moved = Detections(objects.boxes - corner, objects.scores, objects.class_ids)
    return moved.clipped(tile.right - tile.left, tile.bottom - tile.top)


def merged(plan: Plan, found: list[Detections]) -> Detections:
    return merge(found, plan, Thresholds(0.0, 0.6), 300)


def rows(found: Detections) -> list[list[float]]:
    table = np.column_stack([found.class_ids, found.boxes, found.scores]).round(3)
    return sorted(table.tolist())


@st.composite
def separate_objects(draw) -> Detections:
    """Up to twelve objects of two classes, from a few pixels to half the frame, one in each of some cells, 4 px apart."""
    columns, lines = draw(st.sampled_from([(2, 2), (4, 3), (1, 3), (3, 1)]))
    width, height = FRAME[0] // columns, FRAME[1] // lines
    boxes = []
    for cell in range(columns * lines):
        if not draw(st.booleans()):
            continue
        sides = [draw(st.integers(6, room - 8)) for room in (width, height)]
        gaps = [draw(st.integers(4, room - 4 - side)) for room, side in zip((width, height), sides, strict=True)]
        x, y = (cell % columns) * width + gaps[0], (cell // columns) * height + gaps[1]
        boxes.append([x, y, x + sides[0], y + sides[1]])
    numbers = np.random.default_rng(draw(st.integers(0, 1000)))
    return detections(boxes, numbers.uniform(0.5, 1, len(boxes)), numbers.integers(0, 2, len(boxes)).tolist())


@settings(max_examples=300)
@given(
    objects=separate_objects(),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    overlap=st.floats(0.15, 0.5),
    whole=st.booleans(),
)
@example(  # each ends near the seam of two tiles that only touch
    objects=detections([[4, 4, 10, 156], [4, 164, 10, 170]], [0.8, 0.6]), grid=(5, 5), overlap=0.5, whole=False
)
def test_every_object_is_found_once_and_whole_wherever_the_seams_run(objects, grid, overlap, whole):
    plan = cut(FRAME, NETWORK, grid, overlap, whole)
    found = merged(plan, [seen(objects, tile) for tile in plan.passes])
    assert rows(found) == rows(objects)


@given(
    box=st.tuples(st.integers(0, 600), st.integers(0, 440), st.integers(1, 300), st.integers(1, 300)),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    which=st.integers(0, 35),
)
def test_a_box_that_one_tile_alone_reports_is_never_lost(box, grid, which):
    plan = cut(FRAME, NETWORK, grid, 0.1)
    lone = which % len(plan.passes)
    tile = plan.passes[lone]
    only = seen(detections([[box[0], box[1], box[0] + box[2], box[1] + box[3]]], [0.3]), tile)
    found = merged(plan, [only if n == lone else Detections.empty() for n in range(len(plan.passes))])
    corner = np.array([tile.left, tile.top] * 2, np.float32)
    np.testing.assert_array_equal(found.boxes, only.boxes + corner)


SEAM = Plan((200, 100), 2, 1, 1.0, (Tile(0, 0, 110, 100), Tile(90, 0, 200, 100)), 0.5)
"""Two tiles that have 20 columns in common; boxes below are in the pixels of their tiles."""
WITH_WHOLE = replace(SEAM, passes=(*SEAM.passes, Tile(0, 0, 200, 100)))


@pytest.mark.parametrize(
    ('left', 'right', 'expected'),
    [
        ([[80, 10, 105, 30]], [[0, 10, 15, 30]], [[80, 10, 105, 30]]),  # a part goes where the other shows the whole
        ([[95, 10, 110, 30]], [[5, 10, 50, 30]], [[95, 10, 140, 30]]),
        ([[50, 10, 110, 30]], [[0, 10, 60, 30]], [[50, 10, 150, 30]]),  # larger than the overlap: joined
        ([[50, 10, 109, 31]], [[1, 9, 60, 30]], [[50, 9, 150, 31]]),  # also when not exact to the pixel
        (
            [[50, 10, 110, 30]],
            [[0, 60, 60, 80]],
            [[50, 10, 110, 30], [90, 60, 150, 80]],
        ),  # two objects, one above the other
        ([[50, 10, 110, 30]], [], [[50, 10, 110, 30]]),  # the other tile missed it
        ([[40, 10, 60, 30]], [[40, 10, 60, 30]], [[40, 10, 60, 30], [130, 10, 150, 30]]),  # far from the seam
    ],
)
def test_at_one_seam(left, right, expected):
    found = merged(SEAM, [detections(left), detections(right)])
    assert sorted(found.boxes.tolist()) == expected


def test_other_classes_are_other_objects():
    found = merged(SEAM, [detections([[50, 10, 110, 30]]), detections([[0, 10, 60, 30]], class_ids=[1])])
    assert sorted(found.boxes.tolist()) == [[50, 10, 110, 30], [90, 10, 150, 30]]


@pytest.mark.parametrize(
    ('left', 'right', 'expected'),
    [
        ([[50, 10, 110, 30]], [[0, 10, 60, 30]], [[50, 10, 150, 30]]),  # joined
        ([[95, 10, 110, 30]], [[5, 10, 50, 30]], [[95, 10, 140, 30]]),  # a part of what the other tile shows whole
        ([[92, 10, 108, 30]], [[2, 10, 18, 30]], [[92, 10, 108, 30]]),  # both show it whole
    ],
)
def test_with_all_classes_two_classes_are_one_object_of_the_surer_one(left, right, expected):
    sides = [detections(left, [0.6], [0]), detections(right, [0.9], [1])]
    found = merge(sides, SEAM, Thresholds(0.0, 0.6, ALL_CLASSES), 300)
    assert found.boxes.tolist() == expected
    assert found.scores.tolist() == pytest.approx([0.9])
    assert found.class_ids.tolist() == [1]


def test_noise_does_not_swallow_a_part_or_stretch_it():
    sure = detections([[80, 10, 110, 30]], [0.9])
    noise = detections([[0, 5, 90, 90]], [0.01])
    found = merged(SEAM, [sure, noise])
    assert found.boxes[0].tolist() == [80, 10, 110, 30]


def test_the_best_come_first_and_no_more_than_asked_for():
    both = [detections([[0, 0, 9, 9], [20, 0, 29, 9]], [0.4, 0.8]), detections([[50, 0, 59, 9]], [0.6])]
    found = merge(both, SEAM, Thresholds(0.0, 0.6), 2)
    np.testing.assert_allclose(found.scores, [0.8, 0.6])


def test_nothing_in_any_tile_is_nothing():
    assert merged(SEAM, [Detections.empty()] * 2) == Detections.empty()
    assert merged(WITH_WHOLE, [Detections.empty()] * 3) == Detections.empty()


@pytest.mark.parametrize(('length', 'kept'), [(31, False), (32, True)])
def test_the_whole_frame_adds_what_it_shows_at_16_pixels_of_the_network_or_more(length, kept):
    """Smaller ones are left to the tiles; here a frame pixel is half a pixel of the network."""
    whole = detections([[60, 40, 60 + length, 50]])
    found = merged(WITH_WHOLE, [Detections.empty(), Detections.empty(), whole])
    assert len(found) == kept


def test_what_the_whole_frame_shows_whole_takes_its_parts_in():
    parts = [detections([[40, 20, 110, 60]]), Detections.empty()]
    found = merged(WITH_WHOLE, [*parts, detections([[40, 20, 160, 60]], [0.6])])
    assert found.boxes.tolist() == [[40, 20, 160, 60]]
