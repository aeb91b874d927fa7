"""Bags whose ground truth has ids evaluate to figures that were computed by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from networks import CELLS, image_with_cells, make_bundle

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.bags.writer import BagWriter
from kd_perception.cli.main import main
from kd_perception.detection.detections import Detections
from kd_perception.report.tracking import judged_frame

PERIOD = 100_000_000


def write_bag(path, frames, seen=()):
    """`frames`: a frame each, cell → id of the object there; `seen`: the bright cells, where they are not those."""
    with BagWriter(path) as bag:
        for number, cells in enumerate(frames, 1):
            bag.image('/image', number * PERIOD, image_with_cells(*(seen or cells)))
            boxes = Detections(CELLS[list(cells)], np.ones(len(cells)), np.zeros(len(cells)))
            bag.detections('/ground_truth', number * PERIOD, boxes, ids=list(cells.values()))
    return path


def evaluate(tmp_path, *bags, options=()):
    bundle = make_bundle(tmp_path / 'bright_cells').folder
    out = tmp_path / 'out'
    command = ['evaluate', *map(str, bags), '--bundle', str(bundle), '--out', str(out), '--tracker', 'bytetrack']
    status = main([*command, *options])
    return status, json.loads((out / 'report.json').read_text())['tracking'], (out / 'report.html').read_text()


def test_objects_that_keep_their_ids(tmp_path):
    bag = write_bag(tmp_path / 'bag', [{0: 'a', 15: 'b'}] * 4)
    status, tracking, page = evaluate(tmp_path, bag, options=['--fail-under', 'hota=0.99', '--fail-under', 'mota=0.99'])
    assert status == 0
    assert (tracking['hota'], tracking['idf1'], tracking['mota']) == pytest.approx((1, 1, 1))
    assert (tracking['tracks'], tracking['objects']) == (2, 8)
    assert 'Tracking' in page


def test_one_track_over_two_objects(tmp_path):
    """A second object takes the first one's place: one track of four detections, two objects of two boxes each.

    Every detection: TPA = 2, FNA = 0, FPA = 2, so AssA = 1/2 and HOTA = √(1/2). IDTP = 2, IDFN = IDFP = 2: IDF1 = 1/2. No object
    ever changes its track: MOTA = 1.
    """
    bag = write_bag(tmp_path / 'bag', [{5: 'a'}] * 2 + [{5: 'b'}] * 2)
    _, tracking, _ = evaluate(tmp_path, bag)
    assert tracking['hota'] == pytest.approx(math.sqrt(1 / 2))
    assert tracking['idf1'] == pytest.approx(1 / 2)
    assert tracking['mota'] == pytest.approx(1)


def test_an_object_that_is_hidden_for_a_while_is_neither_missed_nor_a_false_alarm_there(tmp_path):
    """One object in six frames, in the middle two marked `ignore`; the detector sees it in all: four objects, four hits."""
    bag = write_bag(tmp_path / 'bag', [{5: 'a'}] * 2 + [{5: 'ignore'}] * 2 + [{5: 'a'}] * 2)
    _, tracking, _ = evaluate(tmp_path, bag)
    assert (tracking['objects'], tracking['tracks']) == (4, 1)
    assert (tracking['hota'], tracking['idf1'], tracking['mota']) == pytest.approx((1, 1, 1))


def test_outside_of_an_ignored_region_a_false_alarm_counts(tmp_path):
    """Two things seen in four frames; one is nobody's, and the ignored region lies elsewhere: MOTA = 1 − 4/4."""
    bag = write_bag(tmp_path / 'bag', [{0: 'a', 3: 'ignore'}] * 4, seen=(0, 15))
    _, tracking, _ = evaluate(tmp_path, bag)
    assert tracking['mota'] == pytest.approx(0)


def test_ids_of_two_bags_have_nothing_to_do_with_each_other(tmp_path):
    bags = [write_bag(tmp_path / name, [{5: '7'}] * 3) for name in ('one', 'two')]
    _, tracking, _ = evaluate(tmp_path, *bags)
    assert tracking['tracks'] == 2
    assert tracking['idf1'] == pytest.approx(1)
    assert [bag['bag'] for bag in tracking['bags']] == ['one', 'two']


def test_without_ids_nothing_is_said_but_why(tmp_path, capsys):
    status, tracking, _ = evaluate(tmp_path, write_bag(tmp_path / 'bag', [{5: ''}] * 2))
    assert status == 0
    assert tracking is None
    assert 'no ground truth with ids' in capsys.readouterr().err


def test_crowds_and_ignored_regions_are_not_judged():
    boxes = np.array([[0, 0, 10, 10], [100, 0, 200, 100], [300, 0, 310, 10]], np.float32)
    truth = GroundTruth(
        Detections(boxes[:2], np.ones(2), np.zeros(2), np.array([4, 5])),
        np.array([False, True]),
        np.array([[290, 0, 400, 100]], np.float32),
    )
    found = Detections(
        np.array([[0, 0, 10, 10], [120, 10, 140, 30], [300, 0, 310, 10], [500, 0, 510, 10]], np.float32),
        np.full(4, 0.9),
        np.zeros(4),
        np.array([1, 2, 3, 4]),
    )
    frame = judged_frame(truth, found)
    assert frame.truth_ids.tolist() == [4]
    assert frame.ids.tolist() == [1, 4]
