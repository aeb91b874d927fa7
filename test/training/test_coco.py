"""COCO annotations and pictures become our form: classes, boxes, what is left out, what is refused."""

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from training.__main__ import main
from training.data.coco import prepare, read_coco
from training.data.dataset import read_classes, read_split
from training.errors import DataError, RecipeError
from training.recipe import load_recipe

WIDTH, HEIGHT = 80, 60
DRONE, BIRD = 7, 3
"""Category ids that are neither dense nor in the order of the file."""


def annotation(number: int, box: object, category: int = DRONE, **marks: object) -> dict[str, object]:
    return {'id': number, 'image_id': 1, 'category_id': category, 'bbox': box, 'iscrowd': 0, **marks}


def document(name: str, *annotations: dict[str, object]) -> dict[str, object]:
    """An instances file with one picture."""
    return {
        'images': [{'id': 1, 'file_name': name, 'width': WIDTH, 'height': HEIGHT}],
        'annotations': list(annotations),
        'categories': [{'id': DRONE, 'name': 'drone'}, {'id': BIRD, 'name': 'bird'}],
    }


def write_document(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_picture(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    """A grey picture with a red rectangle from (10, 20) to (30, 40)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((height, width, 3), 90, np.uint8)
    image[20:40, 10:30] = (0, 0, 255)
    cv2.imwrite(str(path), image)


@pytest.fixture
def source(tmp_path):
    """A data set with a training picture in a folder of its own and one for validation."""
    folder = tmp_path / 'coco'
    train = document('sky/a.png', annotation(1, [10, 20, 20, 20]), annotation(2, [0, 0, 5, 5], BIRD))
    write_document(folder / 'instances_train.json', train)
    write_document(folder / 'instances_val.json', document('b.png', annotation(1, [10, 20, 20, 20], BIRD)))
    write_picture(folder / 'images/sky/a.png')
    write_picture(folder / 'images/b.png')
    return folder


def test_pictures_and_boxes_arrive_in_our_form(source, tmp_path):
    target = tmp_path / 'ours'
    assert prepare(source, target) == {'train': 1, 'val': 1, 'left_out': 0}
    assert read_classes(target) == ('bird', 'drone')
    (train,), (val,) = read_split(target, 'train'), read_split(target, 'val')
    assert (train.name, val.name) == ('sky_a', 'b')
    np.testing.assert_allclose(train.objects.boxes, [[10, 20, 30, 40], [0, 0, 5, 5]], atol=1e-3)
    assert train.objects.class_ids.tolist() == [1, 0]
    x1, y1, x2, y2 = train.objects.boxes[0].round().astype(int)
    assert train.image[y1:y2, x1:x2, 2].mean() > 200
    assert train.image[y1:y2, x1:x2, 1].mean() < 45


def test_the_layout_of_coco_itself_is_read_too(source, tmp_path):
    for split, name in {'train': 'sky/a.png', 'val': 'b.png'}.items():
        file = source / f'instances_{split}.json'
        (source / 'annotations').mkdir(exist_ok=True)
        file.rename(source / 'annotations' / file.name)
        picture = source / 'images' / split / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        (source / 'images' / name).rename(picture)
    assert prepare(source, tmp_path / 'ours')['train'] == 1


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
def test_boxes_are_clipped_and_what_is_no_object_is_left_out(tmp_path, box, marks, kept):
    file = read_coco(write_document(tmp_path / 'a.json', document('a.png', annotation(1, box, **marks))))
    assert file.pictures[0].objects.boxes.tolist() == ([] if kept is None else [kept])
    assert file.left_out == (kept is None)


coordinate = st.floats(-200, 200, width=32)
side = st.floats(0, 200, width=32)


@given(st.lists(st.tuples(coordinate, coordinate, side, side), max_size=8))
def test_every_box_is_inside_its_picture_or_counted_as_left_out(tmp_path_factory, boxes):
    rows = [annotation(number, box) for number, box in enumerate(boxes)]
    file = read_coco(write_document(tmp_path_factory.mktemp('coco') / 'a.json', document('a.png', *rows)))
    found = file.pictures[0].objects.boxes
    assert (found >= 0).all()
    assert (found <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    assert (found[:, 2:] - found[:, :2] >= 0.999).all()
    assert len(found) + file.left_out == len(boxes)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'bbox': [1, 2, 3]}, r'annotation 5 has the box \[1, 2, 3\]'),
        ({'bbox': [1, 2, -3, 4]}, r'annotation 5 has the box'),
        ({'bbox': [1, 2, float('nan'), 4]}, r'annotation 5 has the box'),
        ({'bbox': None}, r'no COCO instances file'),
        ({'image_id': 9}, r'annotation 5 names the image 9'),
        ({'category_id': 9}, r'annotation 5 names the category 9'),
    ],
)
def test_broken_annotations_are_named(tmp_path, change, message):
    content = document('a.png', {**annotation(5, [1, 2, 3, 4]), **change})
    with pytest.raises(DataError, match=message):
        read_coco(write_document(tmp_path / 'a.json', content))


@pytest.mark.parametrize(
    ('key', 'message'),
    [('images', 'the image a is listed twice'), ('categories', 'the category drone is listed twice')],
)
def test_what_is_listed_twice_is_refused(tmp_path, key, message):
    content = document('a.png')
    content[key] = [*content[key], {**content[key][0], 'id': 99}]
    with pytest.raises(DataError, match=message):
        read_coco(write_document(tmp_path / 'a.json', content))


def test_two_pictures_with_one_id_are_refused(tmp_path):
    content = document('a.png')
    content['images'] = [*content['images'], {**content['images'][0], 'file_name': 'b.png'}]
    with pytest.raises(DataError, match='two images have the same id'):
        read_coco(write_document(tmp_path / 'a.json', content))


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"images": []}', '"x"', '\x00', '[' * 100_000])
def test_files_that_are_no_coco_are_refused(tmp_path, text):
    with pytest.raises(DataError, match=r'a\.json'):
        read_coco(write_document(tmp_path / 'a.json', text))


def test_missing_annotations_are_refused(tmp_path):
    with pytest.raises(DataError, match=r'neither instances_train\.json nor annotations/instances_train\.json'):
        prepare(tmp_path, tmp_path / 'ours')


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda path: path.unlink(), r'b\.png is missing'),
        (lambda path: path.write_bytes(b'no picture'), r'b\.png is not a readable image'),
        (lambda path: write_picture(path, 90, 60), r'b\.png has 90 × 60 pixels, but the annotations say 80 × 60'),
    ],
)
def test_pictures_that_do_not_fit_the_annotations_are_refused(source, tmp_path, spoil, message):
    spoil(source / 'images/b.png')
    with pytest.raises(DataError, match=message):
        prepare(source, tmp_path / 'ours')


def test_a_picture_in_both_splits_is_refused(source, tmp_path):
    write_document(source / 'instances_val.json', document('sky/a.png'))
    with pytest.raises(DataError, match=r'sky/a\.png lies in train and in val'):
        prepare(source, tmp_path / 'ours')


def test_splits_with_different_classes_are_refused(source, tmp_path):
    content = copy.deepcopy(document('b.png'))
    content['categories'][0]['name'] = 'kite'
    write_document(source / 'instances_val.json', content)
    with pytest.raises(DataError, match=r'bird, drone.*bird, kite'):
        prepare(source, tmp_path / 'ours')


def write_recipe(repository: Path, folder: Path, **changes: object) -> Path:
    """The repository's recipe for a COCO data set with other entries."""
    recipe = yaml.safe_load((repository / 'training/recipes/flying_objects.yaml').read_text())
    return write_document(folder / 'tiny.yaml', yaml.safe_dump({**recipe, **changes}))


def test_a_recipe_takes_a_coco_data_set(repository, source, tmp_path, capsys):
    recipe = write_recipe(repository, tmp_path, source=source.name)
    assert main(['prepare', str(recipe), '--data', str(source.parent), '--out', str(tmp_path / 'out')]) == 0
    assert 'prepare: {"real": 1}' in capsys.readouterr().out
    assert read_classes(tmp_path / 'out/flying_objects/data/real') == ('bird', 'drone')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'format': 'voc'}, "format is 'voc'; known are aerial_traffic, coco"),
        ({'tiles': {'size': 64}}, 'taken whole; leave the entry tiles out'),
        ({'format': 'aerial_traffic'}, "lacks the entry 'tiles'"),
    ],
)
def test_recipes_whose_format_and_entries_disagree_are_refused(repository, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write_recipe(repository, tmp_path, **changes))


def test_the_stills_of_flying_objects_convert(shared_data, tmp_path):
    source = shared_data / 'flying_objects/stills'
    file = read_coco(source / 'instances_train.json')
    assert file.classes == ('airplane', 'bird', 'drone', 'helicopter')
    assert (len(file.pictures), sum(len(picture.objects) for picture in file.pictures), file.left_out) == (434, 444, 0)
    assert prepare(source, tmp_path / 'ours') == {'train': 434, 'val': 50, 'left_out': 0}
