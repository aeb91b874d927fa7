"""A teacher's word merged with labels: labels win, coarse classes are refined, what nobody labelled is taught or painted over."""

import json

import cv2
import numpy as np
import pytest

from kd_perception.bags.ground_truth import IGNORED, AnnotatedObject
from kd_perception.errors import BundleError
from training.data import teacher_labels
from training.data.class_rules import class_rules
from training.data.conversion import ConversionSettings, convert
from training.data.picture import Source, picture_of_file
from training.data.teacher_labels import Answer, TeacherLabels, mended, merged

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
        pytest.param({**REFINE, 'least_side': 41}, said((ELSEWHERE, 0.8, 'bus')), [IGNORED, IGNORED], id='too small'),
    ],
)
def test_the_rule(settings, answer, wanted):
    found = merged([VEHICLE], answer, TeacherLabels(bundle='teacher', **settings))
    assert [entry.class_name for entry in found] == wanted
    assert found[0].box == VEHICLE.box


@pytest.mark.parametrize(
    'settings', [{'unlabelled': 'learn'}, {'sure': 1.2}, {'sure': 0.2, 'doubtful': 0.3}, {'least_side': -1}]
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
    """What `_Teacher` is to the merging, and how often it is asked."""

    classes = ('car', 'truck')

    def __init__(self, settings, kept):
        self.kept = kept

    def answer(self, picture):
        assert picture.split == 'train'
        return said((HERE, 0.9, 'truck'), (ELSEWHERE, 0.9, 'car'))


def test_the_train_split_is_mended_and_painted_and_val_stays_as_people_labeled_it(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_labels, '_Teacher', Teacher)
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
    with pytest.raises(teacher_labels.DataError, match='vehicles.*vehicle'):
        mended(source_of(tmp_path), TeacherLabels(bundle='teacher', refine={'vehicles': 'car'}), tmp_path)
    with pytest.raises(BundleError):
        mended(source_of(tmp_path), TeacherLabels(bundle=str(tmp_path / 'none'), **REFINE), tmp_path)


def test_answers_are_kept_and_a_broken_last_line_is_asked_again(tmp_path):
    file = tmp_path / 'teacher.jsonl'
    entry = {'picture': 'a/b.jpg/12', 'boxes': [[1, 2, 3, 4]], 'scores': [0.5], 'class_ids': [0]}
    file.write_text(json.dumps(entry) + '\n' + json.dumps(entry).replace('b.jpg', 'c.jpg')[:30])
    assert list(teacher_labels._read_answers(file)) == ['a/b.jpg/12']
