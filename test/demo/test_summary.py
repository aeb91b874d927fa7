"""The figures of the summary."""

import json

import numpy as np
import pytest

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
    truth = {
        1: detections((0, 0, 10, 10, 1, 0), (20, 20, 40, 30, 1, 1)),
        2: detections((5, 5, 9, 9, 1, 0)),
    }
    found = {
        1: detections((0, 0, 10, 10, 0.9, 2), (20, 20, 40, 30, 0.8, 0), (50, 50, 60, 60, 0.7, 1)),
        3: detections((0, 0, 10, 10, 0.9, 2)),
    }
    map50, by_class = accuracy(found, truth, ['bus', 'kite', 'car'], ['car', 'bus', 'cyclist'], 0.25)
    assert map50 == 1.0
    assert by_class == {'car': 1.0, 'bus': 1.0}


@pytest.mark.parametrize('names', [['kite'], []])
def test_a_detector_of_other_things_has_no_accuracy(names: list[str]) -> None:
    truth = {1: detections((0, 0, 10, 10, 1, 0))}
    assert accuracy({1: detections()}, truth, names, ['car'], 0.25) == (None, {})


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
