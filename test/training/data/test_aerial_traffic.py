"""Tiles out of photographs: sizes, boxes, sessions."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.aerial_traffic import CLASSES, TileSettings, prepare, session, tiles, turn
from training.data.dataset import LabeledImage, ground_truth, read_labels, read_split, write_split
from training.errors import DataError

RED = (0, 0, 255)


def photograph(name: str, cars: list[tuple[int, int, int, int]], size: tuple[int, int] = (400, 300)) -> LabeledImage:
    """Grey ground with filled red rectangles as cars."""
    image = np.full((size[1], size[0], 3), 90, np.uint8)
    for x1, y1, x2, y2 in cars:
        image[y1:y2, x1:x2] = RED
    return LabeledImage(name, image, ground_truth(cars, [0] * len(cars)))


def write_source(folder: Path, train: list[str], val: list[str]) -> Path:
    """A data set of the real one's form."""
    cars = [(150, 100, 190, 120), (200, 150, 220, 190)]
    write_split(folder, 'train', CLASSES, [photograph(name, cars) for name in train])
    write_split(folder, 'val', CLASSES, [photograph(name, cars) for name in val])
    return folder


@pytest.mark.parametrize(
    ('name', 'flight'),
    [
        ('DJI_0005-0018', 'DJI_0005'),
        ('DJI-00760-00001', 'DJI-00760'),
        ('MOS155', 'MOS'),
        ('MunichStreet02-MOS74', 'MunichStreet02-MOS'),
    ],
)
def test_session_is_the_name_without_its_running_number(name, flight):
    assert session(name) == flight


def test_boxes_in_tiles_lie_on_the_cars():
    source = [photograph('A-1', [(150, 100, 190, 120), (200, 150, 220, 190)])]
    settings = TileSettings(size=128, count=20, car_px=(20, 40), blur_share=0, seed=3)
    boxes = 0
    for tile in tiles(source, settings):
        red = (tile.image[..., 2] > 172) & (tile.image[..., 1] < 45)
        inside = np.zeros_like(red)
        for x1, y1, x2, y2 in tile.objects.boxes.round().astype(int):
            inside[y1:y2, x1:x2] = True
            assert red[y1:y2, x1:x2].mean() > 0.8
            boxes += 1
        outside = red & ~inside
        # What is red and not in a box is at most the remainder of cars that the tile's edge cuts.
        assert outside.mean() < 0.05
    assert boxes > 20


def test_cars_have_the_sizes_asked_for():
    source = [photograph('A-1', [(150, 100, 190, 120)])]
    settings = TileSettings(size=160, count=30, car_px=(12, 24), min_visible=1.0, seed=1)
    lengths = [(box[2:] - box[:2]).max() for tile in tiles(source, settings) for box in tile.objects.boxes]
    assert len(lengths) > 10
    assert min(lengths) > 11
    assert max(lengths) < 25


def test_tiles_are_drawn_from_the_seed():
    source = [photograph('A-1', [(150, 100, 190, 120)])]
    first, again, other = (
        [tile.image for tile in tiles(source, TileSettings(size=96, count=3, seed=seed))] for seed in (5, 5, 6)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@given(
    st.lists(st.tuples(*[st.integers(0, 50)] * 4), min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_turned_boxes_stay_on_turned_pixels(corners, quarter_turns):
    boxes = np.array([(min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1) for a, b, c, d in corners])
    for box, turned in zip(boxes, turn(boxes, 64, quarter_turns), strict=True):
        mask, expected = np.zeros((64, 64)), np.zeros((64, 64))
        mask[box[1] : box[3], box[0] : box[2]] = 1
        expected[turned[1] : turned[3], turned[0] : turned[2]] = 1
        assert np.array_equal(np.rot90(mask, quarter_turns), expected)


def test_prepare_writes_tiles_and_whole_validation_photographs(tmp_path):
    source = write_source(tmp_path / 'source', ['A-1', 'A-2'], ['B-1'])
    counts = prepare(source, tmp_path / 'target', TileSettings(size=64, count=5, car_px=(10, 20)))
    assert counts == {'train': 5, 'val': 1}
    (validation,) = read_split(tmp_path / 'target', 'val')
    assert validation.image.shape == (300, 400, 3)
    assert validation.objects.boxes == pytest.approx(np.array([(150, 100, 190, 120), (200, 150, 220, 190)]), abs=0.01)
    coco = json.loads((tmp_path / 'target/annotations/val.json').read_text())
    assert [entry['bbox'] for entry in coco['annotations']] == [
        pytest.approx([150, 100, 40, 20], abs=0.02),
        pytest.approx([200, 150, 20, 40], abs=0.02),
    ]


def test_a_session_in_both_splits_is_refused(tmp_path):
    source = write_source(tmp_path, ['A-1'], ['A-2'])
    with pytest.raises(DataError, match=r'sessions A lie in train and in val'):
        prepare(source, tmp_path / 'target', TileSettings(count=1))


def test_another_class_list_is_refused(tmp_path):
    source = write_source(tmp_path, ['A-1'], ['B-1'])
    (source / 'classes.txt').write_text('dog cat')
    with pytest.raises(DataError, match=r'lists dog cat, not car truck bus minibus cyclist'):
        prepare(source, tmp_path / 'target', TileSettings(count=1))


@pytest.mark.parametrize('text', ['0 0.5 0.5', 'car 0.5 0.5 0.1 0.1', '0 0.5 0.5 0.1 0.1 9\n0 0.5 0.5 0.1 0.1'])
def test_malformed_labels_are_refused(tmp_path, text):
    (tmp_path / 'a.txt').write_text(text)
    with pytest.raises(DataError, match='class cx cy w h'):
        read_labels(tmp_path / 'a.txt', 10, 10)


def test_an_image_without_labels_has_no_objects(tmp_path):
    (tmp_path / 'images/train').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'images/train/a.jpg'), np.zeros((8, 8, 3), np.uint8))
    (item,) = read_split(tmp_path, 'train')
    assert len(item.objects) == 0


def test_the_real_photographs_are_split_by_session(shared_data, tmp_path):
    counts = prepare(shared_data / 'aerial_traffic', tmp_path, TileSettings(count=8))
    assert counts == {'train': 8, 'val': 24}
