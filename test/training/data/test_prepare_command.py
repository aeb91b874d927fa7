"""`python -m training prepare`: conversion, check, overview, crops."""

import json

import cv2
import numpy as np
import pytest
from data_sets import HEIGHT, WIDTH, write_picture, write_text

from training.__main__ import main
from training.data.checking import check
from training.data.overview import statistics
from training.data.yolo_layout import read

NOTHING_WRONG, FAULTS = 0, 1


@pytest.fixture
def source(tmp_path):
    """A data set in Ultralytics' layout: two sessions of two pictures."""
    folder = tmp_path / 'photos'
    write_text(folder / 'data.yaml', 'names: [car, bus]\n')
    for number, name in enumerate(('a1', 'a2', 'b1', 'b2')):
        write_picture(folder / f'images/train/{name}.jpg', ground=50 * number)
        write_text(folder / f'labels/train/{name}.txt', '0 0.25 0.5 0.25 0.3333333\n')
    return folder


def run(*words):
    return main(['prepare', *map(str, words)])


def test_a_data_set_is_converted_shown_and_found_in_order(source, tmp_path, capsys):
    assert run(source, '--format', 'yolo', '--out', tmp_path / 'ours', '--class-map', 'bus=lorry') == 0
    printed = capsys.readouterr().out
    assert '{"train": 2, "val": 2, "left_out": 0}' in printed
    assert 'train shows no lorry' in printed
    for name in ('statistics.txt', 'statistics.png', 'train.jpg', 'val.jpg'):
        assert (tmp_path / 'ours/overview' / name).stat().st_size > 100
    assert run(tmp_path / 'ours', '--check') == NOTHING_WRONG
    assert '4 pictures, 4 boxes: nothing is wrong' in capsys.readouterr().out


def test_tiles_and_statistics(source, tmp_path):
    run(source, '--format', 'yolo', '--out', tmp_path / 'ours', '--tile', 40, '--overlap', 0, '--val-share', 0)
    found = statistics(tmp_path / 'ours').splits['train']
    assert (found.images, found.empty, found.objects.tolist(), found.crowds) == (16, 8, [8, 0], 0)
    assert found.sides.tolist() == pytest.approx([20] * 8, abs=0.1)


@pytest.mark.parametrize(
    ('line', 'kind', 'status'),
    [
        ('0 0.5 0.5 0 0.1', 'box without area', FAULTS),
        ('0 0.5 0.5 -0.1 0.1', 'box of negative size', FAULTS),
        ('0 nan 0.5 0.1 0.1', 'box that is not a number', FAULTS),
        ('0 1.5 0.5 0.1 0.1', 'box outside its picture', FAULTS),
        ('0 0.5 0.5 0.001 0.1', 'box narrower than 1 pixel', FAULTS),
        ('7 0.5 0.5 0.1 0.1', 'class 7 is out of range', FAULTS),
        ('hello', 'annotation that cannot be read', FAULTS),
        ('0 0.99 0.5 0.1 0.1', 'box cut by the border', NOTHING_WRONG),
    ],
)
def test_check_finds_broken_boxes(source, capsys, line, kind, status):
    write_text(source / 'labels/train/a1.txt', line + '\n')
    assert run(source, '--format', 'yolo', '--check') == status
    assert kind in capsys.readouterr().out


def test_a_set_is_found_here_or_in_the_data_root_as_recipes_find_it(source, tmp_path, monkeypatch, capsys):
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    monkeypatch.setenv('KD_DATA', str(tmp_path))
    assert run('photos', '--format', 'yolo', '--check') == NOTHING_WRONG
    capsys.readouterr()
    (tmp_path / 'elsewhere' / 'photos').mkdir()
    assert run('photos', '--format', 'yolo', '--check') == FAULTS
    assert 'training: photos' in capsys.readouterr().err


