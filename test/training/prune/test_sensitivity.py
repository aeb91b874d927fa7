"""Sensitivity: what does not matter shows no drift, what matters shows more the more of it goes."""

import csv

import pytest

torch = pytest.importorskip('torch')

from tiny_detectors import CLASSES, SIDE, detector  # noqa: E402

from training.__main__ import main  # noqa: E402
from training.errors import PruneError  # noqa: E402
from training.models import structure  # noqa: E402
from training.models.weights import save_weights  # noqa: E402
from training.prune.channels import groups  # noqa: E402
from training.prune.sensitivity import draw, output_drift, sensitivity, write_table  # noqa: E402
from training.prune.settings import PruneSettings  # noqa: E402

SETTINGS = PruneSettings(ratio=0.5, round_to=1)


def images():
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope='module')
def network():
    """A detector in which half of the channels of `model.1` are dead."""
    network = detector()
    normalization = network.model[1].bn
    normalization.weight.data[::2] = 0
    normalization.bias.data[::2] = 0
    return network


@pytest.fixture(scope='module')
def rows(network):
    return sensitivity(network, output_drift(network, images()), SETTINGS, (0.5, 0.75))


def test_every_group_is_pruned_alone_at_every_ratio(network, rows):
    structure.split(network)
    found = groups(network)
    assert [(row.layer, row.ratio) for row in rows] == [(group.name, r) for group in found for r in (0.5, 0.75)]
    assert all(row.removed == round(row.ratio * row.channels) for row in rows)
    assert all(0 < row.parameters < 0.5 for row in rows)


def test_dead_channels_show_no_drift(rows):
    half, more = (row for row in rows if row.layer == 'model.1.conv')
    assert half.value == pytest.approx(0, abs=1e-5)
    assert more.value > 0.01


def test_living_channels_show_it(rows):
    others = [row for row in rows if row.layer != 'model.1.conv']
    assert all(row.value > 1e-3 for row in others)


def test_any_measure_serves(network):
    rows = sensitivity(network, lambda pruned: float(pruned.model[0].conv.out_channels), SETTINGS, (0.5,))
    assert [row.value for row in rows if row.layer == 'model.0.conv'] == [4]
    assert {row.value for row in rows if row.layer != 'model.0.conv'} == {8}


def test_table_and_picture(rows, tmp_path):
    write_table(rows, tmp_path / 'sensitivity' / 'table.csv')
    with (tmp_path / 'sensitivity' / 'table.csv').open(newline='') as file:
        read = list(csv.DictReader(file))
    assert [(row['layer'], float(row['value'])) for row in read] == [(row.layer, row.value) for row in rows]
    draw(rows, tmp_path / 'sensitivity' / 'plot.png')
    assert (tmp_path / 'sensitivity' / 'plot.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('ratios', [(), (0.0,), (1.0,)])
def test_ratios_are_checked(network, ratios):
    with pytest.raises(PruneError, match='between 0 and 1'):
        sensitivity(network, lambda pruned: 0.0, SETTINGS, ratios)


@pytest.fixture
def folder(network, tmp_path):
    """Weights and a split of noise."""
    import cv2
    import numpy as np

    save_weights(network, tmp_path / 'weights.pt', CLASSES)
    (tmp_path / 'images' / 'val').mkdir(parents=True)
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 256, (48, 80, 3), np.uint8)
        cv2.imwrite(str(tmp_path / 'images' / 'val' / f'{number}.png'), image)
    return tmp_path


def test_the_command_leaves_table_and_picture(folder, capsys):
    arguments = ['prune-sensitivity', str(folder / 'weights.pt'), str(folder), '--images', '2', '--size', '64']
    arguments += ['--ratios', '0.5', '--results', str(folder / 'results')]
    assert main([*arguments, '--out', str(folder / 'out')]) == 0
    assert sorted(path.name for path in (folder / 'results').iterdir()) == ['sensitivity.csv', 'sensitivity.png']
    printed = capsys.readouterr().out
    assert '| layer | channels | drift at 50% | parameters at 50% |' in printed
    assert '| model.1.conv | 16 | 0.000 |' in printed


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (['--size', '50'], 'multiple of 32'),
        (['--split', 'test'], 'holds no image'),
        (['--ratios', '2'], 'between 0 and 1'),
    ],
)
def test_the_command_refuses_what_it_cannot_use(folder, change, message, capsys):
    arguments = ['prune-sensitivity', str(folder / 'weights.pt'), str(folder), '--size', '64', *change]
    assert main([*arguments, '--out', str(folder / 'out')]) == 1
    assert message in capsys.readouterr().err
