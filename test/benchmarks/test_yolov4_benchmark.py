"""The benchmark of YOLOv4 and its light variants: what it builds, and its table."""

import json
import sys

import pytest

pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

from benchmarks import yolov4  # noqa: E402


def test_networks_and_precisions_in_one_table(tmp_path, monkeypatch, capsys):
    arguments = ['--networks', 'RV-YOLO light', 'M-YOLO light', '--size', '64', '64', '--rounds', '2', '--classes', '4']
    monkeypatch.setattr(sys, 'argv', ['yolov4', *arguments, '--out', str(tmp_path)])
    assert yolov4.main() == 0
    assert '| M-YOLO light | int8 |' in capsys.readouterr().out
    rows = json.loads((tmp_path / 'yolov4.json').read_text())['rows']
    assert [row['network'] for row in rows] == ['RV-YOLO light'] * 2 + ['M-YOLO light'] * 2
    assert rows[0]['times_quicker'] == 1
    assert rows[2]['times_smaller'] > 1.2
    assert rows[3]['file_mib'] < 0.4 * rows[2]['file_mib']


def test_a_size_off_the_stride_is_an_error_message(tmp_path, monkeypatch, capsys):
    arguments = ['--networks', 'M-YOLO light', '--size', '100', '64', '--out', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', ['yolov4', *arguments])
    assert yolov4.main() == 1
    assert 'multiple of the largest stride' in capsys.readouterr().err
