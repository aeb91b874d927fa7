"""Thresholds by a rule: written by hand, and on a network whose second precision has lower scores."""

import hashlib

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip('torch')

from networks import CELLS, artifact_entry, bright_cells, bundle_document
from onnx import helper, numpy_helper

from kd_perception.bundles.bundle import load_bundle, write_bundle
from kd_perception.metrics.matching import Judged
from kd_perception.metrics.operating_point import operating_point
from training.__main__ import main
from training.data.dataset import LabeledImage, ground_truth, write_split
from training.errors import QuantizationError
from training.quantize.thresholds import STEPS, FalseAlarms, Recall

DIMMED = 0.8
"""What the second precision multiplies scores with."""


def judged(scores, right):
    order = np.argsort(-np.asarray(scores))
    return Judged(
        np.asarray(scores, float)[order],
        np.asarray(right, bool)[order],
        np.zeros(len(scores), np.int32),
        np.array([max(sum(right), 1)]),
        2,
    )


rows = st.lists(st.tuples(st.floats(0.0625, 1.0, width=32), st.booleans()), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(rows=rows, share=st.floats(0.05, 1))
def test_the_rule_of_recall_holds_at_the_rounded_threshold(rows, share):
    one = judged(*zip(*rows, strict=True))
    assume(one.right.any())
    threshold = Recall(share).threshold(one)
    assert operating_point(one, threshold).recall >= share - 1e-9
    assert operating_point(one, threshold + 1.001 / STEPS).recall < share


@settings(max_examples=60, deadline=None)
@given(rows=rows, per_image=st.floats(0, 5))
def test_the_rule_of_false_alarms_holds_at_the_rounded_threshold(rows, per_image):
    one = judged(*zip(*rows, strict=True))
    try:
        threshold = FalseAlarms(per_image).threshold(one)
    except QuantizationError:
        assert operating_point(one, float(one.scores[0])).false_alarms_per_image > per_image
        return
    assert operating_point(one, threshold).false_alarms_per_image <= per_image + 1e-9


@pytest.mark.parametrize(
    ('rule', 'value'), [(Recall, 0), (Recall, 1.1), (FalseAlarms, -1), (FalseAlarms, float('nan'))]
)
def test_values_that_mean_nothing_are_refused(rule, value):
    with pytest.raises(QuantizationError):
        rule(value)


@pytest.fixture
def bundle(tmp_path):
    """FP32, and an INT8 whose scores are lower."""
    folder = tmp_path / 'cells'
    folder.mkdir()
    model = bright_cells()
    onnx.save(model, folder / 'fp32.onnx')
    for node in model.graph.node:
        node.output[:] = ['undimmed' if name == 'scores' else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(DIMMED), 'dimmed'))
    model.graph.node.append(helper.make_node('Mul', ['undimmed', 'dimmed'], ['scores']))
    onnx.save(model, folder / 'int8.onnx')
    entries = [artifact_entry(folder, f'{precision}.onnx', precision) for precision in ('int8', 'fp32')]
    entries[0]['metrics'] = {'dataset': 'data/val', 'map50': 0.5, 'map': 0.5, 'recall': 0.1}
    return write_bundle(folder, bundle_document(artifacts=entries))


@pytest.fixture
def dataset(tmp_path):
    """One image of nine cells; the darker a cell, the lower its score. The two darkest of the bright ones are no objects."""
    image = np.zeros((64, 64, 3), np.uint8)
    shades = (250, 230, 210, 190, 170, 150)
    for shade, (x1, y1, x2, y2) in zip(shades, CELLS.astype(int), strict=False):
        image[y1:y2, x1:x2] = shade
    item = LabeledImage('image0', image, ground_truth(CELLS[:4].tolist(), [0] * 4))
    write_split(tmp_path / 'data', 'val', ['bright', 'blue'], [item])
    return tmp_path / 'data'


def points(folder):
    bundle = load_bundle(folder)
    return {artifact.precision: bundle.thresholds_of(artifact).score for artifact in bundle.artifacts}


def run(bundle, dataset, *options):
    return main(['thresholds', str(bundle.folder), str(dataset), *options, '--threads', '1'])


def test_int8_finds_what_the_float_network_finds(bundle, dataset, capsys):
    assert run(bundle, dataset, '--match', 'fp32') == 0
    found = points(bundle.folder)
    assert found['fp32'] == 0.5
    # All four objects and, at 0.5, two false alarms in float; INT8 needs no more than the fourth object's score.
    assert found['int8'] == pytest.approx(DIMMED * 190 / 255, abs=0.01)
    entry = load_bundle(bundle.folder).artifacts[0]
    rule = entry.thresholds['rule']
    assert (rule['kind'], rule['value'], rule['dataset'], rule['images']) == ('recall_of', 'fp32', 'data/val', 1)
    assert entry.metrics == {
        **bundle.artifacts[0].metrics,
        'recall': 1,
        'precision': 1,
        'score_threshold': found['int8'],
    }
    assert 'onnxruntime/int8 | 0.5 → ' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('rule', 'shade'), [(('--recall', '0.5'), 230), (('--recall', '1'), 190), (('--false-alarms', '1'), 170)]
)
def test_every_artifact_gets_the_threshold_of_the_rule(bundle, dataset, rule, shade):
    assert run(bundle, dataset, *rule) == 0
    found = points(bundle.folder)
    assert found['fp32'] == pytest.approx(shade / 255, abs=0.01)
    assert found['int8'] == pytest.approx(DIMMED * shade / 255, abs=0.01)


def test_a_dry_run_and_a_rule_that_cannot_be_obeyed_write_nothing(bundle, dataset, capsys):
    before = hashlib.sha256((bundle.folder / 'bundle.yaml').read_bytes()).hexdigest()
    assert run(bundle, dataset, '--recall', '0.5', '--dry-run') == 0
    assert run(bundle, dataset, '--match', 'w4') == 1
    assert 'has no artifact w4 that runs here; it has int8, fp32' in capsys.readouterr().err
    assert hashlib.sha256((bundle.folder / 'bundle.yaml').read_bytes()).hexdigest() == before
