"""DTLD v2: 16-bit Bayer pictures, paths of another machine, two classes."""

import json

import cv2
import numpy as np
import pytest
from data_sets import converted, write_text

from training.data.dtld import class_of, read, read_bayer
from training.data.sources import SourceSettings, prepare
from training.data.tiling import GridSettings
from training.errors import DataError

RELEVANT = {
    'direction': 'front',
    'relevance': 'relevant',
    'occlusion': 'not_occluded',
    'orientation': 'vertical',
    'aspects': 'three_aspects',
    'state': 'red',
    'pictogram': 'circle',
}
SEQUENCES = (
    'Berlin/Berlin1/2015-04-17_10-50-05',
    'Berlin/Berlin1/2015-04-17_10-51-09',
    'Kassel/Kassel2/2015-05-06_11-00-00',
)
COLOR = (40, 120, 200)
"""Blue, green, red of the test pictures."""


def write_bayer(path, width=2048, height=1024):
    """A picture of one colour as the camera gives it: GRBG, 12 bits in 16."""
    blue, green, red = COLOR
    mosaic = np.full((height, width), green, np.uint16)
    mosaic[0::2, 1::2] = red
    mosaic[1::2, 0::2] = blue
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), (mosaic << 4) + 7)


def label(x, y, w, h, **attributes):
    return {'x': x, 'y': y, 'w': w, 'h': h, 'attributes': {**RELEVANT, **attributes}, 'unique_id': 'a', 'track_id': 'b'}


def document(*labels, sequences=SEQUENCES):
    """One picture a sequence; the labels are those of the first."""
    return {
        'images': [
            {
                'image_path': f'/scratch/fs1/DTLD/{sequence}/DE_{number}.tiff',
                'disparity_image_path': '',
                'time_stamp': 1.0,
                'velocity': 0.0,
                'yaw_rate': 0.0,
                'longitude': 0.0,
                'latitude': 0.0,
                'labels': list(labels) if number == 0 else None,
            }
            for number, sequence in enumerate(sequences)
        ]
    }


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / 'dtld'
    for number, sequence in enumerate(SEQUENCES):
        write_bayer(folder / sequence / f'DE_{number}.tiff')
    return folder


@pytest.mark.parametrize(
    ('changes', 'relevant'),
    [
        ({}, True),
        ({'state': 'green'}, True),
        ({'state': 'yellow'}, True),
        ({'state': 'red_yellow'}, True),
        ({'state': 'red-yellow'}, True),
        ({'state': 'off'}, False),
        ({'state': 'unknown'}, False),
        ({'relevance': 'not_relevant'}, False),
        ({'occlusion': 'occluded'}, False),
        ({'pictogram': 'pedestrian'}, False),
        ({'pictogram': 'tram'}, False),
        ({'pictogram': 'bicycle'}, False),
        ({'pictogram': 'arrow_left'}, True),
        ({'direction': 'back', 'reflection': 'reflected'}, True),
    ],
)
def test_the_two_classes_follow_the_reports_rule(changes, relevant):
    assert class_of({**RELEVANT, **changes}) == ('relevant' if relevant else 'not_relevant')


def test_pixels_are_the_upper_eight_of_twelve_bits(tmp_path):
    write_bayer(tmp_path / 'a.tiff', 64, 32)
    image = read_bayer(tmp_path / 'a.tiff')
    assert image.dtype == np.uint8
    assert image.shape == (32, 64, 3)
    assert image[4:-4, 4:-4].reshape(-1, 3).mean(axis=0).tolist() == list(COLOR)


@pytest.mark.parametrize('name', ['missing.tiff', 'text.tiff', 'eight_bit.png'])
def test_other_files_are_refused(tmp_path, name):
    (tmp_path / 'text.tiff').write_text('no picture')
    cv2.imwrite(str(tmp_path / 'eight_bit.png'), np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=name):
        read_bayer(tmp_path / name)


def test_boxes_are_clipped_on_all_sides_and_slivers_dropped(source, tmp_path):
    labels = [
        label(-5, -6, 15, 26),
        label(2040, 1000, 20, 40, state='off'),
        label(10, 10, 0, 5),
        label(10, 10, 5, -3),
        label(3000, 10, 5, 5),
    ]
    write_text(source / 'DTLD_train.json', document(*labels))
    items = converted(source, tmp_path / 'ours', format='dtld', val_share=0)
    assert items[0].name == 'Berlin_Berlin1_2015-04-17_10-50-05_DE_0'
    np.testing.assert_allclose(items[0].objects.boxes, [[0, 0, 10, 20], [2040, 1000, 2048, 1024]], atol=2e-3)
    assert items[0].objects.class_ids.tolist() == [0, 1]
    assert len(items[1].objects) == 0


def test_paths_of_another_machine_are_rerooted_and_sessions_are_sequences(source):
    write_text(source / 'DTLD_train.json', document())
    write_text(source / 'DTLD_test.json', document(sequences=SEQUENCES[:1]))
    pictures = read(source).pictures
    assert sorted({picture.session for picture in pictures}) == sorted(SEQUENCES)
    assert sorted(picture.split for picture in pictures) == ['test', 'train', 'train', 'train']
    assert all(picture.file.is_file() for picture in pictures)


def test_validation_is_split_by_sequence_and_tiles_name_their_parent(source, tmp_path):

    write_text(source / 'DTLD_train.json', document(label(630, 10, 20, 40)))
    settings = SourceSettings('dtld', 'dtld', grid=GridSettings(640, 0), val_share=0.3)
    counts = prepare(settings, tmp_path, tmp_path / 'ours')
    assert counts == {'train': 16, 'val': 8, 'left_out': 0}
    parents = {}
    for split in ('train', 'val'):
        for image in json.loads((tmp_path / f'ours/annotations/{split}.json').read_text())['images']:
            assert image['tile'][2:] == [640, 640]
            parents.setdefault(image['parent'], set()).add(split)
    assert len(parents) == 3
    assert all(len(splits) == 1 for splits in parents.values())


@pytest.mark.parametrize(
    'entry', [7, {}, {'image_path': 'a.tiff', 'labels': 5}, {'image_path': '../../../secret.tiff', 'labels': []}]
)
def test_broken_entries_are_reported_and_the_others_read(source, entry):
    content = document()
    write_text(source / 'DTLD_train.json', {'images': [entry, *content['images']]})
    found = read(source)
    assert len(found.pictures) == 3
    assert [problem.kind for problem in found.problems] == ['annotation that cannot be read']


def test_missing_keys_of_labels_are_reported(source):
    write_text(
        source / 'DTLD_train.json', document({'x': 1, 'y': 2, 'w': 3}, {**label(1, 2, 3, 4), 'attributes': None})
    )
    found = read(source)
    assert len(found.problems) == 1
    assert [entry.class_name for entry in found.pictures[0].objects] == ['not_relevant']


@pytest.mark.parametrize('content', ['{}', '[]', '{"images": {}}', 'x'])
def test_other_files_are_no_labels(source, content):
    write_text(source / 'DTLD_train.json', content)
    with pytest.raises(DataError, match=r'DTLD_train\.json'):
        read(source)
