"""COCO annotations: classes, boxes, crowds and ignored regions, where pictures lie, what is refused."""

import numpy as np
import pytest
from data_sets import HEIGHT, WIDTH, converted, write_picture, write_text
from hypothesis import given
from hypothesis import strategies as st

from training.data.class_rules import class_rules
from training.data.coco import read, read_coco
from training.data.dataset import read_classes
from training.data.picture import Problems
from training.data.sources import SourceSettings, prepare
from training.errors import DataError

DRONE, BIRD = 7, 3
"""Category ids that are neither dense nor in the order of the file."""
RULES = class_rules(['bird', 'drone'])


def annotation(number: int, box: object, category: int = DRONE, **marks: object) -> dict[str, object]:
    return {'id': number, 'image_id': 1, 'category_id': category, 'bbox': box, 'iscrowd': 0, **marks}


def document(name: str, *annotations: dict[str, object]) -> dict[str, object]:
    """An instances file with one picture."""
    return {
        'images': [{'id': 1, 'file_name': name, 'width': WIDTH, 'height': HEIGHT}],
        'annotations': list(annotations),
        'categories': [{'id': DRONE, 'name': 'drone'}, {'id': BIRD, 'name': 'bird'}],
    }


@pytest.fixture
def source(tmp_path):
    """A data set with a training picture in a folder of its own and one for validation."""
    folder = tmp_path / 'coco'
    train = document('sky/a.png', annotation(1, [10, 20, 20, 20]), annotation(2, [0, 0, 5, 5], BIRD))
    write_text(folder / 'instances_train.json', train)
    write_text(folder / 'instances_val.json', document('b.png', annotation(1, [10, 20, 20, 20], BIRD)))
    write_picture(folder / 'images/sky/a.png')
    write_picture(folder / 'images/b.png')
    return folder


def test_pictures_and_boxes_arrive_in_our_form(source, tmp_path):
    target = tmp_path / 'ours'
    assert prepare(SourceSettings('coco', 'coco'), tmp_path, target) == {'train': 1, 'val': 1, 'left_out': 0}
    assert read_classes(target) == ('bird', 'drone')
    (train,), (val,) = (converted(source, target, split, format='coco') for split in ('train', 'val'))
    assert (train.name, val.name) == ('sky_a', 'b')
    np.testing.assert_allclose(train.objects.boxes, [[10, 20, 30, 40], [0, 0, 5, 5]], atol=1e-3)
    assert train.objects.class_ids.tolist() == [1, 0]
    assert train.image[20:40, 10:30].reshape(-1, 3).mean(axis=0).tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ('labels', 'pictures'),
    [
        ('instances_{}.json', 'images'),
        ('annotations/instances_{}.json', 'images/{}'),
        ('annotations/instances_{}2017.json', '{}2017'),
        ('annotations/{}.json', 'images/{}'),
    ],
)
def test_the_usual_layouts_are_read(tmp_path, labels, pictures):
    for split in ('train', 'val'):
        write_text(tmp_path / labels.format(split), document(f'{split}.png', annotation(1, [10, 20, 20, 20])))
        write_picture(tmp_path / pictures.format(split) / f'{split}.png')
    found = {picture.name: picture.split for picture in read(tmp_path).pictures if picture.read() is not None}
    assert found == {'train.png': 'train', 'val.png': 'val'}


@pytest.mark.parametrize(
    ('box', 'marks', 'kept'),
    [
        ([10, 20, 20, 20], {}, [10, 20, 30, 40]),
        ([-5, -5, 20, 15], {}, [0, 0, 15, 10]),
        ([70, 50, 20, 20], {}, [70, 50, 80, 60]),
        ([100, 20, 20, 20], {}, None),
        ([79.5, 20, 20, 20], {}, None),
        ([10, 20, 0, 20], {}, None),
        ([10, 20, 20, 20], {'iscrowd': 1}, None),
        ([10, 20, 20, 20], {'ignore': 1}, None),
        ([10, 20, 20, 20], {'ignore': 0}, [10, 20, 30, 40]),
    ],
)
def test_boxes_are_clipped_and_what_is_no_object_is_left_out(source, tmp_path, box, marks, kept):
    write_text(source / 'instances_train.json', document('sky/a.png', annotation(1, box, **marks)))
    (item,) = converted(source, tmp_path / 'ours', format='coco')
    np.testing.assert_allclose(item.objects.boxes, np.reshape([] if kept is None else kept, (-1, 4)), atol=1e-3)
    assert len(item.crowds) == ('iscrowd' in marks)
    assert len(item.ignored) == marks.get('ignore', 0)


coordinate = st.floats(-200, 200, width=32)
side = st.floats(0, 200, width=32)


