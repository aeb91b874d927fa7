"""The benchmark of pruned structures: what it builds, and its table."""

import json
import sys

import pytest

pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning:torch', 'ignore:You are using the legacy')

import yaml  # noqa: E402
from tiny_detectors import architecture  # noqa: E402

from benchmarks import pruning  # noqa: E402


def test_whole_and_pruned_networks_in_one_table(tmp_path, monkeypatch, capsys):
    (tmp_path / 'tiny.yaml').write_text(yaml.safe_dump(architecture()))
    arguments = ['--architecture', str(tmp_path / 'tiny.yaml'), '--size', '64', '64', '--rounds', '3']
    arguments += ['--round-to', '4', '--activations', 'silu', '--out', str(tmp_path / 'out')]
    monkeypatch.setattr(sys, 'argv', ['pruning', *arguments])
    assert pruning.main() == 0
    assert '| silu | whole | – | fp32 |' in capsys.readouterr().out
    rows = json.loads((tmp_path / 'out' / 'pruning.json').read_text())['rows']
    assert [(row['ratio'], row['precision']) for row in rows] == [
        (0.0, 'fp32'),
        (0.0, 'int8'),
        (0.5, 'fp32'),
        (0.5, 'int8'),
    ]
    assert rows[0]['times_quicker'] == 1
    assert rows[2]['parameters_change'] < -0.6
    assert rows[2]['gflops'] < 0.5 * rows[0]['gflops']


def test_an_unknown_architecture_is_an_error_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['pruning', '--architecture', 'yolov8q.yaml', '--out', str(tmp_path)])
    assert pruning.main() == 1
    assert "no architecture of Ultralytics is named 'yolov8q.yaml'" in ' '.join(capsys.readouterr().err.split())
