"""Ultralytics' layout: both orders of folders, names, polygons, broken lines; and what we write, Ultralytics reads."""

import numpy as np
import pytest
from data_sets import converted, write_picture, write_text

from training.data.dataset import LabelledImage, ground_truth, read_split, write_split
from training.data.yolo_layout import read, read_names
from training.errors import DataError

LINE = '1 0.25 0.5 0.25 0.3333333\n'
"""The red rectangle of the test pictures."""


def write_source(folder, images='images/{}', labels='labels/{}', text=LINE):
    write_text(folder / 'data.yaml', 'names: [bird, drone]\n')
    for split in ('train', 'val'):
        write_picture(folder / images.format(split) / f'{split}.jpg', ground=90 if split == 'train' else 80)
        write_text(folder / labels.format(split) / f'{split}.txt', text)
    return folder


@pytest.mark.parametrize(('images', 'labels'), [('images/{}', 'labels/{}'), ('{}/images', '{}/labels')])
def test_both_orders_of_folders_are_read(tmp_path, images, labels):
    (item,) = converted(write_source(tmp_path / 'yolo', images, labels), tmp_path / 'ours', format='yolo')
    np.testing.assert_allclose(item.objects.boxes, [[10, 20, 30, 40]], atol=1e-3)
    assert item.objects.class_ids.tolist() == [1]


@pytest.mark.parametrize(
    ('name', 'text', 'names'),
    [
        ('data.yaml', 'names: [bird, drone]', ('bird', 'drone')),
        ('data.yaml', 'names: {0: bird, 1: drone}', ('bird', 'drone')),
        ('classes.txt', 'bird\ntraffic light\n', ('bird', 'traffic light')),
        ('classes.txt', 'bird drone', ('bird', 'drone')),
    ],
)
def test_classes_are_named_in_any_of_the_usual_ways(tmp_path, name, text, names):
    write_text(tmp_path / name, text)
    assert read_names(tmp_path) == names


@pytest.mark.parametrize('text', ['', 'names: 3', 'names: {1: a, 2: b}', 'nc: 3', '[', '!!python/object:os.system {}'])
def test_other_yaml_names_no_classes(tmp_path, text):
    write_text(tmp_path / 'data.yaml', text)
    with pytest.raises(DataError, match='names no classes'):
        read_names(tmp_path)


def test_polygons_become_boxes(tmp_path):
    source = write_source(tmp_path / 'yolo', text='0 0.1 0.1 0.5 0.2 0.3 0.9\n')
    (item,) = converted(source, tmp_path / 'ours', format='yolo')
    np.testing.assert_allclose(item.objects.boxes, [[8, 6, 40, 54]], atol=1e-3)


@pytest.mark.parametrize('line', ['2 0.5 0.5 0.1 0.1', '-1 0.5 0.5 0.1 0.1', '0 0.5 0.5', '0 0.5 0.5 0.1 0.1 9', 'a b'])
def test_broken_lines_are_reported_and_the_others_read(tmp_path, line):
    found = read(write_source(tmp_path / 'yolo', text=f'{line}\n{LINE}'))
    assert [problem.kind for problem in found.problems] == ['annotation that cannot be read'] * 2
    assert [len(picture.relative) for picture in found.pictures] == [1, 1]


def test_crowds_and_ignored_regions_survive_a_second_conversion(tmp_path):
    image = np.full((60, 80, 3), 90, np.uint8)
    for split in ('train', 'val'):
        item = LabelledImage(
            f'{split}',
            image + len(split),
            ground_truth([[10, 20, 30, 40]], [1]),
            ground_truth([[40, 0, 60, 20]], [0]),
            np.array([[0, 0, 5, 5], [70, 50, 80, 60]], np.float32),
        )
        write_split(tmp_path / 'first', split, ('bird', 'drone'), [item])
    (again,) = converted(tmp_path / 'first', tmp_path / 'second', format='yolo')
    assert again.objects.boxes.round(2).tolist() == [[10, 20, 30, 40]]
    assert again.crowds.boxes.tolist() == [[40, 0, 60, 20]]
    assert again.crowds.class_ids.tolist() == [0]
    assert again.ignored.tolist() == [[0, 0, 5, 5], [70, 50, 80, 60]]


def test_ultralytics_trains_on_what_we_write(tmp_path):
    pytest.importorskip('ultralytics')
    from ultralytics.data import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    converted(write_source(tmp_path / 'yolo'), tmp_path / 'ours', format='yolo')
    data = check_det_dataset(str(tmp_path / 'ours/data.yaml'), autodownload=False)
    assert data['names'] == {0: 'bird', 1: 'drone'}
    dataset = YOLODataset(data['val'], data=data, task='detect', imgsz=64, augment=False)
    (label,) = dataset.get_labels()
    np.testing.assert_allclose(label['bboxes'], [[0.25, 0.5, 0.25, 1 / 3]], atol=1e-5)
    assert len(list(read_split(tmp_path / 'ours', 'val'))) == len(dataset) == 1
