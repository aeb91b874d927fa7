"""The command line: a whole recipe in miniature, from photographs to a bundle that the runtime loads."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import numpy_helper

pytest.importorskip('ultralytics')

from kd_perception.bundles.bundle import load_bundle, write_bundle
from kd_perception.bundles.bundle_yaml import read
from kd_perception.machine.cores import physical_cores
from training.__main__ import main
from training.data.aerial_traffic import CLASSES
from training.data.dataset import LabeledImage, ground_truth, write_split
from training.errors import StudyError
from training.models.weights import load_network
from training.run import estimate
from training.run.plan import Plan
from training.run.recipe import load_recipe
from training.steps import Steps, digest
from training.study.recipe_cells import cell_bundle, cell_weights, run_cell

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::UserWarning')

REPOSITORY = Path(__file__).parents[3]
NETWORK = REPOSITORY / 'training/recipes/networks/yolo_w0125.yaml'
RECIPE = {
    'name': 'tiny',
    'validation': 'real',
    'data': {
        'real': {
            'format': 'aerial_traffic',
            'path': 'photographs',
            'tiles': {'size': 64, 'count': 8, 'car_px': [10, 20]},
        },
        'scenes': {'format': 'scenes', 'scenes': {'count': 4, 'size': 64}},
    },
    'fit': {
        'image_size': 64,
        'batch': 4,
        'steps': 3,
        'warmup_steps': 1,
        'precision': 'float32',
        'augment': {'mosaic': 0.5},
    },
    'stages': {
        'teacher': {'start': str(NETWORK), 'images': {'real': 8, 'scenes': 4}, 'fit': {'learning_rate': 0.01}},
        'sparse': {'start': 'teacher', 'images': {'real': 8}, 'sparsity': {'rate': 0.01}},
        'pruned': {'start': 'sparse', 'prune': {'ratio': 0.5}},
        'distilled': {
            'start': 'pruned',
            'teacher': 'teacher',
            'images': {'real': 4},
            'unlabelled': {'real': [4, 8]},
            'fit': {'unlabelled_batch': 4},
            'distill': {'terms': [{'loss': 'cwd', 'weight': 1}]},
        },
    },
    'export': {'width': 96, 'height': 64, 'parity_images': 1},
    'calibration': {'images': {'real': 2, 'scenes': 1}},
    'quantize': {'method': 'minmax'},
    'report': {'stages': ['teacher', 'distilled'], 'rounds': 3},
    'study': {
        'baseline': 'plain',
        'seeded': ['distilled'],
        'arms': {
            'cwd': {},
            'plain': {
                'stages.distilled.teacher': None,
                'stages.distilled.distill': None,
                'stages.distilled.unlabelled': None,
            },
        },
    },
    'bundle': {'description': 'A test.', 'licence': 'none', 'attribution': [], 'data': 'rectangles', 'method': 'none'},
}


@pytest.fixture
def photographs(tmp_path):
    """Two training photographs and one for validation, red rectangles on noise; returns the data root."""
    rng = np.random.default_rng(0)
    cars = [(40, 30, 70, 45), (100, 60, 130, 75)]
    for split, names in {'train': ('A-1', 'A-2'), 'val': ('B-1',)}.items():
        items = []
        for name in names:
            image = rng.integers(60, 120, (120, 180, 3), dtype=np.uint8)
            for x1, y1, x2, y2 in cars:
                image[y1:y2, x1:x2] = (0, 0, 255)
            items.append(LabeledImage(name, image, ground_truth(cars, [0, 0])))
        write_split(tmp_path / 'data/photographs', split, CLASSES, items)
    return tmp_path / 'data'


@pytest.fixture
def teachers_may_know_nothing(monkeypatch):
    """Three steps teach nobody; what this test asks is whether the stages fit together."""
    from training.run import fit

    monkeypatch.setattr(fit, 'LEAST_TEACHER_MAP', 0.0)


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / 'tiny.yaml'
    file.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return file


def options(tmp_path, photographs, out='out'):
    return ['--data', str(photographs), '--out', str(tmp_path / out), '--threads', '1']


def test_a_recipe_becomes_a_bundle_and_a_report(photographs, recipe, tmp_path, capsys, teachers_may_know_nothing):
    command = ['run', str(recipe), *options(tmp_path, photographs), '--target', str(tmp_path / 'bundle')]
    assert main([*command, '--dry-run']) == 0
    plan = capsys.readouterr().out
    steps, _, expected = plan.partition('\n\n')
    assert steps.count('to do') == len(steps.splitlines())
    assert re.search(r'real +aerial_traffic in .*photographs: there, about 8 training images', expected)
    assert re.search(r'distilled +4 images +3 steps +about +0\.5 GB +\d+\.\d (minutes|hours)', expected)
    assert main(command) == 0
    bundle = load_bundle(tmp_path / 'bundle')
    assert [artifact.precision for artifact in bundle.artifacts] == ['int8', 'fp32']
    assert (bundle.classes, bundle.input.width, bundle.input.height) == (CLASSES, 96, 64)
    assert all(artifact.measured_map is not None for artifact in bundle.artifacts)
    quantized, original = bundle.artifacts
    assert quantized.metrics['compared_with_float']['sha256'] == original.sha256
    assert (quantized.loss is not None, original.loss, original.metrics['objects']) == (True, None, 2)
    records = bundle.provenance['steps']
    assert all(step.keys() == {'result', 'key'} for step in records.values())
    assert bundle.provenance['parity'].keys() == {'fp32', 'int8'}
    assert records['prepare real']['result']['train'] == 8
    before, after = records['prune pruned']['result']['parameters']
    assert after < 0.6 * before
    assert len(records['quantize distilled']['result']['calibration_sha256']) == 64
    page = next((tmp_path / 'out/tiny').glob('report-*/stages.md')).read_text()
    assert '| teacher |' in page
    assert '| distilled |' in page
    assert next((tmp_path / 'out/tiny').glob('report-*/stages.png')).stat().st_size > 1000
    capsys.readouterr()

    assert main(command) == 0
    assert capsys.readouterr().out.count('done before with the same inputs') == len(steps.splitlines())

    measure = ['measure', str(tmp_path / 'bundle'), 'photographs', '--precision', 'fp32']
    assert main([*measure, *options(tmp_path, photographs)]) == 0
    assert '(1 images)' in capsys.readouterr().out

    document = read(tmp_path / 'bundle/bundle.yaml').values
    document['artifacts'][0]['metrics'] = {'dataset': 'another', 'map50': 0.5, 'map': 0.5}
    write_bundle(tmp_path / 'bundle', document)
    measure[-1] = 'int8'
    assert main([*measure, '--write', *options(tmp_path, photographs)]) == 0
    assert 'against the float network' in capsys.readouterr().out
    stated = load_bundle(tmp_path / 'bundle').artifacts[0].metrics
    assert stated == quantized.metrics | {'command': stated['command']}
    assert stated['command'].endswith('photographs --precision int8')


@pytest.mark.parametrize('system', ['s2_dtld_v5', 's1_rv_yolo_crd'])
def test_a_plan_of_a_full_recipe_needs_no_data(system, tmp_path, capsys, monkeypatch):
    """Networks are not timed here, a probe of one second an image stands for each."""
    monkeypatch.setattr(estimate, '_probe', lambda network, size, precision: estimate.Probe(1.0, 1e8, 1e9))
    recipe = REPOSITORY / f'training/recipes/{system}.yaml'
    where = ['--data', str(tmp_path / 'nowhere'), '--out', str(tmp_path), '--threads', '1']
    assert main(['run', str(recipe), '--dry-run', *where]) == 0
    plan = capsys.readouterr().out
    assert plan.count('MISSING') == {'s2_dtld_v5': 1, 's1_rv_yolo_crd': 3}[system]
    if system == 's2_dtld_v5':
        # 30 epochs of 228,200 tiles at a second each, and a third of one for the teacher's answer.
        assert re.search(r'teacher +228,200 images +427,875 steps +about +3\.1 GB +79\.2 days', plan)
        assert re.search(r'student +228,200 images +427,875 steps +about +4\.1 GB +105\.6 days', plan)
    assert main(['run', str(recipe), *where]) == 1
    assert 'no data at' in capsys.readouterr().err


def test_a_step_is_named_once_in_a_pipeline_and_anew_in_the_next(photographs, recipe, tmp_path):
    def planned() -> Plan:
        return Plan(load_recipe(recipe), photographs, Steps(tmp_path / 'out'))

    first = planned()
    assert first.weights('teacher') is first.weights('teacher')
    assert first.prepare('real') in first.weights('teacher').needs
    assert first.measure('teacher', 'fp32').key != first.measure('teacher', 'int8').key
    (photographs / 'photographs/labels/train/A-1.txt').write_text('')
    assert planned().prepare('real').key != first.prepare('real').key
    assert planned().prepare('scenes').key == first.prepare('scenes').key


def test_a_changed_entry_makes_anew_what_depends_on_it(photographs, recipe, tmp_path, capsys):
    command = ['run', str(recipe), *options(tmp_path, photographs), '--until', 'sparse']
    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, '--set', 'stages.sparse.sparsity.rate=0.02']) == 0
    lines = capsys.readouterr().out.splitlines()
    done = [line for line in lines if 'done before' in line]
    assert [line.split('] ')[1].split(':')[0] for line in done] == ['prepare real', 'prepare scenes', 'train teacher']


def test_a_teacher_that_finds_nothing_is_refused(photographs, recipe, tmp_path, capsys):
    assert main(['run', str(recipe), *options(tmp_path, photographs), '--target', str(tmp_path / 'bundle')]) == 1
    assert 'it cannot teach' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--until', 'distiled'], "no stage 'distiled'"),
        (['--set', 'stages.teacher.fit.stepps=3'], "did you mean 'steps'"),
        (['--set', 'data.real.path=nowhere'], 'nowhere does not exist'),
        (['--data', 'nowhere'], 'give --data FOLDER or set KD_DATA'),
    ],
)
def test_what_is_wrong_is_one_line(photographs, recipe, tmp_path, capsys, arguments, message):
    assert main(['run', str(recipe), *options(tmp_path, photographs), *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_arms_share_what_they_have_in_common(photographs, recipe, tmp_path, teachers_may_know_nothing):
    place = {'out': str(tmp_path / 'out'), 'data': str(photographs), 'threads': 1}
    arms = RECIPE['study']['arms']
    found = {arm: run_cell(str(recipe), arms[arm], 1, **place) for arm in arms}
    assert {'map50', 'map', 'parameters', 'gflops', 'map50 car'} <= found['cwd'].keys()
    made = [path.name.rsplit('-', 1)[0] for path in (tmp_path / 'out/tiny').iterdir() if path.is_dir()]
    assert (made.count('train-teacher'), made.count('prune-pruned'), made.count('train-distilled')) == (1, 1, 2)
    assert load_bundle(cell_bundle(recipe, 'cwd', 1, tmp_path / 'out', photographs)).artifact('onnxruntime', 'fp32')
    for arm, seed, says in (('cwd', 2, 'was not run: .* --arms cwd --seeds 2'), ('cvd', 1, "did you mean 'cwd'")):
        with pytest.raises(StudyError, match=says):
            cell_bundle(recipe, arm, seed, tmp_path / 'out', photographs)
    assert cell_weights(recipe, 'cwd', 'pruned', 1, tmp_path / 'out', photographs).is_file()
    with pytest.raises(StudyError, match='stages are teacher, sparse, pruned, distilled'):
        cell_weights(recipe, 'cwd', 'tuned', 1, tmp_path / 'out', photographs)


def test_a_study_is_judged_on_samples_of_the_pictures_once(
    photographs, recipe, tmp_path, capsys, teachers_may_know_nothing
):
    command = ['study', 'paired', str(recipe), '--seeds', '0', '--workers', '0', '--cell-threads', '1']
    command += ['--metric', 'map', '--resample', '20', *options(tmp_path, photographs)[:4]]
    for made in (2, 0):
        assert main(command) == 0
        printed = capsys.readouterr().out
        assert printed.count('resample distilled fp32 …') == made
    section = (tmp_path / 'out/tiny/study/report.md').read_text().partition('## map over test pictures')[2]
    found = re.search(r'\| cwd \| (\S+) \[(\S+), (\S+)\] \| 1 \|', section)
    assert found
    assert len(set(found.groups())) == 1  # of one photograph all samples are alike


def test_a_stage_trains_as_int8_will_compute_and_keeps_the_ranges_it_began_with(photographs, recipe, tmp_path):
    document = yaml.safe_load(recipe.read_text())
    document['stages'] = {
        'alone': {'start': str(NETWORK), 'images': {'real': 8}},
        'tuned': {'start': 'alone', 'qat': True, 'images': {'real': 8}, 'fit': {'steps': 2}},
    }
    del document['report'], document['study']
    recipe.write_text(yaml.safe_dump(document, sort_keys=False))
    plan = Plan(load_recipe(recipe), photographs, Steps(tmp_path / 'out/tiny', lambda _: None))
    files = {}
    for stage in ('alone', 'tuned'):
        plan.steps.made(plan.measure(stage, 'int8'))
        files[stage] = onnx.load(plan.steps.folder(plan.quantize(stage)) / 'int8.onnx').graph
    ranges = {
        stage: {value.name: numpy_helper.to_array(value).item() for value in graph.initializer if is_range(value)}
        for stage, graph in files.items()
    }
    assert len(ranges['alone']) > 20
    assert ranges['tuned'] == ranges['alone']
    weights = [plan.steps.folder(plan.weights(stage)) / 'weights.pt' for stage in files]
    alone, tuned = (load_network(file)[0].state_dict() for file in weights)
    assert alone.keys() == tuned.keys()
    assert not torch.equal(alone['model.0.conv.weight'], tuned['model.0.conv.weight'])


def test_a_bundle_of_half_weights_states_what_was_measured_of_them(photographs, recipe, tmp_path, capsys):
    document = yaml.safe_load(recipe.read_text())
    document['stages'] = {'alone': {'start': str(NETWORK), 'images': {'real': 8}}}
    del document['report'], document['study']
    sizes, said = {}, {}
    for half in (False, True):
        document['bundle']['half_weights'] = half
        recipe.write_text(yaml.safe_dump(document, sort_keys=False))
        assert main(['run', str(recipe), *options(tmp_path, photographs), '--target', str(tmp_path / 'bundle')]) == 0
        said[half] = capsys.readouterr().out
        bundle = load_bundle(tmp_path / 'bundle')
        quantized, original = bundle.artifacts
        file = bundle.folder / original.file
        assert original.sha256 == digest(file)
        assert quantized.metrics['compared_with_float']['sha256'] == original.sha256
        assert original.measured_map is not None
        sizes[half] = file.stat().st_size
    assert sizes[True] < 0.65 * sizes[False]
    assert all(f'{step} alone: done before' in said[True] for step in ('train', 'quantize'))
    assert 'measure alone fp32: done before' not in said[True]


def is_range(value):
    """The scale of an activation, not of weights, which have one for each channel."""
    return value.name.endswith('_scale') and not value.dims


def test_a_run_killed_again_and_again_ends_with_the_same_bundle(photographs, recipe, tmp_path):
    """Five times, wherever it stands; what the artifacts are and what was measured must not tell."""
    document = yaml.safe_load(recipe.read_text())
    document['fit'].update(steps=6, checkpoint_steps=1)
    document['stages']['distilled'].update(teacher=None, distill=None, unlabelled={})
    document['report'] = {'stages': ['distilled'], 'rounds': 3}
    recipe.write_text(yaml.safe_dump(document, sort_keys=False))

    def command(out):
        where = options(tmp_path, photographs, out)
        return [
            sys.executable,
            '-m',
            'training',
            'run',
            str(recipe),
            *where,
            '--target',
            str(tmp_path / out / 'bundle'),
        ]

    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY), 'OMP_WAIT_POLICY': 'PASSIVE'}
    log = tmp_path / 'log.txt'
    with log.open('w') as file:
        started = time.monotonic()
        assert subprocess.run(command('whole'), env=environment, stdout=file, stderr=file, check=False).returncode == 0
        whole = time.monotonic() - started
        rng = np.random.default_rng(0)
        for kind in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
            process = subprocess.Popen(command('killed'), env=environment, stdout=file, stderr=file)
            time.sleep(whole * rng.uniform(0.3, 0.8))
            process.send_signal(kind)
            process.wait()
        assert subprocess.run(command('killed'), env=environment, stdout=file, stderr=file, check=False).returncode == 0

    def content(out):
        document = yaml.safe_load((tmp_path / out / 'bundle/bundle.yaml').read_text())
        steps = document['provenance'].pop('steps')
        return json.dumps([document, {name: step['result'] for name, step in steps.items()}], default=str)

    assert content('killed') == content('whole')


@pytest.mark.parametrize(('given', 'threads'), [('1', 1), ('3', 3), ('', physical_cores()), ('2,1', physical_cores())])
def test_no_more_threads_than_the_environment_allows(monkeypatch, capsys, given, threads):
    monkeypatch.setenv('OMP_NUM_THREADS', given)
    with pytest.raises(SystemExit):
        main(['run', '--help'])
    assert f'by default: {threads} here' in ' '.join(capsys.readouterr().out.split())
