"""`kd_perception evaluate` on bags that the test writes, with a real network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from networks import CELLS, doubles, image_with_cells, make_bundle

from kd_perception.bags.reader import open_bag, read_detections
from kd_perception.bags.writer import BagWriter
from kd_perception.cli.main import main
from kd_perception.detection.detections import Detections
from kd_perception.evaluation.evaluate import Job, run_jobs
from kd_perception.evaluation.results import BagFailure, BagResult

PERIOD = 100_000_000


def write_bag(path: Path, cells: list[int], truth: bool = True) -> Path:
    """One bright cell a frame, and the cell's box as ground truth."""
    with BagWriter(path) as bag:
        for k, cell in enumerate(cells, 1):
            bag.image('/image', k * PERIOD, image_with_cells(cell))
            if truth:
                bag.detections('/ground_truth', k * PERIOD, Detections(CELLS[[cell]], np.ones(1), np.zeros(1)))
    return path


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / 'bright_cells').folder


def evaluate(tmp_path, bundle, *arguments: object) -> tuple[int, dict]:
    out = tmp_path / 'out'
    status = main(['evaluate', *map(str, arguments), '--bundle', str(bundle), '--out', str(out)])
    return status, json.loads((out / 'report.json').read_text())


def test_a_right_detector_gets_full_marks_and_a_report(tmp_path, bundle):
    bag = write_bag(tmp_path / 'bag', [1, 5, 9, 10])
    status, report = evaluate(tmp_path, bundle, bag, '--fail-under', 'map50=0.99', '--fail-over', 'false_alarms=0')
    assert status == 0
    assert report['accuracy']['map'] == pytest.approx(1)
    assert report['bags'][0]['frames'] == report['bags'][0]['with_ground_truth'] == 4
    assert '<html' in (tmp_path / 'out' / 'report.html').read_text()


def test_two_runs_agree_to_the_last_digit(tmp_path, bundle):
    bag = write_bag(tmp_path / 'bag', [1, 5, 9, 10])
    first, second = (evaluate(tmp_path / name, bundle, bag)[1] for name in ('a', 'b'))
    assert first['accuracy'] == second['accuracy']
    lines = [(tmp_path / name / 'out' / 'frames' / '000_bag.jsonl').read_text() for name in ('a', 'b')]
    kept = [
        [{k: v for k, v in json.loads(line).items() if k != 'times'} for line in text.splitlines()] for text in lines
    ]
    assert kept[0] == kept[1]


def test_realtime_puts_sap_beside_ap(tmp_path, bundle):
    bag = write_bag(tmp_path / 'bag', [1, 5, 9, 10, 1, 5, 9, 10])
    _, report = evaluate(tmp_path, bundle, bag, '--mode', 'realtime', '--latency', '250')
    assert report['accuracy']['map50'] == pytest.approx(1)
    assert report['streaming']['sap50'] < 0.2  # the bright cell has jumped on before any result is ready
    assert report['streaming']['superseded'] > 0


@pytest.mark.parametrize(
    ('of_bundle', 'arguments', 'precision', 'suppression'),
    [
        ({}, (), 0.5, 'per_class'),
        ({}, ('--suppression', 'all_classes'), 1.0, 'all_classes'),
        ({'suppression': 'all_classes'}, (), 1.0, 'all_classes'),
        ({'suppression': 'all_classes'}, ('--suppression', 'per_class'), 0.5, 'per_class'),
        ({'class_scores': {'blue': 0.9}}, (), 1.0, 'per_class'),
    ],
)
def test_doubles_are_false_alarms(tmp_path, of_bundle, arguments, precision, suppression):
    thresholds = {'score': 0.5, 'iou': 0.5, **of_bundle}
    bundle = make_bundle(tmp_path / 'doubles', network=doubles(), thresholds=thresholds).folder
    bag = write_bag(tmp_path / 'bag', [1, 5, 9, 10])
    status, report = evaluate(tmp_path, bundle, bag, '--write-bag', *arguments)
    assert status == 0
    assert report['accuracy']['at_threshold']['precision'] == pytest.approx(precision)
    assert report['bundle']['thresholds'] == {'class_scores': {}, **thresholds, 'suppression': suppression}
    written = read_detections(tmp_path / 'out' / 'bag_detections', '/detections')
    assert {len(found) for found in written.values()} == {round(1 / precision)}


