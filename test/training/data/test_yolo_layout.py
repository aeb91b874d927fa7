"""Ultralytics' layout: both orders of folders, names, polygons, broken lines; and what we write, Ultralytics reads."""

import numpy as np
import pytest
from data_sets import converted, write_picture, write_text

from training.data.dataset import LabeledImage, ground_truth, read_split, write_split
from training.data.picture import Level
from training.data.yolo_layout import read, read_names
from training.data.yolo_splits import label_file
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
        item = LabeledImage(
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


# What data.yaml names


def write_named(folder, text, *places):
    """A data set whose data.yaml says `text`, with a picture of its own gray in each of the places, and its labels."""
    write_text(folder / 'data.yaml', f'names: [bird, drone]\n{text}\n')
    for number, place in enumerate(places):
        picture = write_picture(folder / place, ground=40 + 5 * number)
        write_text(label_file(folder, picture), LINE)
    return folder


THREE = [f'images/{name}/a.jpg' for name in ('day', 'night', 'fog')]
NAMED = [
    # data.yaml, pictures, (train, val, test)
    ('train: images/train\nval: images/validation', ['images/train/a.jpg', 'images/validation/b.jpg'], (1, 1, 0)),
    ('train: images/train2017\nval: images/val2017', ['images/train2017/a.jpg', 'images/val2017/b.jpg'], (1, 1, 0)),
    (
        'train: day/images\nval: night/images\ntest: fog/images',
        [f'{n}/images/a.jpg' for n in ('day', 'night', 'fog')],
        (1, 1, 1),
    ),
    (
        'train: [images/day, images/night]\nval: images/fog',
        THREE,
        (2, 1, 0),
    ),
    (
        'train:\n- images/day\n- images/night/\nval: ./images/fog',
        THREE,
        (2, 1, 0),
    ),
    ('path: set\ntrain: images/one\nval: images/two', ['set/images/one/a.jpg', 'set/images/two/b.jpg'], (1, 1, 0)),
    (
        'path: /content/datasets/x\ntrain: images/one\nval: images/two',
        ['images/one/a.jpg', 'images/two/b.jpg'],
        (1, 1, 0),
    ),
    ('path: ../datasets/x\ntrain: images/one\nval: images/two', ['images/one/a.jpg', 'images/two/b.jpg'], (1, 1, 0)),
    (
        'train: ../train/images\nval: ../valid/images\ntest: ../test/images',
        ['train/images/a.jpg', 'valid/images/b.jpg'],
        (1, 1, 0),
    ),
    ('train: images\nval: held_out', ['images/a.jpg', 'held_out/b.jpg'], (1, 1, 0)),
    ('train: images/train\nval: images/train/sub', ['images/train/sub/a.jpg'], (1, 1, 0)),
    ('nc: 2', ['images/training/a.jpg', 'images/validation/b.jpg', 'images/test-dev2017/c.jpg'], (1, 1, 1)),
    ('nc: 2', ['train/images/a.jpg', 'valid/images/b.jpg'], (1, 1, 0)),
]


@pytest.mark.parametrize(('text', 'places', 'counts'), NAMED)
def test_the_folders_that_data_yaml_names_are_read(tmp_path, text, places, counts):
    found = read(write_named(tmp_path / 'set', text, *places))
    assert tuple(sum(p.split == split for p in found.pictures) for split in ('train', 'val', 'test')) == counts
    assert all(len(picture.relative) == 1 for picture in found.pictures)
    assert len({(picture.split, picture.stem) for picture in found.pictures}) == sum(counts)


def test_lists_of_pictures_are_read(tmp_path):
    places = ['images/all/a.jpg', 'images/all/b.jpg', 'images/all/c.jpg', 'other/images/c.jpg']
    folder = write_named(tmp_path / 'set', 'train: lists/train.txt\nval: [lists/val.txt]', *places)
    write_text(folder / 'lists/train.txt', 'images/all/a.jpg\n\n./../images/all/b.jpg\n')
    write_text(
        folder / 'lists/val.txt', f'{folder.absolute()}/images/all/c.jpg\nother/images/c.jpg\nimages/all/absent.jpg\n'
    )
    found = read(folder)
    assert sorted((picture.split, picture.name) for picture in found.pictures) == [
        ('train', 'images/all/a.jpg'),
        ('train', 'images/all/b.jpg'),
        ('val', 'images/all/c.jpg'),
        ('val', 'other/images/c.jpg'),
    ]
    assert all(len(picture.relative) == 1 for picture in found.pictures)
    (problem,) = (problem for problem in found.problems if problem.level == Level.BROKEN)
    assert str(problem) == 'val.txt:3: images/all/absent.jpg'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('train: images/train\nval: images/absent', 'val: images/absent, but there is no such'),
        ('train: images/absent', 'train: images/absent'),
        ('train: images/train\nval: /etc', 'val: /etc, which lies outside'),
        ('train: images/train\nval: ../../elsewhere', 'lies outside'),
        ('train: &a images/train\nval: *a', 'alias'),
        ('train: images/train\ntrain: images/other', 'twice'),
    ],
)
def test_folders_that_cannot_be_read_are_refused_by_name(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(write_named(tmp_path / 'set', text, 'images/train/a.jpg'))


def test_what_no_split_names_is_said(tmp_path):
    folder = write_named(tmp_path / 'set', 'train: images/train', 'images/train/a.jpg', 'images/extra/b.jpg')
    assert [problem.kind for problem in read(folder).problems] == ['pictures that no split names']
    folder = write_named(tmp_path / 'bare', '', 'images/train/a.jpg', 'images/extra/b.jpg')
    assert [(p.kind, p.level) for p in read(folder).problems] == [('pictures that no split names', Level.FAULT)]


def test_labels_without_a_picture_are_said(tmp_path):
    folder = write_named(tmp_path / 'set', '', 'images/train/a.jpg')
    write_text(folder / 'labels/train/gone.txt', LINE)
    assert [problem.where for problem in read(folder).problems] == ['labels/train/gone.txt']


def test_a_linked_folder_is_the_users_own(tmp_path):
    folder = write_named(
        tmp_path / 'set', 'train: images/train\nval: images/val', 'images/train/a.jpg', 'images/val/b.jpg'
    )
    (folder / 'images/val').rename(tmp_path / 'disk')
    (folder / 'images/val').symlink_to(tmp_path / 'disk')
    assert sorted(picture.split for picture in read(folder).pictures) == ['train', 'val']


# Keypoints

POSE = '0 0.5 0.5 0.4 0.6 ' + ' '.join(f'{0.4 + n / 100:.2f} {0.3 + n / 50:.2f} {n % 3}' for n in range(6))
POSE_WITHOUT_FLAGS = '0 0.5 0.5 0.4 0.6 ' + ' '.join(f'{0.4 + n / 100:.2f} {0.3 + n / 50:.2f}' for n in range(5))


@pytest.mark.parametrize(('line', 'shape'), [(POSE, [6, 3]), (POSE_WITHOUT_FLAGS, [5, 2])])
def test_keypoints_are_no_polygons(tmp_path, line, shape):
    folder = write_source(tmp_path / 'pose', text=f'{line}\n')
    write_text(folder / 'data.yaml', f'names: [person, drone]\nkpt_shape: {shape}\n')
    (entry,) = read(folder).pictures[0].relative
    assert entry.box == pytest.approx((0.3, 0.2, 0.7, 0.8))


@pytest.mark.parametrize('line', [POSE, POSE_WITHOUT_FLAGS])
def test_keypoints_that_nobody_declared_are_refused(tmp_path, line):
    with pytest.raises(DataError, match='kpt_shape'):
        read(write_source(tmp_path / 'pose', text=f'{line}\n{line}\n'))


def test_lines_of_another_shape_than_declared_are_reported(tmp_path):
    folder = write_source(tmp_path / 'pose', text=f'{POSE}\n{LINE}')
    write_text(folder / 'data.yaml', 'names: [person, drone]\nkpt_shape: [17, 3]\n')
    assert [problem.kind for problem in read(folder).problems] == ['annotation that cannot be read'] * 4
    write_text(folder / 'data.yaml', 'names: [person, drone]\nkpt_shape: many\n')
    with pytest.raises(DataError, match='kpt_shape must be'):
        read(folder)


def test_real_polygons_stay_polygons(tmp_path):
    star = (
        '0 '
        + ' '.join(f'{0.5 + 0.3 * np.cos(a):.3f} {0.5 + 0.4 * np.sin(a):.3f}' for a in np.linspace(0, 6, 12))
        + '\n'
    )
    (entry, *_) = read(write_source(tmp_path / 'yolo', text=star * 3)).pictures[0].relative
    assert entry.box == pytest.approx((0.2, 0.1, 0.8, 0.9), abs=0.02)


# Names


def test_pictures_of_one_name_in_two_folders_keep_their_own_boxes(tmp_path):
    folder = write_named(tmp_path / 'set', '', 'images/train/cam1/x.jpg', 'images/train/cam2/x.jpg')
    write_text(folder / 'labels/train/cam2/x.txt', '0 0.5 0.5 0.2 0.2\n')
    crowd = {'category_id': 0, 'bbox': [1, 2, 30, 30], 'iscrowd': 1}
    images = [{'id': n, 'file_name': f'cam{n}/x.jpg', 'width': 80, 'height': 60} for n in (1, 2)]
    document = {
        'images': images,
        'categories': [{'id': 0, 'name': 'bird'}],
        'annotations': [{'id': 1, 'image_id': 2, **crowd}],
    }
    write_text(folder / 'annotations/train.json', document)
    one, two = converted(folder, tmp_path / 'ours', format='yolo', val_share=0)
    assert (one.name, one.objects.class_ids.tolist(), len(one.crowds)) == ('cam1_x', [1], 0)
    assert (two.name, two.objects.class_ids.tolist(), len(two.crowds)) == ('cam2_x', [0], 1)
