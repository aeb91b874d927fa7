"""The documented launch, `torchrun -m training run`, with two processes on this machine's CPU."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

torch = pytest.importorskip('torch')
pytest.importorskip('ultralytics')

from kd_perception.bundles.bundle import load_bundle  # noqa: E402

REPOSITORY = Path(__file__).parents[2]
CLASSES = ('wide', 'tall')
LONGEST = 1200
"""Seconds after which processes that wait for each other are a failure."""


@pytest.fixture
def recipe(tmp_path):
    """A teacher and a student on sixteen pictures; returns the recipe's file, beside it `data`."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 16), ('val', 2)):
        for kind in ('images', 'labels'):
            (tmp_path / 'data/shapes' / kind / split).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(60, 120, (64, 64, 3), dtype=np.uint8)
            image[20:36, 16:48] = (220, 30, 30)
            cv2.imwrite(str(tmp_path / f'data/shapes/images/{split}/{number}.png'), image)
            (tmp_path / f'data/shapes/labels/{split}/{number}.txt').write_text('0 0.5 0.4375 0.5 0.25\n')
    (tmp_path / 'data/shapes/data.yaml').write_text(
        yaml.safe_dump({'train': 'images/train', 'val': 'images/val', 'names': list(CLASSES)})
    )
    network = str(REPOSITORY / 'training/recipes/networks/yolo_w0125.yaml')
    document = {
        'name': 'pair',
        'validation': 'shapes',
        'data': {'shapes': {'format': 'yolo', 'path': 'shapes'}},
        'fit': {'image_size': 64, 'batch': 4, 'steps': 3, 'warmup_steps': 1, 'precision': 'float32'},
        'stages': {
            'first': {'start': network, 'images': {'shapes': 16}},
            'second': {'start': 'first', 'images': {'shapes': 16}, 'sparsity': {'rate': 0.01}},
        },
        'export': {'width': 64, 'height': 64, 'parity_images': 1},
        'calibration': {'images': {'shapes': 2}},
        'quantize': {'method': 'minmax'},
        'report': {'stages': ['second'], 'rounds': 3},
        'bundle': {'description': 'A test.', 'licence': 'none', 'attribution': [], 'data': 'boxes', 'method': 'none'},
    }
    file = tmp_path / 'pair.yaml'
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def launch(recipe, out, *more):
    """`torchrun --nproc-per-node 2 -m training run …`; returns what was said and the exit status."""
    where = ['--data', str(recipe.parent / 'data'), '--out', str(recipe.parent / out)]
    command = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m', 'training', 'run']
    return subprocess.run(
        [sys.executable, *command, str(recipe), *where, '--target', str(recipe.parent / out / 'bundle'), *more],
        env={**os.environ, 'PYTHONPATH': str(REPOSITORY), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )


@pytest.mark.timeout(3 * LONGEST + 60)
def test_two_processes_make_a_bundle_and_go_on_where_a_run_stopped(recipe):
    whole = launch(recipe, 'whole')
    assert whole.returncode == 0, whole.stderr[:6000]
    assert len(load_bundle(recipe.parent / 'whole/bundle').artifacts) == 2
    assert whole.stdout.count('prepare shapes …') == 1
    first = launch(recipe, 'parts', '--until', 'first')
    assert first.returncode == 0, first.stderr[-3000:]
    rest = launch(recipe, 'parts', '--until', 'second')
    assert rest.returncode == 0, rest.stderr[-3000:]
    assert 'train first: done before with the same inputs' in rest.stdout
    weights = [next((recipe.parent / out / 'pair').glob('train-second-*/weights.pt')) for out in ('whole', 'parts')]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.timeout(LONGEST + 60)
def test_what_is_wrong_is_said_once_and_ends_all(recipe):
    (recipe.parent / 'data/shapes/labels/train/0.txt').write_text('7 0.5 0.5 0.5 0.5\n')
    ended = launch(recipe, 'wrong')
    assert ended.returncode != 0
    assert ended.stderr.count('training: ') == 1, ended.stderr
