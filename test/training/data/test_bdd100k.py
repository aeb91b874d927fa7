"""BDD100K det_20: aliases, crowds, ignored classes, the inclusive box, road users only."""

import numpy as np
import pytest
from data_sets import converted, write_picture, write_text

from training.data.bdd100k import CLASSES, read
from training.data.class_rules import VRU
from training.data.dataset import read_classes
from training.errors import DataError


def label(category, box=(10, 20, 29, 39), **attributes):
    x1, y1, x2, y2 = box
    marks = {'occluded': False, 'truncated': False, 'trafficLightColor': 'NA', **attributes}
    return {'id': '1', 'category': category, 'attributes': marks, 'box2d': {'x1': x1, 'y1': y1, 'x2': x2, 'y2': y2}}


def frame(name, *labels, **fields):
    return {
        'name': name,
        'attributes': {'weather': 'clear', 'scene': 'city street', 'timeofday': 'daytime'},
        'timestamp': 10000,
        'labels': list(labels),
        **fields,
    }


def write_source(folder, *train, val=()):
    """Frames and their pictures."""
    for split, frames in {'train': train, 'val': val or [frame('ffff0000-00000000.jpg')]}.items():
        write_text(folder / f'labels/det_20/det_{split}.json', list(frames))
        for entry in frames:
            write_picture(folder / f'images/100k/{split}' / entry['name'])
    return folder


def names(item, classes=CLASSES):
    return [classes[class_id] for class_id in item.objects.class_ids]


def test_aliases_become_the_ten_classes(tmp_path):
    words = ['person', 'bike', 'motor', 'van', 'caravan', 'traffic light']
    source = write_source(tmp_path / 'bdd', frame('a-1.jpg', *(label(word) for word in words)))
    (item,) = converted(source, tmp_path / 'ours', format='bdd100k')
    # van and caravan are the same car here: one box of one class
    assert names(item) == ['pedestrian', 'bicycle', 'motorcycle', 'car', 'traffic light']
    assert read_classes(tmp_path / 'ours') == CLASSES


@pytest.mark.parametrize(('inclusive', 'x2', 'y2'), [(False, 29, 39), (True, 30, 40)])
def test_the_last_pixel_belongs_to_the_box_if_asked(tmp_path, inclusive, x2, y2):
    source = write_source(tmp_path / 'bdd', frame('a-1.jpg', label('car')))
    (item,) = converted(source, tmp_path / 'ours', format='bdd100k', inclusive=inclusive)
    np.testing.assert_allclose(item.objects.boxes, [[10, 20, x2, y2]], atol=1e-3)


def test_a_box_of_one_pixel_lives_only_if_its_last_pixel_counts(tmp_path):
    source = write_source(tmp_path / 'bdd', frame('a-1.jpg', label('car', (10, 20, 10, 20))))
    counts = [
        len(converted(source, tmp_path / f'ours{flag}', format='bdd100k', inclusive=flag)[0].objects)
        for flag in (False, True)
    ]
    assert counts == [0, 1]


def test_what_is_ignored_and_crowds_are_neither_learnt_nor_judged(tmp_path):
    labels = [label('other person'), label('other vehicle'), label('trailer'), label('car', crowd=True), label('bus')]
    source = write_source(tmp_path / 'bdd', frame('a-1.jpg', *labels))
    (item,) = converted(source, tmp_path / 'ours', format='bdd100k')
    assert names(item) == ['bus']
    assert len(item.ignored) == 3
    assert [CLASSES[class_id] for class_id in item.crowds.class_ids] == ['car']
    truth = item.truth()
    assert (len(truth.objects), truth.crowd.tolist(), len(truth.ignored)) == (2, [False, True], 3)


def test_road_users_only_ignore_other_persons_and_nothing_else(tmp_path):
    labels = [label('other person'), label('other vehicle'), label('trailer'), label('car'), label('person')]
    source = write_source(tmp_path / 'bdd', frame('a-1.jpg', *labels, label('rider', crowd=True)))
    (item,) = converted(source, tmp_path / 'ours', format='bdd100k', classes=('vru',))
    assert read_classes(tmp_path / 'ours') == VRU
    assert names(item, VRU) == ['pedestrian']
    assert len(item.ignored) == 1
    assert item.crowds.class_ids.tolist() == [VRU.index('rider')]


def test_frames_without_labels_and_labels_without_box_are_empty(tmp_path):
    bare = frame('b-1.jpg')
    del bare['labels']
    poly = {**label('car'), 'poly2d': [], 'box2d': None}
    no_box = {key: value for key, value in label('car').items() if key != 'box2d'}
    no_marks = {key: value for key, value in label('car').items() if key != 'attributes'}
    frames = [frame('a-1.jpg', labels=None), bare, frame('c-1.jpg', poly, no_box), frame('d-1.jpg', no_marks)]
    items = converted(write_source(tmp_path / 'bdd', *frames), tmp_path / 'ours', format='bdd100k')
    assert [len(item.objects) for item in items] == [0, 0, 0, 1]


def test_clips_of_one_drive_are_one_session(tmp_path):
    source = write_source(tmp_path / 'bdd', frame('0000f77c-6257be58.jpg'), frame('0000f77c-62c2a288.jpg'))
    assert {picture.session for picture in read(source).pictures} == {'0000f77c', 'ffff0000'}


@pytest.mark.parametrize('broken', [7, {}, {**frame('x.jpg'), 'labels': 3}, frame('../../x.jpg')])
def test_broken_frames_are_reported_and_the_others_read(tmp_path, broken):
    source = write_source(tmp_path / 'bdd', frame('a-1.jpg', label('car')))
    write_text(source / 'labels/det_20/det_train.json', [broken, frame('a-1.jpg', label('car'))])
    found = read(source)
    assert len(found.pictures) == 2
    assert len(found.problems) == 1


def test_another_file_is_refused(tmp_path):
    write_text(tmp_path / 'det_train.json', {'images': []})
    with pytest.raises(DataError, match='no list of frames'):
        read(tmp_path)
