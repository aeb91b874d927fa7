"""Which frames are worth a picture: the worst, apart from each other, judged at the bundle's threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.bags.writer import BagWriter
from kd_perception.bundles.bundle import load_bundle
from kd_perception.detection.detections import Detections
from kd_perception.detection.stage_times import StageTimes
from kd_perception.evaluation.results import BagResult, FrameResult
from kd_perception.report.worst_frames import worst_frames

SECOND = 1_000_000_000
START = 100 * SECOND
OBJECT = Detections([[10, 10, 40, 30]], [1], [0])
NOTHING = Detections.empty()


@pytest.fixture(scope='module')
def bundle(repository):
    """Its threshold is 0.25."""
    bundle = load_bundle(repository / 'models' / 'aerial_traffic')
    return replace(bundle, thresholds=replace(bundle.thresholds, score=0.25))


@pytest.fixture
def result_of(tmp_path):
    """A bag whose frame k is a gray of value k, taken at second k, and what was found and is there in each."""

    def make(found, truth, name='bag'):
        with BagWriter(tmp_path / name) as bag:
            for k in range(len(found)):
                bag.image('/image', START + k * SECOND, np.full((48, 64, 3), k, np.uint8))
        stamps = [START + k * SECOND for k in range(len(found))]
        frames = tuple(FrameResult(stamp, f, StageTimes()) for stamp, f in zip(stamps, found, strict=True))
        return BagResult(name, tmp_path / name, '', '/image', frames, dict(zip(stamps, truth, strict=True)))

    return make


def alarms(count):
    """So many detections where nothing is."""
    corners = 5.0 * np.arange(count)[:, None].repeat(2, axis=1)
    return Detections(np.hstack([corners, corners + 4]), np.full(count, 0.5), np.zeros(count))


def test_the_worst_come_first_with_their_own_pictures(result_of, bundle):
    found = [NOTHING] * 30
    found[4], found[25] = alarms(2), alarms(5)
    pictures = worst_frames([result_of(found, [GroundTruth.of(NOTHING)] * 30)], bundle)
    assert [picture.seconds for picture in pictures] == [25, 4]
    assert [int(picture.image.max()) for picture in pictures] == [25, 4]
    assert [len(picture.false_alarms) for picture in pictures] == [5, 2]
    assert pictures[0].stamp_ns == START + 25 * SECOND


def test_neighbors_of_a_worst_frame_are_passed_over(result_of, bundle):
    found = [alarms(10 if 10 <= k < 20 else 1) for k in range(60)]
    pictures = worst_frames([result_of(found, [GroundTruth.of(NOTHING)] * 60)], bundle)
    seconds = sorted(picture.seconds for picture in pictures)
    assert len(seconds) == 6
    assert min(np.diff(seconds)) >= 59 / 12


def test_every_bag_may_give_its_own(result_of, bundle):
    truth = [GroundTruth.of(NOTHING)] * 2
    results = [result_of([alarms(2), NOTHING], truth, 'one'), result_of([alarms(1), NOTHING], truth, 'two')]
    assert [(picture.bag, len(picture.false_alarms)) for picture in worst_frames(results, bundle)] == [
        ('one', 2),
        ('two', 1),
    ]


@pytest.mark.parametrize(
    ('found', 'truth', 'right', 'false_alarms', 'missed'),
    [
        pytest.param(NOTHING, GroundTruth.of(OBJECT), 0, 0, 1, id='missed'),
        pytest.param(replace(OBJECT, scores=[0.2]), GroundTruth.of(OBJECT), 0, 0, 1, id='under the threshold'),
        pytest.param(replace(OBJECT, class_ids=[1]), GroundTruth.of(OBJECT), 0, 1, 1, id='of another class'),
        pytest.param(
            Detections([[10, 10, 40, 30]] * 2, [0.9, 0.8], [0, 0]), GroundTruth.of(OBJECT), 1, 1, 0, id='found twice'
        ),
        pytest.param(
            alarms(3),
            GroundTruth(OBJECT, np.array([False]), np.array([[0, 0, 9, 9]], np.float32)),
            *(0, 1, 1),
            id='two of three in an ignored region',
        ),
        pytest.param(
            alarms(1), GroundTruth(OBJECT, np.array([True]), np.zeros((0, 4), np.float32)), 0, 1, 0, id='a crowd'
        ),
    ],
)
def test_boxes_are_judged_at_the_threshold(result_of, bundle, found, truth, right, false_alarms, missed):
    (picture,) = worst_frames([result_of([found], [truth])], bundle)
    assert (len(picture.right), len(picture.false_alarms), len(picture.missed)) == (right, false_alarms, missed)


def test_a_faultless_run_and_one_without_ground_truth_have_no_pictures(result_of, bundle):
    result = result_of([OBJECT], [GroundTruth.of(OBJECT)])
    assert worst_frames([result], bundle) == []
    assert worst_frames([replace(result, truth={})], bundle) == []
    assert worst_frames([], bundle) == []


def test_a_bag_that_is_gone_gives_no_pictures_and_stops_nothing(result_of, bundle, tmp_path):
    truth = [GroundTruth.of(OBJECT)]
    gone = replace(result_of([alarms(3)], truth), path=tmp_path / 'gone')
    there = result_of([NOTHING], truth, 'there')
    assert [picture.bag for picture in worst_frames([gone, there], bundle)] == ['there']
