"""Frames without labels as a training set: a detector says what is there."""

import cv2
import numpy as np
import pytest

from training.data.sources import FORMATS, SourceSettings, prepare
from training.errors import DataError, RecipeError
from training.schema import read

ROADS = {'bundle': 'models/road_traffic', 'class_map': {'car': 'car', 'truck': 'truck'}, 'unlabelled': 'teach'}
FRAMES = {'format': 'frames', 'classes': ['car', 'truck'], 'teacher': ROADS}


def settings(**changes):
    return read(SourceSettings, {**FRAMES, **changes}, 'recipe: data.frames')


def test_a_folder_of_pictures_becomes_a_train_split_with_what_the_detector_sees(
    tmp_path, shared_data, repository, monkeypatch
):
    monkeypatch.chdir(repository)
    photographs = tmp_path / 'photographs'
    photographs.mkdir()
    for file in sorted((shared_data / 'elevated_road' / 'images' / 'train').glob('*.jpg'))[:60:20]:
        (photographs / file.name).write_bytes(file.read_bytes())
    counts = prepare(settings(path='photographs', frames={'difference': 0}), tmp_path, tmp_path / 'out' / 'set')
    assert counts['train'] == 3
    assert 'val' not in counts
    labels = [file.read_text().splitlines() for file in sorted((tmp_path / 'out/set/labels/train').glob('*.txt'))]
    assert sum(map(len, labels)) > 3
    assert {line.split()[0] for lines in labels for line in lines} <= {'0', '1'}


def test_a_video_is_taken_apart_first(tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    video = cv2.VideoWriter(str(tmp_path / 'drive.mp4'), cv2.VideoWriter.fourcc(*'mp4v'), 10, (160, 96))
    for number in range(10):
        video.write(np.full((96, 160, 3), 25 * number, np.uint8))
    video.release()
    counts = prepare(settings(path='drive.mp4', frames={'every': 5}), tmp_path, tmp_path / 'set')
    assert counts == {'train': 2, 'left_out': 0}


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'teacher': None}, 'they need a teacher'),
        ({'teacher': {**ROADS, 'unlabelled': 'ignore'}}, 'they need a teacher with `unlabelled: teach`'),
        ({'format': 'yolo', 'frames': {}}, 'frames goes with the format frames, not with yolo'),
    ],
)
def test_what_cannot_be_labelled_is_refused(changes, says):
    assert 'frames' in FORMATS
    with pytest.raises(RecipeError, match=says):
        settings(path='x', **changes)


def test_a_path_that_is_not_there_is_told(tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    with pytest.raises(DataError, match='a bag, a video or a folder'):
        prepare(settings(path='none'), tmp_path, tmp_path / 'set')