def test_large_frames_are_seen_in_tiles(tmp_path, bundle, capsys):
    """A cell's worth of white in a frame of 2 × 2 inputs: too little for the whole frame, a full cell in its tile."""
    frame = np.zeros((128, 128, 3), np.uint8)
    frame[80:96, 32:48] = 255
    with BagWriter(tmp_path / 'bag') as bag:
        bag.image('/image', PERIOD, frame)
        bag.detections('/ground_truth', PERIOD, Detections([[32, 80, 48, 96]], np.ones(1), np.zeros(1)))
    arguments = (tmp_path / 'bag', '--tile-overlap', 0)
    assert evaluate(tmp_path, bundle, *arguments)[1]['accuracy']['map50'] < 0.1
    assert evaluate(tmp_path, bundle, *arguments, '--tiles', '2x2', '--resume')[1]['accuracy'][
        'map50'
    ] == pytest.approx(1)
    assert '2x2 of 128x128 at scale 1.00, 4 passes' in capsys.readouterr().err


def test_a_missed_limit_sets_the_exit_status(tmp_path, bundle, capsys):
    bag = write_bag(tmp_path / 'bag', [1, 5])
    assert evaluate(tmp_path, bundle, bag, '--fail-under', 'map50=1.01')[0] == 3
    assert 'at least 1.01 was wanted' in capsys.readouterr().err


def test_a_bag_that_fails_is_told_and_the_rest_goes_on(tmp_path, bundle, capsys):
    good = write_bag(tmp_path / 'good', [1, 5])
    (tmp_path / 'broken.mcap').write_bytes(b'no bag')
    status, report = evaluate(tmp_path, bundle, tmp_path / 'broken.mcap', good)
    assert status == 1
    assert [failure['bag'] for failure in report['failures']] == ['broken.mcap']
    assert report['accuracy']['map50'] == pytest.approx(1)
    assert 'broken.mcap failed' in capsys.readouterr().err


def test_without_ground_truth_there_is_latency_only(tmp_path, bundle):
    status, report = evaluate(tmp_path, bundle, write_bag(tmp_path / 'bag', [1, 5], truth=False))
    assert status == 0
    assert report['accuracy'] is None
    assert report['latency']['stages_ms']['infer']['p50'] > 0


def test_detections_are_written_back_beside_the_images(tmp_path, bundle):
    bag = write_bag(tmp_path / 'bag', [1, 5])
    evaluate(tmp_path, bundle, bag, '--write-bag')
    written = tmp_path / 'out' / 'bag_detections'
    found = read_detections(written, '/detections')
    np.testing.assert_allclose(found[2 * PERIOD].boxes, CELLS[[5]])
    assert open_bag(written, '/image').count == 2


def results(outcomes) -> list[tuple]:
    """What must not depend on who did the work: everything but the times."""
    return [
        (o.name, o.sha256, [(f.stamp_ns, f.detections) for f in o.frames]) if isinstance(o, BagResult) else o.name
        for o in outcomes
    ]


@pytest.fixture
def jobs(tmp_path, bundle):
    bags = [write_bag(tmp_path / f'bag{index}', [index, index + 1, 15]) for index in range(3)]
    return [Job(bag, bundle, threads=1) for bag in [*bags, tmp_path / 'missing']]


def test_processes_give_the_same_in_the_same_order(jobs):
    done = []
    expected = results(run_jobs(jobs))
    assert results(run_jobs(jobs, workers=2, on_done=done.append)) == expected
    assert len(done) == 4
    assert expected[-1] == 'missing'


def test_a_dask_cluster_of_two_workers_gives_the_same(jobs):
    distributed = pytest.importorskip('distributed')
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        outcomes = list(run_jobs(jobs, scheduler=cluster.scheduler_address))
    assert results(outcomes) == results(run_jobs(jobs))
    assert isinstance(outcomes[-1], BagFailure)


def test_no_scheduler_at_the_address_is_one_clear_line(tmp_path, bundle, capsys):
    bag = write_bag(tmp_path / 'bag', [1])
    arguments = [
        'evaluate',
        str(bag),
        '--bundle',
        str(bundle),
        '--out',
        str(tmp_path / 'o'),
        '--scheduler',
        'tcp://127.0.0.1:9',
    ]
    assert main(arguments) == 1
    assert 'no Dask scheduler answers at tcp://127.0.0.1:9' in capsys.readouterr().err


