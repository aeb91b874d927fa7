"""Coarser classes for a finished bundle."""

import numpy as np
import pytest
from networks import image_with_cells, make_bundle

from kd_perception import engines
from kd_perception.bundles.bundle import load_bundle
from kd_perception.detection.detector import Detector
from kd_perception.engines.options import EngineOptions
from training.__main__ import main
from training.errors import ExportError
from training.export.regrouping import regroup

pytest.importorskip('onnxruntime')


def detections(bundle):
    detector = Detector(bundle, engines.load(bundle, bundle.artifacts[0], EngineOptions(threads=1)), bundle.thresholds)
    found = detector.detect(image_with_cells(1, 4))[0]
    detector.close()
    return found


def test_what_is_found_stays_and_has_the_coarser_name(tmp_path):
    fine = make_bundle(tmp_path / 'b')
    before = detections(fine)
    coarse = regroup(fine.folder, {'bright': 'light', 'blue': 'light'})
    after = detections(coarse)
    assert coarse.classes == ('light',)
    assert coarse.covers == {'light': ('bright', 'blue')}
    assert len(before) > 0
    assert np.array_equal(before.boxes, after.boxes)
    assert np.array_equal(before.scores, after.scores)
    assert set(after.class_ids) == {0}
    assert coarse.artifacts[0].metrics == {}


def test_a_class_that_covers_keeps_what_was_covered(tmp_path):
    bundle = make_bundle(tmp_path / 'b', covers={'blue': ['navy']})
    assert regroup(bundle.folder, {'bright': 'blue'}).covers == {'blue': ('bright', 'navy')}


@pytest.mark.parametrize(
    ('class_map', 'says'), [({'green': 'light'}, 'no class green'), ({'blue': 'blue'}, 'these are the classes')]
)
def test_maps_that_change_nothing_are_refused(tmp_path, class_map, says):
    bundle = make_bundle(tmp_path / 'b')
    with pytest.raises(ExportError, match=says):
        regroup(bundle.folder, class_map)
    assert load_bundle(bundle.folder) == bundle


def test_the_command(tmp_path, capsys):
    make_bundle(tmp_path / 'b')
    assert main(['regroup', str(tmp_path / 'b'), '--class-map', 'bright=light', 'blue=light']) == 0
    assert 'light; measure it anew' in capsys.readouterr().out
