"""The command line: a whole recipe in miniature, from photographs to a bundle that the runtime loads."""

from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip('ultralytics')

from kd_perception.core.bundle import load_bundle
from training.__main__ import main
from training.data.aerial_traffic import CLASSES
from training.data.dataset import LabelledImage, ground_truth, write_split
from training.errors import RecipeError
from training.recipe import load_recipe

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::UserWarning')

RECIPE = {
    'name': 'tiny',
    'seed': 0,
    'source': 'photographs',
    'tiles': {'size': 64, 'count': 8, 'car_px': [10, 20]},
    'scenes': {'scenes': {'count': 2, 'size': 64}, 'rare': {'count': 1, 'size': 64, 'mix': [0, 0.5, 0, 0, 0.5]}},
    'train': {
        'architecture': 'yolov8n.yaml',
        'arguments': {'imgsz': 64, 'batch': 4, 'epochs': 1, 'optimizer': 'AdamW', 'lr0': 0.001},
        'phases': [
            {'name': 'first', 'images': {'real': 4}},
            {'name': 'second', 'images': {'real': 4, 'scenes': 2}, 'arguments': {'lr0': 0.0001}},
        ],
    },
    'export': {'width': 96, 'height': 64, 'parity_images': 1},
    'calibration': {'photographs': 1, 'scenes': 1},
    'quantize': {'method': 'minmax'},
    'bundle': {'description': 'A test.', 'licence': 'none', 'attribution': ['nobody'], 'data': 'rectangles'},
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
            items.append(LabelledImage(name, image, ground_truth(cars, [0, 0])))
        write_split(tmp_path / 'data/photographs', split, CLASSES, items)
    return tmp_path / 'data'


def write_recipe(folder: Path, **changes: object) -> Path:
    file = folder / 'tiny.yaml'
    file.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return file


def test_a_recipe_becomes_a_bundle(photographs, tmp_path, capsys):
    command = ['run', str(write_recipe(tmp_path)), '--data', str(photographs)]
    command += ['--out', str(tmp_path / 'out'), '--target', str(tmp_path / 'bundle')]
    assert main(command) == 0
    bundle = load_bundle(tmp_path / 'bundle')
    assert [artifact.precision for artifact in bundle.artifacts] == ['int8', 'fp32']
    assert bundle.classes == CLASSES
    assert (bundle.input.width, bundle.input.height) == (96, 64)
    assert all(artifact.measured_map is not None for artifact in bundle.artifacts)
    assert bundle.provenance['prepare'] == {'real': 8, 'scenes': 2, 'rare': 1}
    assert len(bundle.provenance['quantize']['calibration_sha256']) == 64
    capsys.readouterr()

    assert main(command) == 0
    assert capsys.readouterr().out.count('done before with the same settings') == 5

    measure = ['measure', str(tmp_path / 'bundle'), 'photographs', '--data', str(photographs), '--precision', 'fp32']
    assert main([*measure, '--out', str(tmp_path / 'out')]) == 0
    assert '(1 images)' in capsys.readouterr().out


def test_a_stage_asked_for_too_early_says_what_to_run(photographs, tmp_path, capsys):
    command = ['bundle', str(write_recipe(tmp_path)), '--data', str(photographs), '--out', str(tmp_path / 'out')]
    assert main([*command, '--target', str(tmp_path / 'bundle')]) == 1
    assert 'python -m training run' in capsys.readouterr().err


def test_no_data_is_one_line(tmp_path, capsys):
    assert main(['prepare', str(write_recipe(tmp_path)), '--data', str(tmp_path / 'nowhere')]) == 1
    assert capsys.readouterr().err.strip().endswith('give --data FOLDER or set KD_DATA')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'tiles': {'sise': 64}}, r'tiles has unknown entries sise'),
        ({'export': {'width': 96}}, r'export: .*height'),
        ({'quantize': {'methode': 'minmax'}}, r'quantize has unknown entries methode'),
        ({'calibration': {'photographs': 1}}, r'calibration: .*scenes'),
        ({'train': {'architecture': 'a', 'arguments': {}}}, r"lacks the entry 'phases'"),
    ],
)
def test_wrong_recipes_name_the_entry(tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write_recipe(tmp_path, **changes))


@pytest.mark.parametrize('text', ['- a\n- b\n', 'a: [', ''])
def test_files_that_are_no_recipe_are_refused(tmp_path, text):
    (tmp_path / 'r.yaml').write_text(text)
    with pytest.raises(RecipeError, match=r'r\.yaml'):
        load_recipe(tmp_path / 'r.yaml')


def test_the_recipes_in_the_repository_are_valid():
    files = sorted((Path(__file__).parents[2] / 'training/recipes').glob('*.yaml'))
    assert [load_recipe(file).name for file in files] == [file.stem for file in files]