@given(st.lists(st.tuples(coordinate, coordinate, side, side), max_size=8))
def test_every_box_is_inside_its_picture_or_left_out(tmp_path_factory, boxes):
    rows = [annotation(number, box) for number, box in enumerate(boxes)]
    path = write_text(tmp_path_factory.mktemp('coco') / 'a.json', document('a.png', *rows))
    _, (image,) = read_coco(path, Problems())
    found = RULES.truth(image.objects, WIDTH, HEIGHT).objects.boxes
    assert (found >= 0).all()
    assert (found <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    assert (found[:, 2:] - found[:, :2] >= 0.999).all()
    large = [min(x + w, WIDTH) - max(x, 0) >= 1.001 and min(y + h, HEIGHT) - max(y, 0) >= 1.001 for x, y, w, h in boxes]
    assert sum(large) <= len(found) <= len(boxes)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'bbox': [1, 2, 3]}, 'it has the box [1, 2, 3]'),
        ({'bbox': None}, 'NoneType'),
        ({'bbox': ['a', 2, 3, 4]}, 'could not convert'),
        ({'bbox': [1, 2, 10**400, 4]}, 'too large'),
        ({'image_id': 9}, 'image_id 9'),
        ({'image_id': [1]}, 'unhashable'),
        ({'category_id': 9}, 'category_id 9'),
    ],
)
def test_broken_annotations_are_named_and_the_others_read(tmp_path, change, message):
    content = document('a.png', {**annotation(5, [1, 2, 3, 4]), **change}, annotation(6, [1, 2, 3, 4]))
    problems = Problems()
    _, (image,) = read_coco(write_text(tmp_path / 'a.json', content), problems)
    assert len(image.objects) == 1
    (problem,) = problems.found
    assert 'annotation 5' in problem.where
    assert message in problem.text


@pytest.mark.parametrize('box', [[1, 2, -3, 4], [1, 2, float('nan'), 4], [1, 2, float('inf'), 4]])
def test_boxes_that_cannot_be_are_refused_or_left_out_as_asked(source, tmp_path, box):
    write_text(source / 'instances_train.json', document('sky/a.png', annotation(1, box), annotation(2, [1, 2, 3, 4])))
    with pytest.raises(DataError, match=r'1 pictures or boxes are broken:\n  sky/a\.png'):
        converted(source, tmp_path / 'ours', format='coco')
    (item,) = converted(source, tmp_path / 'ours', format='coco', skip_broken=True)
    np.testing.assert_allclose(item.objects.boxes, [[1, 2, 4, 6]], atol=1e-3)


@pytest.mark.parametrize('name', ['../secret.png', '/etc/secret.png', 'a/../../secret.png', '..\\secret.png', ''])
def test_pictures_outside_the_folder_are_not_opened(source, tmp_path, name):
    write_picture(tmp_path / 'secret.png')
    write_text(source / 'instances_train.json', document(name, annotation(1, [1, 2, 3, 4])))
    (problem,) = read(source).problems
    assert problem.kind == 'picture outside the folder'
    with pytest.raises(DataError, match='leads out of'):
        converted(source, tmp_path / 'ours', format='coco')


def test_a_category_that_is_listed_twice_is_refused(tmp_path):
    content = document('a.png')
    content['categories'] = [*content['categories'], {'id': 99, 'name': 'drone'}]
    with pytest.raises(DataError, match='the category drone is listed twice'):
        read_coco(write_text(tmp_path / 'a.json', content), Problems())


def test_two_pictures_with_one_id_are_refused(tmp_path):
    content = document('a.png')
    content['images'] = [*content['images'], {**content['images'][0], 'file_name': 'b.png'}]
    with pytest.raises(DataError, match='two images have the same id'):
        read_coco(write_text(tmp_path / 'a.json', content), Problems())


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"images": []}', '"x"', '\x00', '[' * 100_000])
def test_files_that_are_no_coco_are_refused(tmp_path, text):
    with pytest.raises(DataError, match=r'a\.json'):
        read_coco(write_text(tmp_path / 'a.json', text), Problems())


def test_missing_annotations_are_refused(tmp_path):
    with pytest.raises(DataError, match=r'neither instances_train\.json nor annotations/instances_train\.json'):
        read(tmp_path)


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda path: path.unlink(), r'b\.png: the file is missing'),
        (lambda path: path.write_bytes(b'no picture'), r'b\.png: compressed image is of an unknown format'),
        (lambda path: write_picture(path, 90, 60), r'b\.png: it has 90 × 60 pixels, but the annotations say 80 × 60'),
    ],
)
def test_pictures_that_do_not_fit_the_annotations_are_refused(source, tmp_path, spoil, message):
    spoil(source / 'images/b.png')
    with pytest.raises(DataError, match=message):
        converted(source, tmp_path / 'ours', format='coco')


def test_a_picture_in_both_splits_is_refused(source, tmp_path):
    write_text(source / 'instances_val.json', document('sky/a.png'))
    with pytest.raises(DataError, match=r'sky/a\.png lies in train and in val'):
        converted(source, tmp_path / 'ours', format='coco')


def test_splits_with_different_classes_are_refused(source):
    content = document('b.png')
    content['categories'][0]['name'] = 'kite'
    write_text(source / 'instances_val.json', content)
    with pytest.raises(DataError, match=r'bird, kite.*bird, drone'):
        read(source)


def test_the_stills_of_flying_objects_convert(shared_data, tmp_path):
    source = read(shared_data / 'flying_objects/stills')
    assert source.classes == ('airplane', 'bird', 'drone', 'helicopter')
    assert (len(source.pictures), sum(len(picture.objects) for picture in source.pictures)) == (484, 494)
    counts = prepare(SourceSettings('coco', 'flying_objects/stills'), shared_data, tmp_path)
    assert counts == {'train': 434, 'val': 50, 'left_out': 0}
