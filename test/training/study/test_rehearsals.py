"""Recipes on the drone photographs at the size of their rehearsals: S2 and S3 to their INT8, clutter, QAT."""

import csv
from dataclasses import replace

import pytest

pytest.importorskip('ultralytics')
pytestmark = [pytest.mark.filterwarnings('ignore'), pytest.mark.timeout(1800)]  # on a busy machine it takes its time

from kd_perception import engines  # noqa: E402
from kd_perception.bundles.bundle import load_bundle  # noqa: E402
from kd_perception.detection.detector import Detector  # noqa: E402
from training.__main__ import main  # noqa: E402
from training.data.aerial_traffic import CLASSES  # noqa: E402
from training.data.dataset import read_split  # noqa: E402
from training.run.recipe import load_recipe  # noqa: E402

ONE_THREAD = ('--threads', '1')
ONE_SEED = ('--seeds', '0', '--workers', '0', '--cell-threads', '1')


@pytest.fixture(scope='module')
def rehearse(repository, shared_data, tmp_path_factory):
    """Calls a command of `python -m training` on a recipe's rehearsal; most begin with the weights of `aerial_traffic`'s."""
    place = tmp_path_factory.mktemp('rehearsals')

    def call(*arguments):
        common = ('--rehearse', '--data', shared_data, '--out', place)
        assert main([str(argument) for argument in (*arguments, *common)]) == 0

    call('run', repository / 'training/recipes/aerial_traffic.yaml', '--until', 'finish', *ONE_THREAD)
    first = next(place.glob('aerial_traffic_rehearsal/train-finish-*/weights.pt'))
    return lambda *arguments, begin=True: call(*arguments, *(('--set', f'weights.v8={first}') if begin else ()))


def arms_of(cells):
    """Those that have a result in a study's CSV file."""
    with cells.open() as file:
        return {row['arm'] for row in csv.DictReader(file)}


@pytest.mark.parametrize('system', ['s2_aerial', 's3_aerial'])
def test_the_recipe_becomes_a_bundle_that_detects_and_its_arms_a_page(
    system, rehearse, repository, shared_data, tmp_path
):
    recipe = repository / f'training/recipes/{system}.yaml'
    rehearse('run', recipe, '--target', tmp_path, *ONE_THREAD)
    bundle = load_bundle(tmp_path)
    assert (bundle.name, bundle.classes) == (f'{system}_rehearsal', CLASSES)
    assert [artifact.precision for artifact in bundle.artifacts] == ['int8', 'fp32']
    photograph = next(read_split(shared_data / 'aerial_traffic', 'val')).image
    for artifact in bundle.artifacts:
        thresholds = replace(bundle.thresholds, score=0.0)
        detector = Detector(bundle, engines.load(bundle, artifact), thresholds)
        assert len(detector.detect(photograph)[0]) > 0
        detector.close()

    page = tmp_path / 'study.md'
    rehearse('study', 'paired', recipe, *ONE_SEED, '--against', 'gflops', '--report', page)
    assert arms_of(tmp_path / 'study_cells.csv') == set(load_recipe(recipe).study.arms)
    assert 'train-finish' in (tmp_path / 'study_map50_over_gflops.svg').read_text()


def test_cells_of_s3_are_measured_in_int8(rehearse, repository, tmp_path):
    recipe = repository / 'training/recipes/s3_aerial.yaml'
    rehearse(
        'study', 'paired', recipe, *ONE_SEED, '--arms', 'distilled'
    )  # done already, but where this test runs alone
    networks = ('--networks', f'distilled={recipe}', '--qat-stage', 'tuned', '--images', '2')
    report = ('--arms', 'head_float', 'qat', '--report', tmp_path / 'int8.md')
    rehearse('study', 'int8', 'aerial_traffic', *networks, *ONE_SEED, *report)
    assert arms_of(tmp_path / 'int8_cells.csv') == {'distilled fp32', 'distilled head_float', 'distilled qat'}


def test_clutter_and_coarser_classes(rehearse, repository, tmp_path):
    recipe = repository / 'training/recipes/aerial_traffic_clutter.yaml'
    rehearse('run', recipe, '--target', tmp_path, *ONE_THREAD, begin=False)
    bundle = load_bundle(tmp_path)
    assert bundle.classes == ('car', 'large_vehicle', 'cyclist')
    assert bundle.covers['large_vehicle'] == ('truck', 'bus', 'minibus')
    assert bundle.thresholds.is_class_agnostic


def test_a_network_trains_as_int8_computes_with_a_teacher(rehearse, repository, tmp_path):
    rehearse('run', repository / 'training/recipes/qat_aerial.yaml', '--target', tmp_path, *ONE_THREAD)
    bundle = load_bundle(tmp_path)
    assert [artifact.precision for artifact in bundle.artifacts] == ['int8', 'fp32']
    assert bundle.provenance['steps']['train rounded']['result']['steps'] == 3
