"""An engine's self-test: what it runs, what it calls a failure, and what is printed to be reported."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import onnx
import pytest
from networks import artifact_entry, bright_cells, bundle_document, image_with_cells, make_bundle
from onnx import helper, numpy_helper
from tensorrt_stand_in import CudaRuntime, tensorrt

from kd_perception.benchmark.parity import Parity
from kd_perception.bundles.bundle import write_bundle
from kd_perception.cli.main import main
from kd_perception.doctor import self_test as module
from kd_perception.doctor.self_test import TOLERANCES, self_test
from kd_perception.errors import EngineError


@pytest.fixture(autouse=True)
def few_frames(monkeypatch):
    monkeypatch.setattr(module, 'TIMED_FRAMES', 3)


@pytest.fixture
def jetson(monkeypatch, tmp_path):
    monkeypatch.setenv('KD_PERCEPTION_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setitem(sys.modules, 'tensorrt', tensorrt('10.3.0'))
    monkeypatch.setattr('importlib.util.find_spec', lambda name: True)
    monkeypatch.setattr('kd_perception.engines.tensorrt.load_runtime', CudaRuntime)


def sharp(folder):
    """`bright_cells` that finds something in a scene."""
    return make_bundle(folder, thresholds={'score': 0.2, 'iou': 0.5})


def test_tensorrt_runs_in_both_precisions_and_says_how_long_it_built(tmp_path, jetson):
    said = []
    result = self_test('tensorrt', sharp(tmp_path), said.append)
    assert result.passed
    assert [run.precision for run in result.runs] == ['fp32', 'fp16']
    assert all(run.parity.reference > 10 and run.p95_ms >= run.p50_ms > 0 for run in result.runs)
    assert 'takes minutes' in said[0]
    text = result.text()
    assert 'tensorrt on bright_cells: passed' in text
    assert 'TensorRT on Orin (8.7); tensorrt 10.3.0' in text
    assert json.loads(json.dumps(result.as_json()))['passed'] is True


def test_an_engine_that_sees_something_else_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'compare', lambda expected, found: Parity(10, 1, 0, 0.0, 1.0))
    result = self_test('ncnn', sharp(tmp_path))
    assert not result.passed
    assert '✘ onnxruntime/fp32 in fp32' in result.text()


def test_one_that_cannot_load_is_a_line_with_the_reason(tmp_path, jetson, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorrt', tensorrt('10.3.0', refuses=['parse']))
    result = self_test('tensorrt', sharp(tmp_path))
    assert not result.passed
    assert 'Unsupported operator Warp' in result.text()


@pytest.mark.parametrize(
    ('parity', 'precision', 'holds'),
    [
        (Parity(100, 0, 0, 0.0, 1.0), 'fp32', True),
        (Parity(0, 0, 0, 0.0, 1.0), 'fp32', False),
        (Parity(100, 1, 0, 0.0, 1.0), 'fp32', False),
        (Parity(100, 0, 1, 0.0, 1.0), 'fp32', False),
        (Parity(100, 0, 0, 0.01, 1.0), 'fp32', False),
        (Parity(100, 0, 0, 0.0, 0.9), 'fp32', False),
        (Parity(100, 3, 2, 0.05, 0.9), 'fp16', True),
        (Parity(100, 3, 3, 0.05, 0.9), 'fp16', False),
    ],
)
def test_limits(parity, precision, holds):
    assert TOLERANCES[precision].holds(parity) is holds


def test_a_bundle_without_fp32_has_nothing_to_compare_with(tmp_path):
    make_bundle(tmp_path)
    bundle = write_bundle(tmp_path, bundle_document(artifacts=[artifact_entry(tmp_path, 'bright_cells.onnx', 'int8')]))
    with pytest.raises(EngineError, match='nothing to compare with'):
        self_test('openvino', bundle)


def test_an_engine_that_takes_nothing_of_the_bundle_says_why(tmp_path, jetson):
    make_bundle(tmp_path)
    bundle = write_bundle(tmp_path, bundle_document(artifacts=[artifact_entry(tmp_path, 'bright_cells.onnx', 'int8')]))
    with pytest.raises(EngineError, match='can run nothing .* symmetric INT8 only'):
        self_test('tensorrt', bundle)


def test_the_command(tmp_path, capsys, jetson):
    bundle = sharp(tmp_path / 'bundle')
    assert main(['doctor', '--self-test', 'tensorrt', '--model', str(bundle.folder)]) == 0
    assert 'tensorrt on bright_cells: passed' in capsys.readouterr().out


def constant(folder, **score):
    """A bundle of one network for each precision, which finds one box with that score whatever it sees."""
    files = {}
    for precision, value in score.items():
        model = bright_cells()
        end = next(node for node in model.graph.node if node.output[0] == 'scores')
        end.op_type, end.input[:] = 'Add', ['nothing', 'certain']
        table = np.zeros((1, 16, 2), np.float32)
        table[0, 5, 0] = value
        zero = helper.make_node('Mul', ['bright', 'low'], ['nothing'])
        model.graph.node.insert(len(model.graph.node) - 2, zero)
        model.graph.initializer.append(numpy_helper.from_array(table, 'certain'))
        files[precision] = f'{precision}.onnx'
        folder.mkdir(exist_ok=True)
        onnx.save(model, folder / files[precision])
    entries = [artifact_entry(folder, file, precision) for precision, file in files.items()]
    return write_bundle(folder, bundle_document(artifacts=entries))


@pytest.mark.parametrize(
    ('fp32', 'int8', 'passed', 'says'),
    [
        (0.9, 0.9, True, ': passed'),
        (0.2, 0.2, True, 'compared from score 0.10 on'),
        (0.2, 0.0, False, 'of 4 detections 4 missing'),
        (0.0, 0.0, False, 'FAILED, nothing was compared'),
        (0.0, 0.9, False, 'the reference finds nothing, this run 4'),
    ],
)
def test_what_compared_nothing_is_not_green(tmp_path, fp32, int8, passed, says):
    result = self_test('onnxruntime', constant(tmp_path / 'bundle', fp32=fp32, int8=int8))
    assert result.passed is passed
    assert says in result.text()


def test_pictures_of_ones_own(tmp_path, capsys):
    bundle = make_bundle(tmp_path / 'bundle')
    cv2.imwrite(str(tmp_path / 'bright.png'), image_with_cells(3, 9))
    command = ['doctor', '--self-test', 'onnxruntime', '--model', str(bundle.folder)]
    assert main([*command, '--picture', str(tmp_path / 'bright.png')]) == 0
    assert 'of 2 detections 0 missing' in capsys.readouterr().out
    assert main([*command, '--picture', str(tmp_path / 'none.png')]) == 1
    assert '--picture' in capsys.readouterr().err
