"""The pictures of a model card."""

import cv2
import numpy as np
import pytest

from benchmarks import card_pictures
from kd_perception.scene import Scene

BUNDLE = 'models/aerial_traffic_tiny'


@pytest.fixture
def flight(tmp_path):
    folder = tmp_path / 'flight'
    folder.mkdir()
    scene = Scene(0, 320, 240)
    for number in range(7):
        cv2.imwrite(str(folder / f'{number}.png'), scene.frame(number * 30).image)
    return folder


def test_a_row_for_each_folder(flight, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'sheet.jpg'
    command = ['card_pictures', BUNDLE, str(flight), str(flight), '--columns', '3', '--out', str(out)]
    monkeypatch.setattr('sys.argv', command)
    assert card_pictures.main() == 0
    width, height = card_pictures.CELL[0] + card_pictures.GAP, card_pictures.CELL[1] + card_pictures.GAP
    page = cv2.imread(str(out))
    assert page.shape == (2 * height, 3 * width, 3)
    assert f'{3 * width} x {2 * height}' in capsys.readouterr().out
    difference = np.abs(page[:height].astype(int) - page[height:])
    assert np.percentile(difference, 99) < 40  # the same pictures, but for JPEG


def test_pictures_are_spread_evenly(flight):
    assert [file.stem for file in card_pictures._spread(flight, 3)] == ['1', '3', '5']
    with pytest.raises(SystemExit, match='has 7 pictures, 8 are needed'):
        card_pictures._spread(flight, 8)
