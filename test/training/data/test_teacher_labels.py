"""A teacher's word merged with labels: labels win, coarse classes are refined, what nobody labelled is taught or painted over."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from kd_perception.bags.ground_truth import IGNORED, AnnotatedObject
from kd_perception.detection.overlap import iou
from kd_perception.errors import BundleError
from training.data import teacher_answers, teacher_labels
from training.data.box_fusion import Answer
from training.data.class_rules import class_rules
from training.data.conversion import ConversionSettings, convert
from training.data.picture import Source, picture_of_file
from training.data.teacher_answers import TeacherBundle, Teachers
from training.data.teacher_labels import TeacherLabels, mended, merged
from training.errors import DataError
from training.schema import read

REFINE = {'refine': {'vehicle': 'car'}}
VEHICLE = AnnotatedObject((100, 100, 140, 140), 'vehicle')
HERE, HALF, ELSEWHERE = (101, 99, 141, 139), (100, 100, 120, 140), (300, 50, 340, 90)


def said(*rows):
    boxes, scores, names = zip(*rows, strict=True) if rows else ((), (), ())
    return Answer(np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64), tuple(names))


@pytest.mark.parametrize(
    ('settings', 'answer', 'wanted'),
    [
        pytest.param(REFINE, said(), ['car'], id='no word: the class that the recipe names'),
        pytest.param(REFINE, said((HERE, 0.8, 'truck')), ['truck'], id='a sure word refines'),
        pytest.param(REFINE, said((HERE, 0.4, 'truck')), ['car'], id='a doubtful one does not'),
        pytest.param(REFINE, said((HERE, 0.6, 'truck'), (HERE, 0.7, 'bus')), ['bus'], id='the surest refines'),
        pytest.param(REFINE, said((ELSEWHERE, 0.8, 'bus')), ['car', IGNORED], id='unlabelled: not learnt'),
        pytest.param({**REFINE, 'unlabelled': 'teach'}, said((ELSEWHERE, 0.8, 'bus')), ['car', 'bus'], id='or taught'),
        pytest.param({**REFINE, 'unlabelled': 'teach'}, said((ELSEWHERE, 0.3, 'bus')), ['car', IGNORED], id='unsure'),
        pytest.param(REFINE, said((ELSEWHERE, 0.2, 'bus')), ['car'], id='less than doubtful is no word'),
        pytest.param(REFINE, said((HALF, 0.9, 'car')), ['car'], id='a part of a label says nothing new'),
        pytest.param({}, said((HERE, 0.9, 'truck')), ['vehicle'], id='labels win'),
        pytest.param(
            {**REFINE, 'unlabelled': 'teach'},
            said((ELSEWHERE, 0.6, 'truck'), (ELSEWHERE, 0.8, 'bus'), (ELSEWHERE, 0.3, 'car')),
            ['car', 'bus'],
            id='one object, one class: the surest',
        ),
        pytest.param({**REFINE, 'least_side': 41}, said((ELSEWHERE, 0.8, 'bus')), [IGNORED, IGNORED], id='too small'),
    ],
)
def test_the_rule(settings, answer, wanted):
    found = merged([VEHICLE], answer, TeacherLabels(bundle='teacher', **settings))
    assert [entry.class_name for entry in found] == wanted
    assert found[0].box == VEHICLE.box


@pytest.mark.parametrize(
    'settings',
    [{'unlabelled': 'learn'}, {'sure': 1.2}, {'sure': 0.2, 'doubtful': 0.3}, {'least_side': -1}, {'weight': 0}],
)
def test_a_rule_that_cannot_be_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        TeacherLabels(bundle='teacher', **settings)


def source_of(folder):
    """A picture of each split with a vehicle, and in the train split something at its side."""
    pictures = []
    for split in ('train', 'val'):
        file = folder / f'{split}.png'
        cv2.imwrite(str(file), np.full((160, 400, 3), 200, np.uint8))
        pictures.append(picture_of_file(file, file.name, [VEHICLE], session=split, split=split))
    return Source(tuple(pictures), ('vehicle',))


class Teacher:
    """What `Teachers` is to the merging."""

    classes = ('car', 'truck')

    def __init__(self, bundles, kept, classes):
        self.kept = kept

    def answer(self, picture):
        assert picture.split == 'train'
        return said((HERE, 0.9, 'truck'), (ELSEWHERE, 0.9, 'car'))


def test_the_train_split_is_mended_and_painted_and_val_stays_as_people_labeled_it(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_labels, 'Teachers', Teacher)
    found = mended(source_of(tmp_path), TeacherLabels(bundle='teacher', **REFINE), tmp_path)
    assert found.classes == ('car', 'truck')
    names = [[entry.class_name for entry in picture.objects] for picture in found.pictures]
    assert names == [['truck', IGNORED], ['car']]

    target = tmp_path / 'set'
    rules = class_rules(found.classes, classes=('car', 'truck'))
    convert(found.pictures, target, ConversionSettings(rules, paint_ignored=True))
    assert [line.split()[0] for line in (target / 'labels/train/train.txt').read_text().splitlines()] == ['1']
    image = cv2.imread(str(target / 'images/train/train.jpg'))
    assert abs(int(image[70, 320, 0]) - 114) < 3, 'what is not learnt is grey'
    assert abs(int(image[120, 120, 0]) - 200) < 3
    assert (cv2.imread(str(target / 'images/val/val.png')) == 200).all()


def test_a_class_that_the_set_does_not_have_is_refused(tmp_path):
    with pytest.raises(DataError, match='vehicles.*vehicle'):
        mended(source_of(tmp_path), TeacherLabels(bundle='teacher', refine={'vehicles': 'car'}), tmp_path)
    with pytest.raises(BundleError):
        mended(source_of(tmp_path), TeacherLabels(bundle=str(tmp_path / 'none'), **REFINE), tmp_path)


def test_answers_are_kept_and_a_broken_last_line_is_asked_again(tmp_path):
    file = tmp_path / 'teacher.jsonl'
    entry = {'picture': 'a/b.jpg/12', 'boxes': [[1, 2, 3, 4]], 'scores': [0.5], 'class_ids': [0]}
    file.write_text(json.dumps(entry) + '\n' + json.dumps(entry).replace('b.jpg', 'c.jpg')[:30])
    assert list(teacher_answers._read_answers(file)) == ['a/b.jpg/12']


MODELS = Path(__file__).parents[3] / 'models'
ROADS = {'bundle': str(MODELS / 'road_traffic'), 'class_map': {'car': 'vehicle', 'truck': 'vehicle', 'bus': 'vehicle'}}
AERIAL = {'bundle': str(MODELS / 'aerial_traffic'), 'class_map': {'car': 'vehicle'}}


def pictures_of(folder, shared_data):
    """A street, and its mirror image, both in the train split."""
    street = cv2.imread(str(sorted((shared_data / 'elevated_road').rglob('*.jpg'))[0]))
    pictures = []
    for name, image in (('street', street), ('mirrored', street[:, ::-1])):
        cv2.imwrite(str(folder / f'{name}.png'), image)
        pictures.append(picture_of_file(folder / f'{name}.png', f'{name}.png', [VEHICLE], session=name, split='train'))
    return pictures, street.shape[1]


def test_mirror_images_are_looked_at_and_their_boxes_turned_back(tmp_path, shared_data):
    (street, mirrored), width = pictures_of(tmp_path, shared_data)
    plain, flipped = (Teachers([read(TeacherBundle, {**ROADS, 'flip': flip}, 'x')], tmp_path) for flip in (False, True))
    one, other = plain.answer(street), plain.answer(mirrored)
    assert len(one.names) > 2
    both = flipped.answer(street)
    assert 0 < both.scores.max() <= 1
    turned = flipped.answer(mirrored)
    back = turned.boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (width, 0, width, 0)
    same = iou(both.boxes, back).argmax(1)  # of equal scores either may come first
    assert sorted(same) == list(range(len(turned.names)))
    assert both.scores == pytest.approx(turned.scores[same], abs=1e-3)  # both saw the same two pictures
    assert both.boxes == pytest.approx(back[same], abs=0.2)
    assert both.scores.max() <= max(one.scores.max(), other.scores.max())
    files = sorted(file.name.partition('-')[2][12:] for file in tmp_path.glob('teacher-*.jsonl'))
    assert files == ['-off-mirrored.jsonl', '-off.jsonl']


def test_several_bundles_and_the_labels_are_merged(tmp_path, shared_data):
    pictures, _ = pictures_of(tmp_path, shared_data)
    settings = read(TeacherLabels, {**ROADS, 'unlabelled': 'teach', 'also': [{**AERIAL, 'weight': 0.5}]}, 'x')
    alone = read(TeacherLabels, {**ROADS, 'unlabelled': 'teach'}, 'x')
    source = Source(tuple(pictures), ('vehicle',))
    several, one = (mended(source, rule, tmp_path) for rule in (settings, alone))
    assert several.classes == ('vehicle',)
    assert all(VEHICLE in picture.objects for picture in several.pictures)
    assert several.pictures[0].objects != one.pictures[0].objects
    assert len(list(tmp_path.glob('teacher-*.jsonl'))) == 2
    with pytest.raises(DataError, match="aerial_traffic has no class 'cars': did you mean 'car'"):
        mended(
            source,
            read(TeacherLabels, {**ROADS, 'also': [{**AERIAL, 'class_map': {'cars': 'vehicle'}}]}, 'x'),
            tmp_path,
        )


def test_two_of_a_teachers_classes_that_are_one_here_name_an_object_once_and_its_own_scores_do_not_cut(tmp_path):
    file = tmp_path / 'street.png'
    cv2.imwrite(str(file), np.full((160, 400, 3), 200, np.uint8))
    picture = picture_of_file(file, file.name, [], session='a', split='train')
    teachers = Teachers([read(TeacherBundle, ROADS, 'x')], tmp_path / 'kept', ('vehicle',))
    [asker] = teachers._askers
    boxes = [[10, 10, 60, 60], [11, 10, 61, 60], [200, 10, 260, 60]]
    asker._said[0]._known[teacher_answers._identity(picture)] = {
        'boxes': boxes,
        'scores': [0.6, 0.7, 0.4],
        'class_ids': [0, 1, 3],
    }
    found = teachers.answer(picture)
    assert found.names == ('vehicle',)  # the motorcycle is not mapped
    assert found.scores == pytest.approx([0.7])
    assert found.boxes.tolist() == [boxes[1]]
    settings = read(TeacherBundle, {**ROADS, 'bundle': str(own_scores(tmp_path))}, 'x')
    [asker] = Teachers([settings], tmp_path / 'kept')._askers
    asker._ask(picture.read())
    assert asker._detector.thresholds.lowest == teacher_answers.LEAST_SCORE


def own_scores(folder):
    """The shipped detector with a score of its own for cars."""
    copy = folder / 'own_scores'
    shutil.copytree(MODELS / 'road_traffic', copy)
    described = yaml.safe_load((copy / 'bundle.yaml').read_text())
    described['thresholds']['class_scores'] = {'car': 0.9}
    (copy / 'bundle.yaml').write_text(yaml.safe_dump(described))
    return copy


def test_equal_names_need_no_entry_in_the_class_map(tmp_path):
    roads = {'bundle': ROADS['bundle']}
    assert Teachers([read(TeacherBundle, roads, 'x')], tmp_path, ('bus', 'tram', 'car')).classes == ('car', 'bus')
    assert Teachers([read(TeacherBundle, roads, 'x')], tmp_path).classes == ('car', 'truck', 'bus', 'motorcycle')
    mapped = {**roads, 'class_map': {'truck': 'lorry'}}
    assert Teachers([read(TeacherBundle, mapped, 'x')], tmp_path, ('bus',)).classes == ('lorry', 'bus')
    with pytest.raises(DataError, match='road_traffic detects none of tram'):
        Teachers([read(TeacherBundle, roads, 'x')], tmp_path, ('tram',))
