"""The figures of the summary."""

import json

import numpy as np
import pytest

from kd_perception.bags.ground_truth import IGNORED, AnnotatedObject, Annotations
from kd_perception.demo.summary import Summary, accuracy, frame_accounts, latency_percentiles, rate
from kd_perception.detection.detections import Detections
from kd_perception.detection.stage_times import STAGES


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5])


@pytest.mark.parametrize(
    ('times', 'expected'), [([], 0.0), ([3.0], 0.0), ([1.0, 1.0], 0.0), ([0.0, 0.5, 1.0], 2.0), ([5.0, 5.1], 10.0)]
)
def test_rate(times: list[float], expected: float) -> None:
    assert rate(times) == pytest.approx(expected)


def test_percentiles_of_every_stage() -> None:
    figures = latency_percentiles([dict.fromkeys(STAGES, float(value)) for value in range(101)])
    assert list(figures) == list(STAGES)
    assert figures['age'] == {'p50': 50.0, 'p95': 95.0, 'p99': 99.0}


def test_no_frames_have_no_percentiles() -> None:
    assert latency_percentiles([]) == {}


def test_frame_accounts_come_from_the_diagnostics() -> None:
    status = {'received': '9', 'published': '6', 'dropped.superseded': '2', 'dropped.stale': '1', 'fps_in': '30'}
    accounts = frame_accounts(status, recorded=5)
    assert accounts['received'] == accounts['published'] + sum(accounts['dropped'].values()) == 9
    assert accounts['recorded'] == 5


def test_accuracy_matches_classes_by_name_and_frames_by_stamp() -> None:
    """The truck is a large vehicle; the false alarm lies on a car that is hardly in sight; frames 2 and 3 have no other side."""
    flight = {
        1: [
            AnnotatedObject((0, 0, 10, 10), 'car', track='1'),
            AnnotatedObject((20, 20, 40, 30), 'truck', track='2'),
            AnnotatedObject((50, 50, 60, 60), IGNORED),
        ],
        2: [AnnotatedObject((5, 5, 9, 9), 'car', track='1')],
    }
    truth = Annotations('flight', flight).for_classes(['kite', 'large_vehicle', 'car'], {'truck': 'large_vehicle'})
    found = {
        1: detections((0, 0, 10, 10, 0.9, 2), (20, 20, 40, 30, 0.8, 1), (50, 50, 60, 60, 0.95, 2)),
        3: detections((0, 0, 10, 10, 0.9, 2)),
    }
    map50, by_class = accuracy(found, truth, ['kite', 'large_vehicle', 'car'], 0.25)
    assert map50 == 1.0
    assert by_class == {'car': 1.0, 'large_vehicle': 1.0}


def test_a_detector_of_other_things_has_no_accuracy() -> None:
    truth = Annotations('flight', {1: [AnnotatedObject((0, 0, 10, 10), 'car')]}).for_classes(['kite'], {'car': IGNORED})
    assert accuracy({1: detections()}, truth, ['kite'], 0.25) == (None, {})


def test_the_table_says_what_the_json_says() -> None:
    summary = Summary(
        source='scene 1',
        bundle='toy',
        engine='onnxruntime',
        precision='int8',
        frames=frame_accounts({'received': '10', 'published': '8', 'dropped.superseded': '2'}, 8),
        latency_ms=latency_percentiles([dict.fromkeys(STAGES, 12.5)]),
        fps_in=30.0,
        fps_out=24.0,
        score_threshold=0.25,
        map50=0.5,
        map50_by_class={'car': 0.5},
    )
    table = str(summary)
    for text in (
        'scene 1',
        'toy int8',
        '10 received, 8 published',
        '2 superseded',
        '30.0 in, 24.0 out',
        '50.0 %',
        '12.50',
    ):
        assert text in table
    assert json.loads(json.dumps(summary.to_json()))['latency_ms']['age']['p95'] == 12.5
