"""Frames without labels as a training set: a detector says what is there."""

import cv2
import numpy as np
import pytest

from training.__main__ import main
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
    (tmp_path / 'drive.mp4').rename(
        tmp_path / 'return.mp4'
    )  # frames of another source in the same place are not its own
    counts = prepare(settings(path='return.mp4'), tmp_path, tmp_path / 'set')
    assert counts == {'train': 2, 'left_out': 0}
    assert {file.name[:6] for file in (tmp_path / 'set/images/train').iterdir()} == {'return'}


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'teacher': None}, 'give a teacher'),
        ({'teacher': {**ROADS, 'unlabelled': 'ignore'}}, 'in a recipe `teacher` with `unlabelled: teach`'),
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


@pytest.fixture
def photographs(tmp_path, shared_data):
    """Three pictures of roads, one of which breaks off, and something that is no picture."""
    folder = tmp_path / 'my photographs'
    folder.mkdir()
    files = sorted((shared_data / 'elevated_road' / 'images' / 'train').glob('*.jpg'))[:60:20]
    for number, file in enumerate(files):
        (folder / f'{number}.jpg').write_bytes(file.read_bytes()[: 3000 if number == 1 else None])
    (folder / 'notes.txt').write_text('of May')
    return folder


def test_the_command_line_labels_a_folder_by_two_detectors(photographs, tmp_path, repository, caplog):
    words = ['--format', 'frames', '--classes', 'vehicle', 'truck', '--out', str(tmp_path / 'set'), '--flip']
    teachers = [str(repository / 'models' / name) for name in ('road_traffic', 'aerial_traffic')]
    status = main(['prepare', str(photographs), *words, '--teacher', *teachers, '--teacher-map', 'car=vehicle'])
    assert status == 0
    assert '1.jpg is skipped' in caplog.text
    labels = [file.read_text().splitlines() for file in sorted((tmp_path / 'set/labels/train').glob('*.txt'))]
    assert len(labels) == 2
    assert {line.split()[0] for lines in labels for line in lines} >= {'0'}
    assert (tmp_path / 'set/overview/train.jpg').is_file()
    assert len(list(tmp_path.glob('teacher-*.jsonl'))) == 4  # two detectors, each at mirror images too
    assert main(['prepare', str(tmp_path / 'set'), '--check']) == 0


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        ([], 'give a teacher (--teacher BUNDLE'),
        (
            ['--teacher', 'models/road_traffic', '--teacher-map', 'cars=car'],
            "no teacher has a class 'cars': did you mean 'car'",
        ),
        (['--teacher', 'models/traffic_lights', '--classes', 'car'], 'detects none of car; a class_map'),
        (['--check'], 'frames have no labels that could be checked'),
        (['--teacher', 'models/road_traffic', '--split-by', 'session'], 'the format frames takes no'),
    ],
)
def test_the_command_line_says_what_is_missing(photographs, tmp_path, repository, monkeypatch, capsys, words, says):
    monkeypatch.chdir(repository)
    assert main(['prepare', str(photographs), '--format', 'frames', '--out', str(tmp_path / 'set'), *words]) == 1
    assert says in capsys.readouterr().err
