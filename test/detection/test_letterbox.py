"""Letterbox: the geometry is exact, real pixels land where it says, and the border is written once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.detection.letterbox import Letterbox

SIZES = st.tuples(st.integers(1, 4097), st.integers(1, 4097))
INPUTS = st.sampled_from([(640, 640), (320, 320), (640, 384), (416, 641), (33, 65)])


@pytest.mark.parametrize(
    ('source', 'target', 'mode', 'resized', 'offset'),
    [
        ((1280, 720), (640, 640), 'letterbox', (640, 360), (0, 140)),
        ((720, 1280), (640, 640), 'letterbox', (360, 640), (140, 0)),
        ((640, 480), (640, 640), 'letterbox', (640, 480), (0, 80)),
        ((640, 640), (640, 640), 'letterbox', (640, 640), (0, 0)),
        ((320, 240), (640, 640), 'letterbox', (640, 480), (0, 80)),
        ((1283, 377), (640, 640), 'letterbox', (640, 188), (0, 226)),
        ((101, 99), (640, 640), 'letterbox', (640, 627), (0, 6)),
        ((10000, 3), (640, 640), 'letterbox', (640, 1), (0, 319)),
        ((1280, 720), (640, 640), 'stretch', (640, 640), (0, 0)),
        ((1280, 720), (640, 384), 'letterbox', (640, 360), (0, 12)),
    ],
)
def test_geometry(source, target, mode, resized, offset) -> None:
    box = Letterbox(source, target, mode)
    assert box.resized == resized
    assert (box.offset_x, box.offset_y) == offset
    assert (box.scale_x, box.scale_y) == (resized[0] / source[0], resized[1] / source[1])


@given(
    source=SIZES,
    target=INPUTS,
    mode=st.sampled_from(['letterbox', 'stretch']),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_box_survives_there_and_back_to_half_a_pixel(source, target, mode, corners) -> None:
    letterbox = Letterbox(source, target, mode)
    xs, ys = sorted(corners[:2]), sorted(corners[2:])
    box = np.array([[xs[0] * source[0], ys[0] * source[1], xs[1] * source[0], ys[1] * source[1]]], np.float32)
    there = letterbox.to_input(box)
    assert np.all(there >= 0)
    assert np.all(there <= np.array(target * 2) + 1e-3)
    assert np.abs(letterbox.to_source(there) - box).max() < 0.5


@given(source=SIZES, target=INPUTS)
def test_the_whole_image_is_the_whole_place(source, target) -> None:
    letterbox = Letterbox(source, target)
    left, top, right, bottom = letterbox.to_input([[0, 0, *source]])[0]
    assert (left, top) == (letterbox.offset_x, letterbox.offset_y)
    assert (round(float(right - left), 2), round(float(bottom - top), 2)) == letterbox.resized
    assert max(letterbox.resized[0] / target[0], letterbox.resized[1] / target[1]) == 1


@pytest.mark.parametrize('mode', ['letterbox', 'stretch'])
@pytest.mark.parametrize('source', [(1283, 721), (641, 479), (333, 777), (1920, 1080), (200, 150)])
def test_real_pixels_land_where_the_geometry_says(source: tuple[int, int], mode: str) -> None:
    """A white block in a black image: its edges after the resize, measured by its brightness, against `to_input`."""
    width, height = source
    block = np.array([[width // 5, height // 3, width // 5 + width // 4, height // 3 + height // 3]])
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = block[0]
    image[y1:y2, x1:x2] = 255
    letterbox = Letterbox(source, (640, 512), mode, pad=0)
    out = letterbox.apply(image, np.empty((512, 640, 3), np.uint8))[:, :, 0] / 255.0
    columns, rows = out.max(axis=0), out.max(axis=1)
    center_x = (columns * (np.arange(640) + 0.5)).sum() / columns.sum()
    center_y = (rows * (np.arange(512) + 0.5)).sum() / rows.sum()
    left, top, right, bottom = letterbox.to_input(block)[0]
    assert center_x == pytest.approx((left + right) / 2, abs=0.5)
    assert center_y == pytest.approx((top + bottom) / 2, abs=0.5)
    assert columns.sum() == pytest.approx(right - left, abs=1)
    assert rows.sum() == pytest.approx(bottom - top, abs=1)


def test_an_image_of_the_input_size_comes_through_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    assert np.array_equal(Letterbox((48, 64), (48, 64)).apply(image, np.empty_like(image)), image)


def test_a_frame_with_padded_rows_is_taken_as_it_is() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)
    letterbox = Letterbox((60, 50), (32, 32))
    padded = letterbox.apply(rows[:, :60], np.empty((32, 32, 3), np.uint8))
    tight = letterbox.apply(rows[:, :60].copy(), np.empty((32, 32, 3), np.uint8))
    assert np.array_equal(padded, tight)


def test_the_border_is_gray_and_written_only_for_a_new_buffer() -> None:
    letterbox = Letterbox((40, 20), (20, 20), pad=114)
    image = np.full((20, 40, 3), 200, np.uint8)
    buffer = np.empty((20, 20, 3), np.uint8)
    assert letterbox.apply(image, buffer) is buffer
    expected = np.full((20, 20, 3), 114, np.uint8)
    expected[5:15] = 200
    assert np.array_equal(buffer, expected)
    buffer[0] = 1
    letterbox.apply(image, buffer)
    assert np.all(buffer[0] == 1)
    other = np.empty_like(buffer)
    assert np.array_equal(letterbox.apply(image, other), expected)


def test_boxes_are_clipped_to_the_source() -> None:
    letterbox = Letterbox((1280, 720), (640, 640))
    boxes = letterbox.to_source([[-10, 0, 50, 141], [600, 400, 700, 640], [0, 0, 640, 100]])
    assert boxes.tolist() == [[0, 0, 100, 2], [1200, 520, 1280, 720], [0, 0, 1280, 0]]
    assert letterbox.to_source(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (((0, 5), (640, 640)), 'must be positive'),
        (((5, 5), (640, -1)), 'must be positive'),
        (((5, 5), (640, 640), 'crop'), 'letterbox, stretch'),
        (((5, 5), (640, 640), 'letterbox', 256), 'pad 256'),
    ],
)
def test_impossible_geometry_is_refused(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Letterbox(*arguments)


def test_images_and_buffers_of_another_size_are_refused() -> None:
    letterbox = Letterbox((40, 20), (20, 20))
    with pytest.raises(ValueError, match='for 40x20'):
        letterbox.apply(np.zeros((40, 20, 3), np.uint8), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(ValueError, match='has 20x20'):
        letterbox.apply(np.zeros((20, 40, 3), np.uint8), np.zeros((20, 20, 3), np.float32))