def test_check_goes_on_behind_the_first_fault(source, capsys):
    (source / 'images/train/a1.jpg').write_bytes(b'')
    whole = (source / 'images/train/a2.jpg').read_bytes()
    (source / 'images/train/a2.jpg').write_bytes(whole[: len(whole) // 2])
    (source / 'labels/train/b1.txt').unlink()
    write_text(source / 'labels/train/b2.txt', '0 2 2 0.1 0.1')
    assert run(source, '--format', 'yolo', '--check') == FAULTS
    printed = capsys.readouterr().out
    assert 'picture that cannot be read: 2' in printed
    assert 'picture without labels: 1' in printed
    assert 'box outside its picture: 1' in printed


def test_check_finds_one_picture_in_two_splits(source, capsys):
    copy = source / 'images/val/other.jpg'
    copy.parent.mkdir()
    copy.write_bytes((source / 'images/train/a1.jpg').read_bytes())
    assert run(source, '--format', 'yolo', '--check') == FAULTS
    assert 'picture in two splits: 1' in capsys.readouterr().out


def test_check_finds_pictures_of_another_size_in_a_prepared_folder(source, tmp_path, capsys):
    run(source, '--format', 'yolo', '--out', tmp_path / 'ours')
    (file,) = (tmp_path / 'ours/images').glob('*/a1.jpg')
    write_picture(file, WIDTH + 10, HEIGHT)
    assert run(tmp_path / 'ours', '--check') == FAULTS
    assert 'it has 90 × 60 pixels, but the annotations say 80 × 60' in capsys.readouterr().out


def test_check_survives_every_odd_picture(shared_data, tmp_path):
    write_text(tmp_path / 'data.yaml', 'names: [a]')
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images/train').symlink_to(shared_data / 'odd_images')
    source = read(tmp_path)
    report = check(source, source.pictures)
    assert report.pictures > 150
    assert not report.fine


def test_every_object_becomes_a_crop_of_its_class(source, tmp_path, capsys):
    write_text(source / 'labels/train/a2.txt', '1 0.25 0.5 0.25 0.3333333\n1 0.9 0.9 0.01 0.01\n')
    run(source, '--format', 'yolo', '--out', tmp_path / 'ours', '--val-share', 0)
    assert run(tmp_path / 'ours', '--crops', tmp_path / 'crops', '--crop-margin', 0.25, '--crop-min', 10) == 0
    assert '{"train": 4, "left_out": 0}' in capsys.readouterr().out
    cars, buses = ((tmp_path / 'crops/train' / name) for name in ('car', 'bus'))
    assert sorted(path.name for path in cars.iterdir()) == ['a1_000.jpg', 'b1_000.jpg', 'b2_000.jpg']
    (bus,) = buses.iterdir()
    image = cv2.imread(str(bus))
    assert image.shape == (30, 30, 3)
    assert (np.median(image[7:23, 7:23].reshape(-1, 3), axis=0) - [0, 0, 255]).max() < 20


def test_scenes_have_flights_of_their_own_for_validation(tmp_path):
    assert run('--format', 'scenes', '--out', tmp_path / 'ours', '--count', 3, '--size', 64, '--val-share', 0.4) == 0
    found = statistics(tmp_path / 'ours').splits
    assert {split: numbers.images for split, numbers in found.items()} == {'train': 3, 'val': 1}


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ((), 'give the folder of the data set'),
        (('{source}',), 'is no prepared data set; say what it is by --format'),
        (('{source}', '--format', 'yolo'), 'give --out FOLDER'),
        (('{source}', '--format', 'yolo', '--out', '{source}'), 'is the source or holds it'),
        (('{source}/none', '--format', 'yolo', '--out', '{source}/out'), 'is no folder'),
        (
            ('{source}', '--format', 'yolo', '--out', '{source}/out', '--tile', 8),
            '--tile: size must be at least 32, not 8',
        ),
        (('{source}', '--format', 'yolo', '--out', '{source}/out', '--classes', 'cat'), "did you mean 'car'"),
        (
            ('{source}', '--format', 'yolo', '--out', '{source}/out', '--val-share', 2),
            'val_share must be at least 0 and below 1',
        ),
        (('{source}', '--format', 'coco', '--out', '{source}/out'), 'instances_train.json'),
    ],
)
def test_what_cannot_be_done_is_said(source, capsys, words, message):
    assert run(*(str(word).format(source=source) for word in words)) == 1
    assert message in capsys.readouterr().err


def test_counts_are_those_of_the_coco_file(source, tmp_path):
    run(source, '--format', 'yolo', '--out', tmp_path / 'ours')
    for split in ('train', 'val'):
        document = json.loads((tmp_path / f'ours/annotations/{split}.json').read_text())
        assert [image['session'] for image in document['images']] in (['a', 'a'], ['b', 'b'])
        assert len(document['annotations']) == 2


def test_pictures_and_boxes_are_counted_in_and_out(source, tmp_path, capsys):
    lines = [
        '0 0.25 0.5 0.25 0.3',
        '0 0.25 0.5 0.25 0.3',
        '1 0.5 0.5 0.1 0.1',
        '0 1.5 0.5 0.1 0.1',
        '1 0.7 0.7 0.1 0.1',
    ]
    write_text(source / 'labels/train/a1.txt', '\n'.join(lines))
    write_text(source / 'labels/train/gone.txt', lines[0])
    assert run(source, '--format', 'yolo', '--out', tmp_path / 'ours', '--val-share', 0, '--classes', 'car') == 0
    printed = capsys.readouterr().out
    assert (
        'train: 4 pictures read, 4 written; 8 boxes read: 4 written, 2 of no class to learn, 1 twice, 1 not visible'
        in printed
    )
    assert 'fault: labels without a picture: 1, e.g. labels/train/gone.txt' in printed
    assert run(source, '--format', 'yolo', '--check') == FAULTS
    assert 'box twice: 1' in capsys.readouterr().out


def test_tiles_and_broken_pictures_are_counted_too(source, tmp_path, capsys):
    (source / 'images/train/a1.jpg').write_bytes(b'')
    out = tmp_path / 'ours'
    words = ('--tile', 40, '--overlap', 0, '--val-share', 0, '--skip-broken')
    assert run(source, '--format', 'yolo', '--out', out, *words) == 0
    assert (
        'train: 4 pictures read, 3 written, 1 broken, as 12 tiles with 6 boxes; 3 boxes read: 3 written'
        in capsys.readouterr().out
    )


def test_a_data_set_that_lost_files_while_it_was_written_is_refused(source, tmp_path, capsys):
    words = (source, '--format', 'yolo', '--out', tmp_path / 'ours', '--val-share', 0)
    assert run(*words) == 0
    (tmp_path / 'ours/labels/train/a1.txt').write_text('')
    assert run(*words) == 1
    assert 'should hold 4 pictures and 4 boxes, but holds 4 and 3' in capsys.readouterr().err
