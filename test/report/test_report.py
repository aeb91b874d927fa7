"""The report's figures, from results written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from networks import make_bundle
from synthetic_results import synthetic_result

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.cli.evaluate import missed_limits, read_latencies
from kd_perception.detection.detections import Detections
from kd_perception.detection.stage_times import StageTimes
from kd_perception.errors import KdPerceptionError
from kd_perception.evaluation.results import BagFailure, BagResult, FrameResult
from kd_perception.report.report import Streaming, make_report

SECOND = 1_000_000_000


def box(x: float, score: float = 0.9) -> Detections:
    return Detections(np.array([[x, 0, x + 10, 10]]), np.array([score]), np.array([0]))


def flight(speed: float, infer_ms: float, frames: int = 10) -> BagResult:
    """One object that moves `speed` pixels a second and is found exactly where it is, at one frame a second."""
    results, truth = [], {}
    for k in range(frames):
        stamp = (k + 1) * SECOND
        results.append(FrameResult(stamp, box(speed * k), StageTimes(decode=1.0, infer=infer_ms)))
        truth[stamp] = GroundTruth.of(box(speed * k))
    return BagResult('flight', Path('flight'), '0' * 64, '/image', tuple(results), truth)


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / 'b')


def report(bundle, *results: BagResult, **options):
    return make_report(bundle, bundle.artifacts[0], results, **options)


def test_a_perfect_detector_scores_one_and_the_report_is_plain_json(bundle):
    figures = report(bundle, flight(speed=5, infer_ms=20))
    assert figures['accuracy']['map'] == pytest.approx(1)
    assert figures['accuracy']['at_threshold']['recall'] == 1
    assert figures['latency']['stages_ms']['total']['p50'] == pytest.approx(21)
    assert figures['latency']['throughput_fps'] == pytest.approx(1e3 / 21)
    json.dumps(figures, allow_nan=False)


@pytest.mark.parametrize(
    ('speed', 'latency_ms', 'sap50'),
    [
        (
            0,
            500,
            0.9,
        ),  # nothing moves: only the very first instant, before any result, is lost (precision 1 to recall 0.9)
        (100, 500, 0.0),  # every result is a frame late, and the object is elsewhere by then
        (0, 1500, 0.8),  # two instants pass before the first result
    ],
)
def test_streaming_accuracy_judges_late_results_by_where_the_world_is(bundle, speed, latency_ms, sap50):
    figures = report(bundle, flight(speed, 20), streaming=Streaming(1.0, [latency_ms] * 10, str(latency_ms)))
    assert figures['accuracy']['map50'] == pytest.approx(1)
    assert figures['streaming']['sap50'] == pytest.approx(sap50, abs=0.011)  # COCO's 101 recall points


def test_without_latency_streaming_accuracy_is_accuracy(bundle):
    images = synthetic_result(classes=2)
    figures = report(bundle, images, streaming=Streaming(1.0, [0.0] * len(images.frames), '0'))
    accuracy, streaming = figures['accuracy'], figures['streaming']
    assert 0 < accuracy['map'] < 1
    assert (streaming['sap50'], streaming['sap']) == (accuracy['map50'], accuracy['map'])
    assert streaming['per_class'] == accuracy['per_class']
    assert (streaming['processed'], streaming['superseded']) == (len(images.frames), 0)


def test_measured_latencies_decide_who_is_superseded(bundle):
    slow = report(bundle, flight(0, infer_ms=2500), streaming=Streaming(1.0))['streaming']
    assert slow['processed'] + slow['superseded'] == 10
    assert slow['superseded'] > 3
    quick = report(bundle, flight(0, infer_ms=20), streaming=Streaming(1.0))['streaming']
    assert (quick['processed'], quick['superseded']) == (10, 0)
    assert report(bundle, flight(0, infer_ms=20), streaming=Streaming(100.0))['streaming']['superseded'] > 0


def test_frames_without_ground_truth_are_counted_and_left_out(bundle):
    result = flight(5, 20)
    for stamp in list(result.truth)[3:]:
        del result.truth[stamp]
    figures = report(bundle, result)
    assert figures['accuracy']['images'] == 3
    assert figures['bags'][0]['with_ground_truth'] == 3
    assert figures['bags'][0]['frames'] == 10


def test_undecodable_frames_and_failed_bags_are_told(bundle):
    broken = FrameResult(99 * SECOND, Detections.empty(), StageTimes(), rejected='truncated JPEG')
    result = flight(5, 20)
    result = BagResult(result.name, result.path, result.sha256, result.topic, (*result.frames, broken), result.truth)
    figures = report(bundle, result, failures=[BagFailure('other', Path('other'), 'no such bag')])
    assert figures['bags'][0]['undecodable'] == 1
    assert figures['bags'][0]['first_rejection'] == 'truncated JPEG'
    assert figures['latency']['frames'] == 10
    assert figures['failures'] == [{'bag': 'other', 'reason': 'no such bag'}]


def test_nothing_at_all_still_makes_a_report(bundle):
    figures = report(bundle)
    assert figures['accuracy'] is None
    assert figures['latency'] == {'frames': 0}


def test_limits_name_what_was_missed(bundle):
    figures = report(bundle, flight(5, 20))
    assert missed_limits(figures, [('map50', 0.9)], [('p95_ms', 40)]) == []
    assert missed_limits(figures, [('map50', 1.1)], [('p95_ms', 20)]) == [
        'map50 is 1; at least 1.1 was wanted',
        'p95_ms is 21; at most 20 was wanted',
    ]
    assert 'not in the report' in missed_limits(figures, [('sap', 0.1)], [])[0]


def test_latencies_come_from_a_figure_or_a_file(tmp_path):
    assert read_latencies('33.5', 2) == [33.5, 33.5]
    (tmp_path / 'l').write_text('10\n20.5\n')
    assert read_latencies(str(tmp_path / 'l'), 2) == [10, 20.5]


@pytest.mark.parametrize(
    ('content', 'says'), [('10\n', '1 figures for 2'), ('ten\n', 'one a line'), ('1\n-1\n', 'from 0 up')]
)
def test_latencies_that_do_not_fit_are_refused(tmp_path, content, says):
    (tmp_path / 'l').write_text(content)
    with pytest.raises(KdPerceptionError, match=says):
        read_latencies(str(tmp_path / 'l'), 2)
