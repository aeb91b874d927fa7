"""The INT8 study on a tiny network, in this process."""

import csv
import json
import shutil

import numpy as np
import pytest

pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

import torch  # noqa: E402
from networks import artifact_entry, bundle_document  # noqa: E402

from kd_perception.bundles.bundle import write_bundle  # noqa: E402
from training.__main__ import main  # noqa: E402
from training.data.dataset import LabeledImage, ground_truth, write_split  # noqa: E402
from training.errors import StudyError  # noqa: E402
from training.export.onnx_export import export  # noqa: E402
from training.models.weights import build_network, save_weights  # noqa: E402
from training.study.int8 import FLOAT, arms_of, networks_of  # noqa: E402
from training.study.int8_page import Findings, Measuring, difference_table, network_table  # noqa: E402
from training.study.plan import Result  # noqa: E402

CLASSES = ('car', 'truck', 'bus')
WIDTH, HEIGHT = 64, 64
ARCHITECTURE = {
    'scales': {'z': [0.33, 0.125, 256]},
    'backbone': [[-1, 1, 'Conv', [64, 3, 2]], [-1, 1, 'Conv', [128, 3, 2]], [-1, 1, 'Conv', [256, 3, 2]]],
    'head': [[[2], 1, 'Detect', ['nc']]],
}


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    network = build_network(ARCHITECTURE, CLASSES).eval()
    network.model[-1].cv3[0][-1].bias.data.zero_()
    return network


@pytest.fixture(scope='module')
def bundle(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp('bundles') / 'tiny'
    export(network, WIDTH, HEIGHT, folder / 'fp32.onnx')
    size = {**bundle_document()['input'], 'width': WIDTH, 'height': HEIGHT}
    artifacts = [artifact_entry(folder, 'fp32.onnx')]
    write_bundle(folder, bundle_document(classes=list(CLASSES), input=size, artifacts=artifacts))
    return folder


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
    images = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(2)]
    items = [LabeledImage(f'{k}', image, ground_truth([[8, 8, 32, 32]], [0])) for k, image in enumerate(images)]
    for split in ('train', 'val'):
        write_split(folder, split, list(CLASSES), items)
    return folder


def study(dataset, out, *options):
    common = ('--workers', '0', '--cell-threads', '1', '--images', '2', '--out', str(out), '--recall', '0.5')
    return main(['study', 'int8', str(dataset), *common, *map(str, options)])


def cells(out, network):
    folder = next(out.glob('int8_*')) / network / 'cells'
    return {file.stem: file for file in folder.glob('*.json')}


def test_every_arm_of_every_network_is_a_cell_and_what_is_done_stays(bundle, dataset, network, tmp_path, capsys):
    save_weights(network, tmp_path / 'trained.pt', CLASSES)
    given = ('--networks', f'one={bundle}', f'two@0={bundle}', '--qat', f'two@0={tmp_path / "trained.pt"}')
    page = tmp_path / 'docs' / 'int8.md'
    arms = ('--arms', 'per_tensor', 'mixed', 'qat', '--mixed-layers', '1', '--report', page)
    assert study(dataset, tmp_path, *given, *arms, '--dry-run') == 0
    assert capsys.readouterr().out.count('to do') == 7
    assert study(dataset, tmp_path, *given, *arms) == 0
    done = {file: file.stat().st_mtime_ns for name in ('one', 'two') for file in cells(tmp_path, name).values()}
    assert {file.stem for file in done} == {f'{arm}_seed0' for arm in (FLOAT, 'per_tensor', 'mixed', 'qat')}
    assert len(done) == 7, 'the first network has no weights of QAT'
    kept = json.loads(cells(tmp_path, 'two')['qat_seed0'].read_text())
    assert {'map', 'precision_at_recall', 'at_recall_false_alarms', 'false_alarms', 'd_ece'} <= kept['metrics'].keys()
    text = page.read_text()
    for says in ('# INT8 on', '## Precision at recall 0.5', '| qat | – | ', '](int8_reliability.png)', 'cells: 7 of 7'):
        assert says in text
    assert {file.suffix for file in page.parent.glob('int8_precision_recall.*')} == {'.png', '.svg'}
    with page.with_name('int8_cells.csv').open() as stream:
        assert {row['arm'] for row in csv.DictReader(stream)} >= {'one fp32', 'two qat'}
    assert study(dataset, tmp_path, *given, *arms) == 0
    assert {file: file.stat().st_mtime_ns for file in done} == done


