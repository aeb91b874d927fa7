"""Ids of objects, and which boxes are published, on the real node over real DDS; all of it live."""

from __future__ import annotations

import time

import pytest
from networks import SIZE, doubles, image_with_cells, make_bundle
from rclpy.parameter import Parameter


def set_now(node, **values) -> None:
    """Set parameters of a node in this process; each must be accepted."""
    for result in node.node.set_parameters([Parameter(name, value=value) for name, value in values.items()]):
        assert result.successful, result.reason


def refusal(node, **values) -> str:
    (result,) = node.node.set_parameters([Parameter(name, value=value) for name, value in values.items()])
    assert not result.successful
    return result.reason


def ids_of(node, *cells, offset_s: float = 0.0) -> list[str]:
    """Ids by position from left to right, of a frame that was taken `offset_s` seconds from now."""
    answer = node.client.detect(image_with_cells(*cells), offset_s=offset_s)
    return [d.id for d in sorted(answer.detections, key=lambda d: (d.bbox.center.position.y, d.bbox.center.position.x))]


def cells_of(node, *cells) -> list[int]:
    """Which of the shown cells are published."""
    found = node.client.detect(image_with_cells(*cells)).detections
    side = SIZE // 4
    places = [(int(d.bbox.center.position.x), int(d.bbox.center.position.y)) for d in found]
    return sorted(y // side * 4 + x // side for x, y in places)


def test_without_a_tracker_there_are_no_ids(start_node):
    assert ids_of(start_node(), 0, 5) == ['', '']


def test_ids_stay_with_their_objects_and_begin_anew_with_another_model(start_node, tmp_path):
    node = start_node(tracker='bytetrack', track_keep_s=30.0)
    assert ids_of(node, 0, 15) == ['1', '2']
    assert ids_of(node, 0) == ['1']
    assert ids_of(node, 0, 15) == ['1', '2']
    assert ids_of(node, 0, 10, 15) == ['1', '', '2']
    assert ids_of(node, 0, 10, 15) == ['1', '3', '2']
    make_bundle(tmp_path / 'other', description='another')
    set_now(node, model=str(tmp_path / 'other'))
    assert node.reload().success
    assert ids_of(node, 0, 15) == ['4', '5']
    set_now(node, tracker='none')
    assert ids_of(node, 0) == ['']


def test_the_class_of_an_object_is_voted_for_unless_the_frames_is_asked_for(start_node):
    """A bright cell that is blue for a frame: its class is blue there, with a lower score than it had before."""
    node = start_node(tracker='bytetrack', track_keep_s=30.0, score_threshold=0.3)

    def class_of(color: tuple[int, int, int], offset_s: float) -> str:
        image = image_with_cells(5)
        image[image[..., 0] > 0] = color
        (found,) = node.client.detect(image, offset_s=offset_s).detections
        return found.results[0].hypothesis.class_id

    white, blue = (255, 255, 255), (150, 0, 0)
    assert [class_of(color, t) for color, t in ((white, -3.0), (white, -2.9), (blue, -2.8))] == ['0', '0', '0']
    set_now(node, track_class='frame')
    assert class_of(blue, -2.7) == '1'


def test_what_continues_a_track_may_be_published_from_a_lower_score(start_node):
    """A cell that is bright, then dim, beside one that is dim from the start."""
    node = start_node(tracker='bytetrack', track_keep_s=30.0, score_threshold=0.6)

    def published(level: int, offset_s: float) -> list[str]:
        image = image_with_cells(0, 15)
        half = len(image) // 2
        image[:half][image[:half] > 0] = level
        image[half:][image[half:] > 0] = 100
        return [found.id for found in node.client.detect(image, offset_s=offset_s).detections]

    bright, dim = 255, 100
    assert published(bright, -3.0) == ['1']
    assert published(dim, -2.9) == []
    set_now(node, track_publish_score=0.2)
    assert published(dim, -2.8) == ['1']
    set_now(node, track_publish_score=-1.0)
    assert published(dim, -2.7) == []


def test_a_track_ends_after_its_seconds_by_the_stamps(start_node):
    """By the stamps and not by the clock on the wall: nobody waits here."""
    node, start = start_node(tracker='bytetrack', track_keep_s=5.0), time.time()
    answers = [ids_of(node, 3, offset_s=start + second - time.time()) for second in (-60.0, -56.0, -40.0, -39.0)]
    assert answers == [['1'], ['1'], [''], ['2']]


@pytest.mark.parametrize(
    ('settings', 'kept'),
    [
        ({}, [0, 6, 15]),
        ({'region': '0,0 0.5,0 0.5,0.5 0,0.5'}, [0]),
        ({'region': '0.5,0 1,0 1,1 0.5,1'}, [6, 15]),
        ({'classes': ['blue']}, []),
        ({'classes': ['bright', 'blue']}, [0, 6, 15]),
        ({'class_thresholds': ['bright=1.0', 'blue=0.2'], 'score_threshold': 0.9}, [0, 6, 15]),
        ({'min_box_pixels': 16.5}, []),
        ({'min_box_pixels': 15.0}, [0, 6, 15]),
    ],
)
def test_which_boxes_are_published_is_live(start_node, settings, kept):
    node = start_node()
    set_now(node, **settings)
    assert cells_of(node, 0, 6, 15) == kept


@pytest.mark.parametrize(
    ('of_bundle', 'settings', 'classes'),
    [
        ({}, {}, ['0', '1']),
        ({}, {'suppression': 'all_classes'}, ['0']),
        ({'suppression': 'all_classes'}, {}, ['0']),
        ({'suppression': 'all_classes'}, {'suppression': 'per_class'}, ['0', '1']),
        ({'suppression': 'all_classes'}, {'tracker': 'bytetrack'}, ['0']),
        ({'class_scores': {'blue': 0.9}}, {}, ['0']),
        ({'class_scores': {'blue': 0.9}}, {'tracker': 'bytetrack'}, ['0']),
        ({'class_scores': {'blue': 0.9}}, {'class_thresholds': ['blue=0.7']}, ['0', '1']),
        ({'class_scores': {'blue': 0.9}}, {'score_threshold': 0.5}, ['0', '1']),
        (
            {'class_scores': {'blue': 0.9}},
            {'score_threshold': 0.5, 'class_thresholds': ['bright=1.1e-1', 'blue=0.81']},
            ['0'],
        ),
    ],
)
def test_doubles_and_scores_of_classes_are_the_bundles_or_the_parameters(
    start_node, tmp_path, of_bundle, settings, classes
):
    make_bundle(tmp_path / 'doubles', network=doubles(), thresholds={'score': 0.5, 'iou': 0.5, **of_bundle})
    node = start_node(model=str(tmp_path / 'doubles'))
    set_now(node, **settings)
    found = node.client.detect(image_with_cells(5)).detections
    assert sorted(d.results[0].hypothesis.class_id for d in found) == classes


def test_class_id_may_be_the_name(start_node):
    node = start_node()
    set_now(node, class_id_form='name')
    (found,) = node.client.detect(image_with_cells(5)).detections
    assert found.results[0].hypothesis.class_id == 'bright'


@pytest.mark.parametrize(
    ('setting', 'says'),
    [
        ({'classes': ['brigth']}, "no class 'brigth'; did you mean 'bright'?"),
        ({'class_thresholds': ['green=0.5']}, "no class 'green'"),
        ({'class_thresholds': ['bright']}, 'NAME=SCORE'),
        ({'region': '0,0 1,1'}, 'corners'),
        ({'tracker': 'bytetrak'}, "did you mean 'bytetrack'?"),
    ],
)
def test_what_cannot_be_is_refused(start_node, setting, says):
    assert says in refusal(start_node(), **setting)


def test_a_class_that_the_model_does_not_have_fails_configuring(start_detector):
    detector = start_detector(classes='[brigth]')
    detector.client.wait_for_status('model', "no class 'brigth'; did you mean 'bright'?")


def test_a_rate_limit_counts_the_others_as_skipped(start_node):
    node = start_node(max_rate_hz=0.001)
    assert cells_of(node, 0) == [0]
    for number in range(1, 4):
        node.client.send(image_with_cells(0))
        node.wait_for_counts(received=1 + number, published=1, dropped_skipped=number)
    set_now(node, max_rate_hz=0.0)
    assert cells_of(node, 0) == [0]
