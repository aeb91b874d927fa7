"""Writing our form: bytes taken over, reruns that go on, folders that are not ours, pictures that are broken."""

import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
from data_sets import write_picture

from kd_perception.bags.ground_truth import AnnotatedObject
from training.data import conversion
from training.data.class_rules import class_rules
from training.data.conversion import ConversionSettings, convert
from training.data.dataset import read_split
from training.data.picture import picture_of_file
from training.data.tiling import GridSettings
from training.errors import DataError

SETTINGS = ConversionSettings(class_rules(['car']))
CAR = AnnotatedObject((10, 20, 30, 40), 'car')


@pytest.fixture
def pictures(tmp_path):
    files = [write_picture(tmp_path / f'source/{name}.png', ground=40 * number) for number, name in enumerate('abcd')]
    return [picture_of_file(file, file.name, [CAR], session=file.stem, split='train') for file in files]


def tree(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob('*') if file.is_file()}


@pytest.mark.parametrize('link', [False, True])
def test_pictures_keep_their_bytes(pictures, tmp_path, link):
    convert(pictures, tmp_path / 'ours', replace(SETTINGS, link=link))
    for picture in pictures:
        written = tmp_path / 'ours/images/train' / picture.name
        assert written.read_bytes() == picture.file.read_bytes()
        assert os.path.samefile(written, picture.file) == link


def test_a_picture_of_another_kind_becomes_jpeg(tmp_path):
    file = write_picture(tmp_path / 'a.bmp')
    convert([picture_of_file(file, 'a.bmp', [], split='train')], tmp_path / 'ours', SETTINGS)
    assert [path.name for path in (tmp_path / 'ours/images/train').iterdir()] == ['a.jpg']


def test_an_interrupted_conversion_goes_on_and_ends_the_same(pictures, tmp_path, monkeypatch):
    convert(pictures, tmp_path / 'whole', SETTINGS)
    read, times = [], iter(range(100))

    def counted(picture):
        def image():
            if next(times) == 2:
                raise KeyboardInterrupt
            read.append(picture.name)
            return picture.read()

        return replace(picture, read=image)

    watched = [counted(picture) for picture in pictures]
    with pytest.raises(KeyboardInterrupt):
        convert(watched, tmp_path / 'ours', SETTINGS)
    assert not (tmp_path / 'ours/annotations/train.json').exists()
    with (tmp_path / 'ours' / conversion.JOURNAL).open('a') as journal:
        journal.write('{"digest": "cut o')
    convert(watched, tmp_path / 'ours', SETTINGS)
    assert read == ['a.png', 'b.png', 'c.png', 'd.png']
    assert tree(tmp_path / 'ours') == tree(tmp_path / 'whole')


def test_a_rerun_takes_changes_in(pictures, tmp_path):
    target = tmp_path / 'ours'
    convert(pictures, target, SETTINGS)
    write_picture(pictures[1].file, ground=200)
    assert convert(pictures[:3], target, SETTINGS) == {'train': 3, 'left_out': 0}
    items = {item.name: item for item in read_split(target, 'train')}
    assert sorted(items) == ['a', 'b', 'c']
    assert items['b'].image[0, 0, 0] == 200


def test_other_settings_start_anew(pictures, tmp_path):
    target = tmp_path / 'ours'
    convert([replace(pictures[0], split='val'), *pictures[1:]], target, SETTINGS)
    convert(pictures, target, replace(SETTINGS, tiles=GridSettings(40, 0)))
    assert not (target / 'images/val').exists()
    assert not (target / 'annotations/val.json').exists()
    assert {item.image.shape for item in read_split(target, 'train')} == {(40, 40, 3)}


def test_tiles_without_objects_can_be_left_out(pictures, tmp_path):
    counts = [
        convert(pictures, tmp_path / f'ours{share}', replace(SETTINGS, tiles=GridSettings(40, 0, empty_share=share)))
        for share in (0, 0.5, 1)
    ]
    assert counts[0]['train'] == 8 < counts[1]['train'] < counts[2]['train'] == 16


def test_a_folder_with_something_else_is_not_touched(pictures, tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/thesis.txt').write_text('years')
    with pytest.raises(DataError, match='holds something else'):
        convert(pictures, tmp_path / 'mine', SETTINGS)
    assert tree(tmp_path / 'mine') == {'thesis.txt': b'years'}


def test_all_that_is_broken_is_named_at_once_and_can_be_left_out(pictures, tmp_path):
    pictures[0].file.write_bytes(b'no picture')
    pictures[1] = replace(pictures[1], size=(60, 60))
    pictures[2] = replace(pictures[2], objects=(CAR, AnnotatedObject((5, 5, 1, 1), 'car')))
    with pytest.raises(DataError, match=r'3 pictures(.|\n)*a\.png(.|\n)*b\.png(.|\n)*c\.png'):
        convert(pictures, tmp_path / 'ours', SETTINGS)
    assert not (tmp_path / 'ours/annotations').exists() or not any((tmp_path / 'ours/annotations').iterdir())
    assert convert(pictures, tmp_path / 'ours', replace(SETTINGS, skip_broken=True)) == {'train': 2, 'left_out': 1}
    with pytest.raises(DataError, match=r'3 pictures'):
        convert(pictures, tmp_path / 'ours', SETTINGS)


def test_two_pictures_of_one_name_are_refused(pictures, tmp_path):
    other = picture_of_file(write_picture(tmp_path / 'source/a.jpg'), 'a.jpg', [], split='train')
    with pytest.raises(DataError, match=r'a\.png and a\.jpg would both be train/a'):
        convert([*pictures, other], tmp_path / 'ours', SETTINGS)


def test_photographs_turned_by_exif_lie_upright_on_disk(shared_data, tmp_path):
    turned = next((shared_data / 'odd_images/pillow').rglob('hopper_orientation_5.jpg'))
    picture = picture_of_file(turned, turned.name, [], split='train')
    convert([picture], tmp_path, SETTINGS)
    (written,) = (tmp_path / 'images/train').iterdir()
    lying = cv2.imread(str(written), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert np.abs(lying.astype(int) - picture.read()).mean() < 3
