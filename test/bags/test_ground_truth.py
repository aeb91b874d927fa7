"""Ground truth of topics, COCO files and tables, in the classes of a detector and at the stamps of the images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bag_files import START, image_bag
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.bags.ground_truth import AnnotatedObject, Annotations, GroundTruth, align
from kd_perception.bags.truth_sources import name_of, read_coco, read_coco_by_name, read_ground_truth, read_truth_table
from kd_perception.bags.writer import BagWriter
from kd_perception.detection.detections import Detections
from kd_perception.errors import BagError, GroundTruthError

BOX = (10.0, 20.0, 30.0, 60.0)


def boxes(*class_ids: int) -> Detections:
    count = len(class_ids)
    return Detections(np.tile(np.float32(BOX), (count, 1)), np.ones(count), np.array(class_ids))


def annotations(*objects: AnnotatedObject) -> Annotations:
    return Annotations('test', {START: list(objects)})


# Classes


def test_names_become_the_class_ids_of_the_detector():
    found = annotations(AnnotatedObject(BOX, 'bus'), AnnotatedObject(BOX, 'Car')).for_classes(['car', 'truck', 'Bus'])
    assert found[START].objects.class_ids.tolist() == [2, 0]


def test_unknown_names_are_all_listed_with_what_to_do():
    unknown = annotations(AnnotatedObject(BOX, 'tram'), AnnotatedObject(BOX, 'car'), AnnotatedObject(BOX, 'cow'))
    with pytest.raises(
        GroundTruthError, match=r'classes cow, tram; it knows car, bus.*--class-map cow=car, or cow=ignore'
    ):
        unknown.for_classes(['car', 'bus'])


def test_a_class_map_renames_and_ignores():
    mixed = annotations(
        AnnotatedObject(BOX, 'Lorry'), AnnotatedObject((0, 0, 5, 5), 'cow'), AnnotatedObject(BOX, 'car')
    )
    there = mixed.for_classes(['car', 'truck'], {'lorry': 'truck', 'cow': 'ignore'})[START]
    assert there.objects.class_ids.tolist() == [1, 0]
    assert there.ignored.tolist() == [[0, 0, 5, 5]]


def test_a_class_map_to_nowhere_is_refused():
    with pytest.raises(GroundTruthError, match='--class-map leads to lory; the detector knows car, and ignore'):
        annotations().for_classes(['car'], {'truck': 'lory'})


@pytest.mark.parametrize('box', [(5, 5, 5, 9), (5, 5, 4, 9), (0, 0, float('nan'), 3), (0, 0, float('inf'), 3)])
def test_boxes_without_area_are_left_out(box):
    there = annotations(AnnotatedObject(box, 'car'), AnnotatedObject(BOX, 'car')).for_classes(['car'])[START]
    assert there.objects.boxes.tolist() == [list(BOX)]
    assert len(there.crowd) == 1


def test_clipping_cuts_boxes_to_the_image_and_drops_those_outside():
    objects = Detections(np.array([(-5, -5, 10, 10), (100, 0, 120, 10)]), np.ones(2), np.array([0, 1]))
    there = GroundTruth(objects, np.array([True, False]), np.array([(50, 50, 200, 200)], np.float32)).clipped(64, 60)
    assert there.objects.boxes.tolist() == [[0, 0, 10, 10]]
    assert there.crowd.tolist() == [True]
    assert there.ignored.tolist() == [[50, 50, 64, 60]]


# A topic of the bag


def test_a_topic_is_explained_by_its_label_info(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.label_info('/ground_truth/label_info', START, ['drone', 'bird'])
        bag.detections('/ground_truth', START, boxes(1, 0, 0), ids=['', 'crowd', 'ignore'])
        bag.detections('/ground_truth', START + 1, Detections.empty())
    truth = read_ground_truth(tmp_path / 'bag', '', ['drone', 'airplane', 'bird'])
    assert truth[START].objects.class_ids.tolist() == [2, 0]
    assert truth[START].crowd.tolist() == [False, True]
    assert truth[START].ignored.tolist() == [list(BOX)]
    assert len(truth[START + 1].objects) == 0
    assert START + 2 not in truth


def test_numbers_without_label_info_are_the_detectors_own_class_ids(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.detections('/ground_truth', START, boxes(1))
    assert read_ground_truth(tmp_path / 'bag', '', ['car', 'bus'])[START].objects.class_ids.tolist() == [1]
    with pytest.raises(GroundTruthError, match='does not know the classes 1'):
        read_ground_truth(tmp_path / 'bag', '', ['car'])


@pytest.mark.parametrize(
    ('topics', 'chosen'),
    [
        ([], None),
        (['/detections'], None),
        (['/detector/detections'], None),
        (['/boxes', '/detections'], '/boxes'),
        (['/boxes', '/camera/ground_truth', '/detections'], '/camera/ground_truth'),
    ],
)
def test_which_topic_is_the_ground_truth(tmp_path, topics, chosen):
    with BagWriter(tmp_path / 'bag') as bag:
        for index, topic in enumerate(topics):
            bag.detections(topic, START, boxes(index))
    truth = read_ground_truth(tmp_path / 'bag', '', ['a', 'b', 'c'])
    assert [there.objects.class_ids.tolist() for there in truth.values()] == (
        [[topics.index(chosen)]] if chosen else []
    )


def test_a_detectors_output_is_ground_truth_when_it_is_named(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.detections('/detections', START, boxes(0))
    assert list(read_ground_truth(tmp_path / 'bag', 'detections', ['car'])) == [START]


def test_several_topics_are_listed(tmp_path):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.detections('/left/ground_truth', START, boxes(0))
        bag.detections('/right/ground_truth', START, boxes(0))
    with pytest.raises(BagError, match='choose the topic of the ground truth: /left/ground_truth, /right/ground_truth'):
        read_ground_truth(tmp_path / 'bag', '', ['car'])
    with pytest.raises(BagError, match=r'no detections on /gt; topics of Detection2DArray: /left/ground_truth \(1\)'):
        read_ground_truth(tmp_path / 'bag', '/gt', ['car'])


# A COCO file


def coco(*images: dict, annotations: list[dict] | None = None) -> dict:
    return {
        'images': [{'id': index, **image} for index, image in enumerate(images)],
        'categories': [{'id': 7, 'name': 'car'}],
        'annotations': annotations or [],
    }


def box(image: int = 0, **more) -> dict:
    return {'image_id': image, 'category_id': 7, 'bbox': [10, 20, 20, 40], **more}


@pytest.fixture
def write(tmp_path):
    def write(content) -> str:
        path = tmp_path / 'truth.json'
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.mark.parametrize(
    'image',
    [
        {'stamp_ns': START + 5},
        {'sec': START // 10**9, 'nanosec': 5},
        {'file_name': f'{START // 10**9}_000000005.jpg'},
        {'file_name': f'left/rgb/{START // 10**9}_000000005.png'},
        {'file_name': f'{START // 10**9}_000000005'},
    ],
)
def test_images_name_their_stamps(write, image):
    assert list(read_coco(write(coco(image))).frames) == [START + 5]


def test_crowds_and_ignored_objects_keep_their_marks(write, tmp_path):
    path = write(
        coco(
            {'stamp_ns': 1},
            {'stamp_ns': 2},
            annotations=[box(), box(iscrowd=1), box(ignore=1, category_id=99)],
        )
    )
    truth = read_ground_truth(tmp_path / 'unused', str(path), ['car'])
    assert truth[1].objects.boxes.tolist() == [list(BOX)] * 2
    assert truth[1].crowd.tolist() == [False, True]
    assert truth[1].ignored.tolist() == [list(BOX)]
    assert len(truth[2].objects) == 0


@pytest.mark.parametrize(
    ('content', 'says'),
    [
        ('{', 'no COCO file of boxes'),
        ('[]', 'no COCO file of boxes'),
        ({'images': []}, "'categories' is missing"),
        (
            coco({'file_name': 'frame_000001.jpg'}),
            "image 'frame_000001.jpg' does not name its stamp: give it the field",
        ),
        (coco({'file_name': '12_5.jpg'}), 'does not name its stamp'),
        (coco({'stamp_ns': 1}, annotations=[box(image=3)]), '3 is missing or names nothing'),
        (coco({'stamp_ns': 1}, annotations=[box(bbox=[1, 2, 3])]), 'not enough values'),
        (coco({'stamp_ns': 'soon'}), 'invalid literal'),
        ('[' * 100_000, 'no COCO file of boxes'),
    ],
)
def test_what_is_no_coco_file_says_why(write, content, says):
    with pytest.raises(GroundTruthError, match=says):
        read_coco(write(content))


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(GroundTruthError, match='absent.json.*No such file'):
        read_coco(tmp_path / 'absent.json')


def test_images_by_name(write):
    found = read_coco_by_name(
        write(coco({'file_name': 'a\\\\one.jpg'}, {'file_name': './two.jpg'}, annotations=[box()]))
    )
    assert {name: len(objects) for name, objects in found.items()} == {'a/one.jpg': 1, 'two.jpg': 0}


def test_two_images_of_one_name_are_refused(write):
    with pytest.raises(GroundTruthError, match=r'two images are called a/one\.jpg'):
        read_coco_by_name(write(coco({'file_name': 'a/one.jpg'}, {'file_name': 'a/one.jpg'})))


@pytest.mark.parametrize(
    ('file', 'names', 'found'),
    [
        ('/photos/x.jpg', ['x.jpg'], 'x.jpg'),
        ('/photos/cam1/x.jpg', ['cam1/x.jpg', 'cam2/x.jpg'], 'cam1/x.jpg'),
        ('/photos/cam2/x.jpg', ['cam1/x.jpg', 'cam2/x.jpg'], 'cam2/x.jpg'),
        ('/photos/cam1/x.jpg', ['x.jpg', 'cam1/x.jpg'], 'cam1/x.jpg'),
        ('/photos/x.jpg', ['train2017/x.jpg'], 'train2017/x.jpg'),
        ('/photos/x.jpg', ['xx.jpg', 'y.jpg'], None),
        ('/photos/x.jpg', [], None),
    ],
)
def test_a_file_is_found_by_its_path(file, names, found):
    assert name_of(Path(file), names) == found


def test_a_file_that_could_be_two_is_neither():
    with pytest.raises(GroundTruthError, match=r'could be cam1/x\.jpg or cam2/x\.jpg'):
        name_of(Path('/photos/x.jpg'), ['cam1/x.jpg', 'cam2/x.jpg'])


# A table


def test_a_table_of_boxes_by_frame(tmp_path):
    path = tmp_path / 'truth.csv'
    path.write_text('frame,label,x,y,w,h\n0,DRONE,10,20,20,40\n0,BIRD,1.5,2,3,4\n3,,,,,\n')
    table = read_truth_table(path)
    assert table == {
        0: [AnnotatedObject(BOX, 'drone'), AnnotatedObject((1.5, 2, 4.5, 6), 'bird')],
        3: [],
    }


@pytest.mark.parametrize(
    ('content', 'says'),
    [
        ('', 'no column frame, label, x, y, w, h; the first line must name'),
        ('frame,label,x,y\n', 'no column w, h'),
        ('frame,label,x,y,w,h\n0,car,1,2,3,4\nzero,car,1,2,3,4\n', 'line 3: invalid literal'),
        ('frame,label,x,y,w,h\n0,car,1,2,3\n', 'line 2'),
        ('frame,label,x,y,w,h\n0,car,1,2,3,four\n', 'line 2: could not convert'),
    ],
)
def test_what_is_no_table_says_where(tmp_path, content, says):
    (tmp_path / 'truth.csv').write_text(content)
    with pytest.raises(GroundTruthError, match=says):
        read_truth_table(tmp_path / 'truth.csv')


def test_a_binary_file_is_no_table(tmp_path):
    (tmp_path / 'truth.csv').write_bytes(b'\xff\xfe\x00\x80')
    with pytest.raises(GroundTruthError, match='truth.csv'):
        read_truth_table(tmp_path / 'truth.csv')


# Stamps


def truths(*stamps: int) -> dict[int, GroundTruth]:
    return {stamp: GroundTruth.of(boxes(0)) for stamp in stamps}


@pytest.mark.parametrize(
    ('frames', 'there', 'tolerance', 'expected'),
    [
        ([10, 20, 30], [10, 30], 0, {10: 10, 30: 30}),
        ([10, 20, 30], [11, 29], 0, {}),
        ([10, 20, 30], [11, 29], 1, {10: 11, 30: 29}),
        ([10, 20, 30], [14, 16], 9, {10: 14, 20: 16}),
        ([10, 20, 30], [19, 20], 9, {20: 20}),
        ([10], [5, 12], 9, {10: 12}),
        ([], [5], 9, {}),
        ([5], [], 9, {}),
    ],
)
def test_ground_truth_goes_to_the_nearest_image(frames, there, tolerance, expected):
    truth = truths(*there)
    assert align(truth, frames, tolerance) == {frame: truth[stamp] for frame, stamp in expected.items()}


@given(st.sets(st.integers(0, 50)), st.sets(st.integers(0, 50)), st.integers(0, 10))
def test_no_ground_truth_serves_two_images_and_none_is_too_far(frames, there, tolerance):
    truth = truths(*there)
    stamp_of = {id(value): stamp for stamp, value in truth.items()}
    pairs = {frame: stamp_of[id(value)] for frame, value in align(truth, frames, tolerance).items()}
    assert len(set(pairs.values())) == len(pairs)
    assert all(abs(frame - stamp) <= tolerance for frame, stamp in pairs.items())
    assert pairs.keys() <= frames
    assert all(pairs[stamp] == stamp for stamp in frames & there)


def test_a_bag_without_ground_truth_has_none(tmp_path):
    assert read_ground_truth(image_bag(tmp_path / 'bag'), '', ['car']) == {}
