"""The benchmarks run, compare like with like, and say beside each figure whether its target was met."""

import json

import pytest
from networks import make_bundle

from benchmarks import core_path, detector, machine, report
from kd_perception.detection.stage_times import STAGES


def node_row(overhead: float, infer: float, superseded: int) -> dict:
    percentiles = {stage: {'p50': 1.0, 'p95': 2.0, 'p99': 3.0} for stage in STAGES}
    return {
        'size': (640, 480),
        'rate': 30.0,
        'precision': 'int8',
        'threads': 0,
        'launch_to_first_detection_s': 1.5,
        'overhead_ms': {'p50': overhead, 'p95': 4.0, 'p99': 5.0},
        'stages_ms': {**percentiles, 'infer': {'p50': infer, 'p95': infer, 'p99': infer}},
        'fps_out': 30.0,
        'frames': {
            'received': 600,
            'published': 600 - superseded,
            'dropped.superseded': superseded,
            'lost_by_middleware': 0,
        },
        'memory_mb': {'end': {'resident': 301.0}},
    }


def test_both_postprocessing_paths_find_the_same_boxes_and_both_are_timed() -> None:
    core = core_path.measure(repetitions=1)
    assert [pair['work'] for pair in core['pairs']] == ['preprocess', 'postprocess']
    assert core['above_threshold'] == 400
    assert all(pair['core_ms'] > 0 and pair['plain_ms'] > 0 for pair in core['pairs'])


def test_the_report_of_a_machine_is_json_and_a_table() -> None:
    results = {'machine': machine.describe(), 'core_path': core_path.measure(repetitions=1)}
    assert json.loads(json.dumps(results))['machine']['cores'] >= 1
    assert '| preprocess |' in report.markdown(results)


@pytest.mark.parametrize(
    ('row', 'says'),
    [
        (node_row(2.5, 20.0, 0), ['2.50 (met ≤ 3)', '| 0 (met 0) |', '1.50 (met ≤ 2)', '301 (missed ≤ 300)']),
        (node_row(3.5, 20.0, 7), ['3.50 (missed ≤ 3)', '| 7 superseded (missed 0) |']),
        (node_row(3.5, 40.0, 7), ['| 7 superseded |']),  # a slow network may drop
    ],
)
def test_the_nodes_figures_stand_beside_their_targets(row: dict, says: list[str]) -> None:
    text = report.markdown({'machine': machine.describe(), 'node': [row]})
    assert all(part in text for part in says), text


def test_the_detector_is_measured_for_each_artifact_and_size(tmp_path) -> None:
    rows = detector.measure(make_bundle(tmp_path / 'bright_cells'), threads=(1,), repetitions=2)
    assert [(row['precision'], row['threads'], row['size']) for row in rows] == [
        ('fp32', 1, (640, 480)),
        ('fp32', 1, (1280, 720)),
    ]
    assert all(row['total_ms'] >= row['infer_ms'] > 0 for row in rows)
