"""Synthetic frames as a data set."""

import itertools

import numpy as np

from training.data.aerial_traffic import CLASSES
from training.data.dataset import read_split
from training.data.scenes import SceneSetSettings, frames, prepare


def test_the_classes_are_the_scenes_classes():
    from kd_perception.scene import CLASS_NAMES

    assert CLASS_NAMES == CLASSES


def test_frames_come_back_from_disk_with_their_boxes(tmp_path):
    settings = SceneSetSettings(count=3, size=96, frames_per_scene=2)
    assert prepare(tmp_path, settings) == 3
    drawn = list(frames(settings))
    read = list(read_split(tmp_path, 'train'))
    assert [item.name for item in read] == ['00000', '00001', '00002']
    for item, original in zip(read, drawn, strict=True):
        assert item.image.shape == (96, 96, 3)
        assert np.array_equal(item.objects.class_ids, original.objects.class_ids)
        assert np.allclose(item.objects.boxes, original.objects.boxes, atol=1e-3)


def test_frames_of_one_flight_and_of_two_differ():
    shown = [item.image for item in frames(SceneSetSettings(count=4, size=64, frames_per_scene=2))]
    assert all(not np.array_equal(first, second) for first, second in itertools.combinations(shown, 2))