def test_simulated_arms_run_where_they_are_named(bundle, dataset, tmp_path, capsys):
    given = ('--networks', f'one={bundle}')
    assert study(dataset, tmp_path, *given, '--dry-run') == 0
    assert 'w6a6' not in capsys.readouterr().out
    assert study(dataset, tmp_path, *given, '--arms', 'w6a6', 'w5a5_per_tensor') == 0
    assert cells(tmp_path, 'one').keys() == {'fp32_seed0', 'w6a6_seed0', 'w5a5_per_tensor_seed0'}


def test_weights_that_were_not_trained_give_what_min_max_gives(bundle, dataset, network, tmp_path):
    """The arm of QAT quantizes by the ranges that training began with: without training it is the arm `head_float`."""
    save_weights(network, tmp_path / 'w.pt', CLASSES)
    given = ('--networks', f'one={bundle}', '--qat', f'one={tmp_path / "w.pt"}', '--arms', 'head_float', 'qat')
    assert study(dataset, tmp_path, *given) == 0
    plain, trained = (
        json.loads(cells(tmp_path, 'one')[f'{arm}_seed0'].read_text())['metrics'] for arm in ('head_float', 'qat')
    )
    assert trained == pytest.approx(plain, nan_ok=True)


def test_another_network_is_measured_anew(bundle, dataset, tmp_path):
    mine = shutil.copytree(bundle, tmp_path / 'mine')
    given = ('--networks', f'one={mine}', '--arms', FLOAT)
    assert study(dataset, tmp_path, *given) == 0
    first = cells(tmp_path, 'one')['fp32_seed0'].stat().st_mtime_ns
    document = bundle_document(classes=list(CLASSES), thresholds={'score': 0.2, 'iou': 0.5})
    document['input'] |= {'width': WIDTH, 'height': HEIGHT}
    write_bundle(mine, {**document, 'artifacts': [artifact_entry(mine, 'fp32.onnx')]})
    assert study(dataset, tmp_path, *given) == 0
    assert cells(tmp_path, 'one')['fp32_seed0'].stat().st_mtime_ns > first


def test_a_network_that_fails_does_not_stop_the_others(bundle, dataset, tmp_path, capsys):
    (tmp_path / 'w.pt').write_bytes(b'no weights')
    given = ('--networks', f'one={bundle}', '--qat', f'one={tmp_path / "w.pt"}', '--arms', 'qat')
    assert study(dataset, tmp_path, *given) == 1
    assert 'one: qat, seed 0: WeightsError' in capsys.readouterr().err
    assert '## Failed' in (next(tmp_path.glob('int8_*')) / 'int8.md').read_text()


@pytest.mark.parametrize(
    ('given', 'trained', 'says'),
    [
        (['teacher'], [], 'neither NAME=PATH nor'),
        (['a@x=b'], [], 'neither NAME=PATH nor'),
        (['a=b', 'a@0=c'], [], 'a@0 is given twice'),
        (['distilled@1=b'], ['distilled@0=w'], 'weights of distilled@0, but no such network: did you mean'),
    ],
)
def test_networks_in_another_form_are_refused(given, trained, says):
    with pytest.raises(StudyError, match=says):
        networks_of(given, trained)


def test_an_unknown_arm_is_answered_with_the_nearest(bundle, dataset, tmp_path, capsys):
    assert study(dataset, tmp_path, '--networks', f'one={bundle}', '--arms', 'entropi') == 1
    assert "no arm 'entropi': did you mean 'entropy'" in capsys.readouterr().err


def test_arms_are_one_change_each():
    arms = arms_of(3)
    plain = arms['per_channel']
    assert (arms['per_tensor'].per_channel, plain.per_channel) == (False, True)
    assert (arms['head_float'].last_convolutions_float, plain.last_convolutions_float) == (True, False)
    assert arms['mixed'].mixed.most_layers == 3


def result(arm, seed, value):
    return Result(arm, seed, {'map': value})


def test_tables_pair_networks_by_seed_within_an_arm():
    results = {
        'teacher': [result('fp32', 0, 0.75)],
        'student': [result('fp32', seed, 0.25) for seed in (0, 1, 2)],
        'distilled': [result('fp32', seed, 0.5 + 0.001 * seed) for seed in (0, 1, 2)],
    }
    findings = Findings(results, {}, Measuring(dataset=None), 'student')
    assert network_table(findings, 'map').splitlines()[2] == '| fp32 | 0.75 | 0.25 ± 0 | 0.501 ± 0.001 |'
    teacher, distilled = difference_table(findings, 'map').splitlines()[2:]
    assert teacher == '| fp32 | teacher | +0.5 | 1 | one pair: no interval |'
    assert distilled.startswith('| fp32 | distilled | +0.251 [+0.249, +0.253] | 3 | above ✔ |')
