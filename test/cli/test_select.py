"""`kd_perception select` prints what the node would run, and why."""

from __future__ import annotations

import json

import pytest
from networks import make_bundle

from kd_perception import engines
from kd_perception.cli.main import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, 'ENGINES', {'onnxruntime': engines.ENGINES['onnxruntime']})
    monkeypatch.setenv('KD_PERCEPTION_CACHE', str(tmp_path / 'cache'))
    make_bundle(tmp_path / 'cells')
    return str(tmp_path / 'cells')


def test_a_budget_that_fits_and_one_that_does_not(folder, capsys):
    assert main(['select', folder, '--budget', '60000']) == 0
    first = capsys.readouterr()
    assert 'timing bright_cells fp32 on onnxruntime' in first.err
    assert 'chosen: the most accurate that fits' in first.out
    assert main(['select', folder, '--budget', '0.0001']) == 2
    second = capsys.readouterr()
    assert second.err == '', 'what was measured is kept'
    assert 'none of 1 fits the budget' in second.out


def test_json(folder, capsys):
    assert main(['select', folder, '--json', '--alone', '--image', '320x240', '--threads', '1']) == 0
    document = json.loads(capsys.readouterr().out)
    (row,) = document['rows']
    assert (row['engine'], row['precision'], row['chosen'], row['map']) == ('onnxruntime', 'fp32', True, None)
    assert 0 < row['p50_ms'] <= row['p95_ms']


def test_a_refusal_is_one_line(folder, capsys):
    assert main(['select', folder, '--precision', 'int4']) == 1
    assert 'nothing of bright_cells can run here' in capsys.readouterr().err
