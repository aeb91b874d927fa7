"""The comparison of distillation methods: its recipe, its steps, its page and its choice."""

import argparse
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('torch')
import torch

from training.data.image_folder import read_image_folder
from training.errors import RecipeError, StudyError
from training.models.yolov4.backbones import Classifier
from training.models.yolov4.classifier_files import save_classifier
from training.schema import read
from training.study import command
from training.study.kd_comparison import ComparisonRecipe, load_comparison
from training.study.kd_page import Candidate, choose, chosen

RECIPES = Path(__file__).parents[3] / 'training' / 'recipes'
RECIPE = """\
name: tiny
pictures: {colours: {folder: colours}}
students: [mobilenet_v2]
fit: {size: 32, steps: 2, first_steps: 1, batch: 4, warmup_steps: 1}
teacher:
  fit: {size: 32}
  weights: teacher.pt
keep_answers: true
largest_drop: 0.9
methods:
  kd: {loss: kd}
  crd: {loss: crd, settings: {negatives: 8}}
"""


def write_set(folder):
    random = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name, color in (('blue', (250, 20, 20)), ('green', (20, 250, 20))):
            (folder / split / name).mkdir(parents=True)
            for number in range(8):
                image = np.clip(random.normal(color, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(folder / split / name / f'{number}.png'), image)


def write_teacher(pictures, file):
    """Random features, and a head that tells the classes apart by the difference of their means."""
    data = read_image_folder(pictures / 'train', 32)
    classifier = Classifier('mobilenet_v2', 2).eval()
    with torch.no_grad():
        features = classifier(data.images.float() / 255)[2]
        means = [features[data.class_ids == number].mean(0) for number in range(2)]
        direction = 10 * torch.nn.functional.normalize(means[1] - means[0], dim=0)
        classifier.head.weight.copy_(torch.stack([-direction, direction]))
        middle = direction @ (means[0] + means[1]) / 2
        classifier.head.bias.copy_(torch.stack([middle, -middle]))
    save_classifier(classifier, 'mobilenet_v2', data.classes, file)


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    options = parser.parse_args(['study', 'kd-comparison', *map(str, arguments)])
    return options.command(options)


def test_a_comparison_runs_goes_on_and_writes_its_page(tmp_path, capsys, monkeypatch):
    write_set(tmp_path / 'colours')
    write_teacher(tmp_path / 'colours', tmp_path / 'teacher.pt')
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text(RECIPE)
    page = tmp_path / 'docs' / 'kd.md'
    monkeypatch.chdir(tmp_path)
    common = (
        recipe,
        '--data',
        tmp_path,
        '--out',
        tmp_path / 'out',
        '--workers',
        0,
        '--cell-threads',
        1,
        '--report',
        page,
    )
    assert run(*common, '--seeds', 0, '--methods', 'kd') == 0
    assert run(*common, '--seeds', 0, 1) == 0
    said = capsys.readouterr().out
    assert said.count('teacher …') == 1
    assert said.count('student mobilenet_v2 plain 0 …') == 1
    text = page.read_text()
    assert '| plain |' in text
    assert '| crd |' in text
    assert 'baseline' in text
    assert 'Chosen: **mobilenet_v2 with' in text
    assert 'cells: 6 of 6' in text
    for name in ('kd_mobilenet_v2.png', 'kd_mobilenet_v2_cells.csv', 'kd_drop_over_size.svg'):
        assert (page.parent / name).stat().st_size > 0
    assert run(*common, '--seeds', 0, 1, '--dry-run') == 0
    assert '0 of 6 cells to do' in capsys.readouterr().out


def test_networks_of_timm_controls_and_longer_plain_runs_are_compared(tmp_path, monkeypatch):
    write_set(tmp_path / 'colours')
    write_teacher(tmp_path / 'colours', tmp_path / 'teacher.pt')
    recipe = tmp_path / 'recipe.yaml'
    text = RECIPE.replace('[mobilenet_v2]', '[timm/lcnet_050]') + '  kd_random: {loss: kd, teacher_control: random}\n'
    recipe.write_text(text + 'longer: [1.5]\n')
    page = tmp_path / 'kd.md'
    monkeypatch.chdir(tmp_path)
    places = ('--data', tmp_path, '--out', tmp_path / 'out', '--workers', 0, '--cell-threads', 1, '--report', page)
    assert run(recipe, *places, '--seeds', 0, '--methods', 'kd', 'kd_random') == 0
    said = page.read_text()
    assert 'cells: 4 of 4' in said
    assert '| plain_1.5 |' in said
    assert '| kd_random |' in said
    assert re.search('lcnet_050 with (plain|kd)[*]', said), 'controls and longer runs are no candidates'
    assert (tmp_path / 'kd_timm_lcnet_050_cells.csv').is_file()
    steps = [len(file.read_text().splitlines()) - 1 for file in (tmp_path / 'out').rglob('log.csv')]
    assert sorted(steps) == [2, 2, 2, 3]


def test_the_choice_is_the_smallest_within_the_limit():
    def candidate(method, drop, mib):
        return Candidate('net', method, drop, (drop, drop), mib)

    small, taught, large = candidate('plain', 0.06, 8.0), candidate('crd', 0.03, 8.0), candidate('kd', 0.01, 20.0)
    assert choose([small, taught, large], 0.04) == taught
    assert choose([small, taught, large], 0.02) == large
    assert choose([small, taught, large], 0.005) == large  # none is within: the least drop
    assert choose([candidate('sp', 0.035, 8.0), taught], 0.04) == taught


def test_recipes_are_read_and_their_faults_told():
    recipe = load_comparison(RECIPES / 's1_kd_comparison_small.yaml')
    assert len(recipe.methods) == 13
    assert chosen(recipe, None, ['crd']).methods.keys() == {'crd'}
    with pytest.raises(StudyError, match="did you mean 'fitnet'"):
        chosen(recipe, None, ['fitnett'])
    with pytest.raises(RecipeError, match='students'):
        load_comparison(RECIPES / 's1_kd_comparison_small.yaml', {'students': None})


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'students': ['mobilenet_v3']}, "did you mean 'mobilenet_v2'"),
        ({'methods': {'plain': {'loss': 'kd'}}}, 'student alone'),
        ({'longer': [1.5], 'methods': {'plain_1.5': {'loss': 'kd'}}}, 'student alone'),
        ({'longer': [1.0]}, 'longer'),
        ({'methods': {'kd': {'loss': 'kd', 'teacher_control': 'randm'}}}, 'random'),
        ({'measured': ['train']}, 'cannot be measured'),
        ({'pictures': {'a': {}}}, 'either detection or folder'),
        ({'fit': {'size': 96}}, 'students see 96'),
        ({'methods': {'cwd': {'loss': 'cwd'}}}, 'does not distil classifiers'),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, says):
    good = {
        'name': 'x',
        'pictures': {'a': {'folder': 'a'}},
        'students': ['mobilenet_v2'],
        'methods': {'kd': {'loss': 'kd'}},
    }
    with pytest.raises(RecipeError, match=says):
        read(ComparisonRecipe, {**good, **changes}, 'recipe')
