"""Public networks become bundles in one command and are as accurate as they are known to be."""

from __future__ import annotations

import pytest

pytest.importorskip('torch')

from benchmarks import foreign_networks
from kd_perception.bundles.foreign.class_names import COCO

LEAST = {'yolox_nano.onnx': 0.32, 'nanodet_m_416.onnx': 0.24, 'FastestDet.onnx': 0.19, 'yolo-fastest-1.1-xl.cfg': 0.2}
"""mAP50-95 on the first 64 images of COCO val2017."""


@pytest.fixture
def models(shared_data):
    folder = shared_data.parent / 'models'
    if not folder.is_dir():
        pytest.skip(f'no public networks at {folder}')
    return folder


@pytest.mark.parametrize('file', LEAST)
def test_what_a_public_network_finds(models, shared_data, file):
    row = foreign_networks.measure(models / file, shared_data / 'coco_sample', COCO, threads=1)
    assert not row.refusal
    assert row.map >= LEAST[file]


def test_the_table_names_what_was_refused(tmp_path, shared_data, capsys):
    (tmp_path / 'picture.onnx').write_bytes(b'GIF89a')
    arguments = [str(tmp_path), str(shared_data / 'coco_sample'), '--out', str(tmp_path / 'out')]
    assert foreign_networks.main(arguments) == 0
    assert '| `picture.onnx` | refused: ' in capsys.readouterr().out
    assert (tmp_path / 'out' / 'foreign_networks.json').is_file()
