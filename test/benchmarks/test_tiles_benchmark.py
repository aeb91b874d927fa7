"""The benchmark of tiles: mosaics carry their objects along, and whole frame and grids stand side by side."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip('torch')

from networks import make_bundle

from benchmarks import tiles
from kd_perception.detection.detections import Detections
from training.data.dataset import LabeledImage, write_split


def photograph(name: str, x: int, y: int) -> LabeledImage:
    """128 × 128 with one white square, a quarter of a cell when the network sees it whole."""
    image = np.zeros((128, 128, 3), np.uint8)
    image[y : y + 16, x : x + 16] = 255
    return LabeledImage(name, image, Detections([[x, y, x + 16, y + 16]], np.ones(1), np.zeros(1)))


def test_objects_move_with_their_photographs():
    made = tiles.mosaic([photograph('a', 0, 16), photograph('b', 32, 0), photograph('c', 48, 64)], columns=1)
    assert made.image.shape == (384, 128, 3)
    assert made.objects.boxes.tolist() == [[0, 16, 16, 32], [32, 128, 48, 144], [48, 320, 64, 336]]
    for x1, y1, x2, y2 in made.objects.boxes.astype(int):
        assert made.image[y1:y2, x1:x2].min() == 255


def test_whole_frame_and_grids_side_by_side(tmp_path, monkeypatch, capsys):
    make_bundle(tmp_path / 'cells')
    photographs = [photograph(name, 32, 80) for name in 'ab']
    write_split(tmp_path / 'data' / 'squares', 'val', ('bright', 'blue'), photographs)
    arguments = ['--model', str(tmp_path / 'cells'), '--data', str(tmp_path / 'data'), '--dataset', 'squares']
    arguments += ['--class', 'bright', '--grids', 'off', '2x2', '--overlap', '0', '--rounds', '1']
    arguments += ['--mosaic', '2x1', '--mosaic-grids', 'off', '4x2', '--out', str(tmp_path / 'out')]
    monkeypatch.setattr(sys, 'argv', ['tiles', *arguments])
    assert tiles.main() == 0
    assert '**2 of 128x128**' in capsys.readouterr().out
    results = json.loads((tmp_path / 'out' / 'tiles.json').read_text())
    assert [frames['title'] for frames in results['frames']] == ['2 of 128x128', '1 of 256x128, of 2 photographs each']
    for frames in results['frames']:
        whole, tiled = frames['rows']
        assert whole['accuracy']['map50'] < 0.1
        assert tiled['accuracy']['map50'] > 0.99
        assert tiled['ms'] > 0
    assert [row['passes'] for row in results['frames'][1]['rows']] == [[1], [8]]


def test_a_grid_that_nobody_can_read_is_an_error_message(tmp_path, monkeypatch, capsys):
    make_bundle(tmp_path / 'cells')
    write_split(tmp_path / 'squares', 'val', ('bright', 'blue'), [photograph('a', 0, 0)])
    arguments = ['--model', str(tmp_path / 'cells'), '--data', str(tmp_path), '--dataset', 'squares']
    monkeypatch.setattr(sys, 'argv', ['tiles', *arguments, '--grids', 'off', 'two', '--out', str(tmp_path / 'out')])
    assert tiles.main() == 1
    assert 'off, auto, or COLUMNSxROWS' in capsys.readouterr().err
