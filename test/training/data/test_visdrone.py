"""VisDrone2019-DET: lines with and without a comma at the end, ignored regions, and the rule of its evaluation."""

import numpy as np
import pytest
from data_sets import converted, write_picture, write_text
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections
from kd_perception.metrics.accuracy import measure
from training.data.dataset import ground_truth, read_classes
from training.data.visdrone import CLASSES, as_evaluated, read, read_line


def write_source(folder, *lines, name='0000002_00005_d_0000014'):
    for split in ('train', 'val'):
        place = folder / f'VisDrone2019-DET-{split}'
        write_picture(place / 'images' / f'{name}.jpg', ground=90 if split == 'train' else 80)
        write_text(place / 'annotations' / f'{name}.txt', '\n'.join(lines))
    return folder


@pytest.mark.parametrize('line', ['10,20,20,20,1,4,0,1', '10,20,20,20,1,4,0,1,', ' 10,20,20,20,1,4,0,1 ,\r'])
def test_lines_may_end_in_a_comma(line):
    entry = read_line(line)
    assert (entry.box, entry.class_name, entry.crowd) == ((10, 20, 30, 40), 'car', False)


@pytest.mark.parametrize('line', ['10,20,20', '10,20,20,20,1,12,0,1', '10,20,20,20,1,x,0,1', '1,2,3,4,1,-1,0,0'])
def test_other_lines_are_reported_and_the_others_read(tmp_path, line):
    source = write_source(tmp_path / 'drone', line, '10,20,20,20,1,4,0,1')
    found = read(source)
    assert len(found.problems) == 2
    assert [len(picture.objects) for picture in found.pictures] == [1, 1]


def test_training_leaves_out_score_0_category_0_and_category_11(tmp_path):
    lines = [f'10,20,20,20,1,{category},0,0,' for category in range(12)] + ['10,20,20,20,0,4,0,0', '1,1,9,9,0,0,0,0']
    (item,) = converted(write_source(tmp_path / 'drone', *lines, ''), tmp_path / 'ours', format='visdrone')
    assert read_classes(tmp_path / 'ours') == CLASSES
    assert item.objects.class_ids.tolist() == list(range(10))
    assert len(item.ignored) == 2
    assert item.crowds.class_ids.tolist() == [CLASSES.index('car')]


def test_others_can_be_asked_for(tmp_path):
    source = write_source(tmp_path / 'drone', '10,20,20,20,1,11,0,0')
    (item,) = converted(source, tmp_path / 'ours', format='visdrone', class_map={'others': 'car', 'van': 'car'})
    assert item.objects.class_ids.tolist() == [CLASSES.index('car')]
    assert 'van' not in read_classes(tmp_path / 'ours')


def test_sequences_are_sessions(tmp_path):
    assert {picture.session for picture in read(write_source(tmp_path / 'drone')).pictures} == {'0000002'}


def boxes(*corners, scores=None):
    return Detections(
        np.array(corners, np.float32).reshape(-1, 4),
        np.ones(len(corners)) if scores is None else np.array(scores),
        np.zeros(len(corners)),
    )


def test_objects_and_detections_half_in_ignored_regions_are_dropped():
    regions = np.array([[0, 0, 10, 10], [10, 0, 20, 10]], np.float32)
    truth = GroundTruth(boxes((5, 0, 15, 10), (0, 5, 20, 15), (0, 6, 20, 16)), np.zeros(3, np.bool_), regions)
    found, there = as_evaluated(truth.objects, truth, 100, 100)
    # The first lies in both regions, with half of it in each; the second with half of it in both together.
    assert there.objects.boxes.tolist() == [[0, 6, 20, 16]]
    assert found.boxes.tolist() == [[0, 6, 20, 16]]
    assert len(there.ignored) == 0


def test_only_the_best_500_detections_count():
    many = boxes(*[(0, 0, 10, 10)] * 600, scores=np.linspace(0, 1, 600))
    found, _ = as_evaluated(many, GroundTruth.of(Detections.empty()), 100, 100)
    assert len(found) == 500
    assert found.scores.min() == many.scores[100]


def test_an_object_of_score_0_counts_neither_way():
    truth = GroundTruth(boxes((0, 0, 20, 20), (50, 50, 70, 70)), np.array([False, True]), np.zeros((0, 4), np.float32))
    found = boxes((50, 50, 70, 70), (0, 0, 20, 20), scores=[0.9, 0.8])
    found, there = as_evaluated(found, truth, 100, 100)
    accuracy = measure([found], [there], ['pedestrian'], score_threshold=0.5, max_detections=500)
    assert (accuracy.map50, accuracy.precision, accuracy.recall) == (1, 1, 1)


corner = st.integers(0, 24)
box = st.tuples(corner, corner, corner, corner).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]) + 1, max(c[1], c[3]) + 1)
)


@given(st.lists(box, max_size=5), st.lists(box, max_size=4))
def test_shares_are_counted_in_pixels_of_all_regions_together(objects, regions):
    mask = np.zeros((25, 25), np.bool_)
    for x1, y1, x2, y2 in regions:
        mask[y1:y2, x1:x2] = True
    expected = [b for b in objects if mask[b[1] : b[3], b[0] : b[2]].mean() < 0.5]
    truth = GroundTruth(
        ground_truth(objects, [0] * len(objects)),
        np.zeros(len(objects), np.bool_),
        np.array(regions, np.float32).reshape(-1, 4),
    )
    _, there = as_evaluated(Detections.empty(), truth, 25, 25)
    assert [tuple(b) for b in there.objects.boxes.astype(int).tolist()] == expected
