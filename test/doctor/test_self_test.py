"""An engine's self-test: what it runs, what it calls a failure, and what is printed to be reported."""

from __future__ import annotations

import json
import sys

import pytest
from networks import artifact_entry, bundle_document, make_bundle
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
