"""The benchmark of clutter: what is a false alarm, what was found, and that clutter moves no vehicle."""

import sys

import numpy as np
import pytest
from networks import make_bundle

from benchmarks import clutter
from kd_perception.detection.detections import Detections
from kd_perception.scene import SceneFrame

VEHICLES = [(0, 0, 20, 10), (50, 50, 70, 60)]


def test_alarms_overlap_no_vehicle_and_a_vehicle_is_found_once():
    truth, ignored = Detections(VEHICLES, np.ones(2), np.zeros(2)), np.array([(150, 0, 170, 10)], np.float32)
    frame = SceneFrame(np.zeros((200, 200, 3), np.uint8), truth, ignored, 0.0)
    # Right; once more; beside all vehicles; around one, by a quarter: an alarm; on one hardly seen.
    boxes = [(0, 0, 20, 10), (1, 0, 21, 10), (100, 100, 120, 110), (50, 50, 70, 90), (152, 0, 180, 10)]
    detections = Detections(boxes, np.array([0.9, 0.8, 0.4, 0.3, 0.9]), np.zeros(5))
    counts = [clutter.judged(detections, frame, score) for score in (0.25, 0.35, 0.5, 0.95)]
    assert counts == [clutter.Count(2, 1), clutter.Count(1, 1), clutter.Count(0, 1), clutter.Count(0, 0)]


def test_clutter_changes_the_picture_and_no_vehicle():
    bare, cluttered = (next(clutter.painted([70_000], density, 320, 240)) for density in (0.0, 2.0))
    assert np.array_equal(bare.truth.boxes, cluttered.truth.boxes)
    assert not np.array_equal(bare.image, cluttered.image)


def test_the_table_has_a_column_for_each_bundle_and_density(tmp_path, monkeypatch, capsys):
    pytest.importorskip('onnxruntime')
    make_bundle(tmp_path / 'cells')
    arguments = [str(tmp_path / 'cells'), '--scenes', '1', '--size', '320', '240']
    monkeypatch.setattr(sys, 'argv', ['clutter', *arguments])
    assert clutter.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].count('clutter 0') == lines[2].count('clutter 1.3') == 1
    assert [line.split(' | ')[0] for line in lines[4:]] == [f'| {score:g}' for score in clutter.SCORES]
