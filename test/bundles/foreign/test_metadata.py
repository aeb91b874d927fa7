"""What exporters write beside the graph, in the many ways in which they write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.bundles.foreign.class_names import COCO, class_names
from kd_perception.bundles.foreign.metadata import Stated, check_task, read_metadata, unique
from kd_perception.errors import BundleError


@pytest.mark.parametrize(
    ('text', 'count', 'names'),
    [
        ("{0: 'car', 1: 'bus'}", 2, ('car', 'bus')),
        ('{"0": "car", "1": "bus"}', 2, ('car', 'bus')),
        ("{'1': 'bus', '0': 'car'}", 2, ('car', 'bus')),
        ("{1: 'car', 2: 'bus'}", 2, ('car', 'bus')),
        ("{0: 'car', 2: 'bus'}", 3, ('car', 'class_1', 'bus')),
        ("{0: 'car', 2: 'bus'}", 2, ('car', 'bus')),
        ("{'car': 0, 'bus': 1}", 2, ('car', 'bus')),
        ("['car', 'bus']", 2, ('car', 'bus')),
        ("('car', 'bus')", 2, ('car', 'bus')),
        ('car,bus', 2, ('car', 'bus')),
        ('car\nbus', 2, ('car', 'bus')),
        ("{0: 7, 1: 'bus'}", 2, ('7', 'bus')),
        ("{0: 'car', 1: 'car'}", 2, ('car', 'car_1')),
        ("{0: '', 1: 'a\\x1b[31mb'}", 2, ('class_0', 'a [31mb')),
    ],
)
def test_names_with_any_keys(text, count, names):
    assert read_metadata({'names': text}).class_names(count) == names


@pytest.mark.parametrize(
    'text', ['', 'car', '{}', '[]', '__import__("os")', "{-1: 'car'}", "{0: 'a', '0': 'b'}", "{10**9: 'a'}", '[' * 5000]
)
def test_what_are_no_names(text):
    assert read_metadata({'names': text}).class_counts == ()


@pytest.mark.parametrize(
    ('metadata', 'stated'),
    [
        ({'imgsz': '[480, 640]'}, {'size': (640, 480)}),
        ({'imgsz': '640'}, {'size': (640, 640)}),
        ({'imgsz': '[1, 3, 480, 640]'}, {'size': (640, 480)}),
        ({'imgsz': '[0, 640]'}, {'size': None}),
        ({'imgsz': 'large'}, {'size': None}),
        ({'end2end': 'True'}, {'end2end': True}),
        ({'end2end': 'False', 'args': "{'nms': True}"}, {'end2end': True}),
        ({'args': "{'nms': False}"}, {'end2end': None}),
        ({'task': "'Segment'"}, {'task': 'segment'}),
        ({'batch': '4', 'channels': '1'}, {'batch': 4, 'channels': 1}),
        ({'author': 'Ultralytics'}, {'exporter': 'Ultralytics'}),
        ({'task': 'detect', 'stride': '32', 'imgsz': '640'}, {'exporter': 'Ultralytics'}),
        ({'Author': 'me'}, {'exporter': 'me'}),
    ],
)
def test_entries(metadata, stated):
    found = read_metadata(metadata)
    assert {key: getattr(found, key) for key in stated} == stated


@pytest.mark.parametrize('task', ['', 'detect', 'object-detection', 'Object Detection'])
def test_detectors_pass(task):
    check_task(Stated(task=task))


@pytest.mark.parametrize(
    ('task', 'says'),
    [
        ('segment', 'segmentation'),
        ('instance_segmentation', 'segmentation'),
        ('Keypoint Detection', 'keypoints'),
        ('pose', 'keypoints'),
        ('obb', 'oriented'),
        ('classify', 'where'),
        ('depth', "'depth'"),
    ],
)
def test_other_tasks_are_named(task, says):
    with pytest.raises(BundleError, match=says):
        check_task(Stated(task=task))


def test_classes_of_the_command_line(tmp_path):
    (tmp_path / 'names.txt').write_text('car\n\n traffic light \n')
    assert class_names(str(tmp_path / 'names.txt')) == ('car', 'traffic light')
    assert class_names('car, bus') == ('car', 'bus')
    assert class_names('COCO') == COCO
    assert len(set(COCO)) == 80
    (tmp_path / 'binary.txt').write_bytes(b'\xff\xfe')
    for wrong in (str(tmp_path / 'none.txt'), str(tmp_path / 'binary.txt'), ' , '):
        with pytest.raises(BundleError, match='--classes|cannot be read'):
            class_names(wrong)


@given(st.lists(st.text(max_size=150), max_size=30))
def test_names_are_made_fit_for_a_bundle(names):
    found = unique(names)
    assert len(found) == len(names)
    assert all(0 < len(name) <= 100 and name.isprintable() for name in found)
    assert len(set(found)) == len(found)


@given(st.dictionaries(st.sampled_from(['names', 'imgsz', 'batch', 'end2end', 'args', 'task']), st.text(max_size=60)))
def test_no_metadata_is_fatal(metadata):
    read_metadata(metadata)