def test_resume_runs_only_what_is_missing(tmp_path, bundle):
    bag = write_bag(tmp_path / 'bag', [1, 5, 9])
    journal = tmp_path / 'j.jsonl'
    (whole,) = run_jobs([Job(bag, bundle, journal=journal)])
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text(''.join(lines[:3]))  # the header and two of three frames
    (resumed,) = run_jobs([Job(bag, bundle, journal=journal, resume=True)])
    assert [f.detections for f in resumed.frames] == [f.detections for f in whole.frames]
    assert [f.times for f in resumed.frames[:2]] == [f.times for f in whole.frames[:2]]
    assert resumed.frames[2].times != whole.frames[2].times


def test_a_full_disk_is_one_clear_line(tmp_path, bundle):
    bag = write_bag(tmp_path / 'bag', [1, 5, 9])
    journal = tmp_path / 'j.jsonl'
    journal.with_suffix('.part').symlink_to('/dev/full')  # what the journal is first written to
    (outcome,) = run_jobs([Job(bag, bundle, journal=journal)])
    assert isinstance(outcome, BagFailure)
    assert 'j.jsonl cannot be written: No space left' in outcome.reason


def test_ground_truth_is_clipped_to_the_image_and_what_has_no_frame_is_counted(tmp_path, bundle):
    bag = write_bag(tmp_path / 'bag', [1], truth=False)
    with BagWriter(tmp_path / 'truth') as writer:
        writer.image('/image', PERIOD, image_with_cells(0))
        outside = np.array([[-20, -20, 16, 16], [70, 70, 90, 90], [10, 10, 10, 30]], np.float32)
        writer.detections('/ground_truth', PERIOD, Detections(outside, np.ones(3), np.zeros(3)))
        writer.detections('/ground_truth', 9 * PERIOD, Detections.empty())
    (result,) = run_jobs([Job(tmp_path / 'truth', bundle)])
    assert result.truth[PERIOD].objects.boxes.tolist() == [[0, 0, 16, 16]]
    assert result.unmatched_truth == 1
    (result,) = run_jobs([Job(bag, bundle)])
    assert (result.truth, result.unmatched_truth) == ({}, 0)


def test_stamps_that_nearly_match_are_joined_within_the_tolerance(tmp_path, bundle, capsys):
    with BagWriter(tmp_path / 'bag') as writer:
        for k, off_ms in ((1, 0), (2, 3), (3, 30)):
            writer.image('/image', k * PERIOD, image_with_cells(1))
            cell = Detections(CELLS[[1]], np.ones(1), np.zeros(1))
            writer.detections('/ground_truth', k * PERIOD + off_ms * 1_000_000, cell)
    images = [
        evaluate(tmp_path / str(tolerance), bundle, tmp_path / 'bag', '--tolerance', tolerance)[1]['accuracy']['images']
        for tolerance in (1, 5, 40)
    ]
    assert images == [1, 2, 3]
    assert '2 stamps of ground truth found no image' in capsys.readouterr().out


def test_reading_ahead_changes_nothing(tmp_path, bundle):
    bag = write_bag(tmp_path / 'bag', list(range(15)))
    assert results(run_jobs([Job(bag, bundle, ahead=4)])) == results(run_jobs([Job(bag, bundle)]))


def test_tiles_that_nobody_can_read_end_with_a_line(tmp_path, bundle, capsys):
    assert main(['evaluate', str(tmp_path / 'bag'), '--bundle', str(bundle), '--tiles', '2by2']) == 1
    assert 'off, auto, or COLUMNSxROWS' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (['--fail-under', 'beauty=1'], 'FIGURE=NUMBER'),
        (['--fail-over', 'p95_ms=quick'], 'FIGURE=NUMBER'),
        (['--class-map', 'van'], 'THEIRS=OURS'),
    ],
)
def test_wrong_options_are_explained(tmp_path, bundle, capsys, arguments, says):
    with pytest.raises(SystemExit):
        main(['evaluate', str(tmp_path / 'bag'), *arguments])
    assert says in capsys.readouterr().err
