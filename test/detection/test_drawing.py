"""Drawing: boxes and labels appear where they belong, and no detection breaks it."""

import numpy as np
import pytest

from kd_perception.detection.detections import Detections
from kd_perception.detection.drawing import PALETTE, color_of, draw

NAMES = ('car', 'truck')


def gray(width: int = 640, height: int = 480) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def test_a_box_is_drawn_in_its_classes_color_and_its_inside_is_left_alone() -> None:
    image = gray()
    assert draw(image, Detections([[100, 100, 200, 180]], [0.9], [1]), NAMES, labels=False) is image
    assert tuple(image[140, 100]) == color_of(1)
    assert np.all(image[110:170, 110:190] == 128)
    assert np.all(image[:90] == 128)


@pytest.mark.parametrize('ground', [0, 128, 255])
def test_a_label_is_readable_on_any_ground(ground: int) -> None:
    image = draw(np.full((480, 640, 3), ground, np.uint8), Detections([[100, 100, 200, 180]], [0.9], [0]), NAMES)
    label = image[85:98, 100:150].reshape(-1, 3)
    assert np.all(label == color_of(0), axis=1).mean() > 0.4
    assert label.max(axis=1).min() < 20  # ink; the ground's brightest channel is at 230


def test_a_label_finds_a_place_inside_the_picture() -> None:
    bare, labelled = (
        draw(gray(), Detections([[0, 0, 100, 80]], [0.9], [0]), NAMES, labels=labels) for labels in (False, True)
    )
    changed = np.argwhere(np.any(bare != labelled, axis=2))
    assert changed.min(axis=0)[0] >= 80


def test_labels_leave_small_objects_and_better_labels_free() -> None:
    crowd = Detections([[100, 100, 130, 120], [100, 70, 130, 98], [132, 100, 160, 120]], [0.9, 0.8, 0.7], [0, 0, 1])
    bare, labelled = (draw(gray(), crowd, NAMES, labels=labels) for labels in (False, True))
    for x1, y1, x2, y2 in crowd.boxes.astype(int):
        assert np.array_equal(bare[y1:y2, x1:x2], labelled[y1:y2, x1:x2])
    assert not np.array_equal(bare, labelled)


def test_the_header_stands_in_the_upper_left_corner() -> None:
    image = draw(gray(), Detections.empty(), NAMES, header='age 27.9 ms')
    changed = np.argwhere(np.any(image != 128, axis=2))
    assert changed.size > 0
    assert changed.max(axis=0)[0] < 40
    assert changed.max(axis=0)[1] < 320


def test_lines_grow_with_the_image() -> None:
    def line(width: int, height: int) -> int:
        box = [[width / 4, height / 4, width / 2, height / 2]]
        image = draw(gray(width, height), Detections(box, [0.9], [0]), NAMES, labels=False)
        return int(np.all(image[height * 3 // 8] == color_of(0), axis=1).sum())

    assert line(320, 240) < line(1920, 1080) < line(3840, 2160)


def test_class_colors_are_distinct_and_begin_again() -> None:
    assert len(set(PALETTE)) == len(PALETTE)
    assert color_of(len(PALETTE)) == PALETTE[0]


@pytest.mark.parametrize('size', [(1, 1), (16, 16), (640, 3), (3, 480)])
@pytest.mark.parametrize(
    'box',
    [[0, 0, 1, 1], [-50, -50, 2000, 2000], [5e9, 5e9, 6e9, 6e9], [3, 3, 3, 3]],
    ids=['corner', 'all', 'far', 'point'],
)
def test_no_box_and_no_size_breaks_it(size: tuple[int, int], box: list[float]) -> None:
    image = draw(gray(*size), Detections([box], [0.5], [12]), NAMES, header='a header that is too long for this image')
    assert image.shape == (size[1], size[0], 3)
