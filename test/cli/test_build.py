"""`kd_perception engine build` and `engine cache`."""

from __future__ import annotations

import sys

import pytest
from networks import make_bundle
from tensorrt_stand_in import CudaRuntime, tensorrt

from kd_perception.cli.main import main


@pytest.fixture(autouse=True)
def jetson(monkeypatch, tmp_path):
    monkeypatch.setenv('KD_PERCEPTION_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setitem(sys.modules, 'tensorrt', tensorrt('10.3.0'))
    monkeypatch.setattr('importlib.util.find_spec', lambda name: True)
    monkeypatch.setattr('kd_perception.engines.tensorrt.load_runtime', CudaRuntime)


def test_every_precision_is_built_listed_and_removed(tmp_path, capsys):
    make_bundle(tmp_path / 'bundle')
    assert main(['engine', 'build', str(tmp_path / 'bundle')]) == 0
    printed = capsys.readouterr()
    assert [line.split(' on ')[0] for line in printed.out.splitlines()] == [
        'bright_cells bright_cells.onnx in fp32',
        'bright_cells bright_cells.onnx in fp16',
    ]
    assert 'takes minutes, once' in printed.err
    assert main(['engine', 'cache']) == 0
    listed = capsys.readouterr().out
    assert 'tensorrt 10.3.0, gpu Orin, capability 8.7' in listed
    assert '2 engines kept' in listed
    assert main(['engine', 'cache', '--clear']) == 0
    assert '2 engines removed' in capsys.readouterr().out
    assert main(['engine', 'cache']) == 0
    assert '0 engines kept' in capsys.readouterr().out


def test_a_precision_that_cannot_be_had_is_an_error_with_the_reason(tmp_path, capsys):
    make_bundle(tmp_path / 'bundle')
    assert main(['engine', 'build', str(tmp_path / 'bundle'), '--precision', 'int8']) == 1
    assert 'runs an artifact of fp32 in fp32 or fp16 here, not in int8' in capsys.readouterr().err


def test_other_engines_are_proven_to_load(tmp_path, capsys):
    make_bundle(tmp_path / 'bundle')
    assert main(['engine', 'build', str(tmp_path / 'bundle'), '--engine', 'ncnn', '--precision', 'fp32']) == 0
    assert 'on ncnn: ready' in capsys.readouterr().out
