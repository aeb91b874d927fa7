"""Recipes: what they may say, how they are changed from outside, and that those in the repository are right."""

import copy
from pathlib import Path

import pytest
import yaml

pytest.importorskip('ultralytics')

from training.errors import RecipeError
from training.run.document import merged, override, parse_overrides
from training.run.recipe import load_recipe

RECIPES = sorted(
    file for file in (Path(__file__).parents[3] / 'training/recipes').glob('*.yaml') if 'kd_comparison' not in file.stem
)
RECIPE = {
    'name': 'tiny',
    'validation': 'real',
    'data': {
        'real': {
            'format': 'aerial_traffic',
            'path': 'photographs',
            'tiles': {'size': 64, 'count': 8, 'car_px': [10, 20]},
        },
        'scenes': {'format': 'scenes', 'scenes': {'count': 2, 'size': 64}},
    },
    'fit': {'image_size': 64, 'batch': 4, 'steps': 2, 'augment': {'mosaic': 0.5}},
    'stages': {
        'teacher': {'start': 'yolov8n.yaml', 'images': {'real': 8}},
        'pruned': {'start': 'teacher', 'prune': {'ratio': 0.5}},
        'distilled': {
            'start': 'pruned',
            'teacher': 'teacher',
            'images': {'real': [0, 4], 'scenes': 2},
            'fit': {'epochs': 1, 'augment': {'flipud': 0.5}},
            'distill': {'terms': [{'loss': 'cwd', 'weight': 2}]},
        },
    },
    'export': {'width': 96, 'height': 64},
    'calibration': {'images': {'real': 2}},
    'quantize': {'method': 'minmax'},
    'bundle': {'description': 'A test.', 'licence': 'none', 'attribution': [], 'data': 'rectangles', 'method': 'none'},
}


def write(folder: Path, **overrides: object) -> Path:
    file = folder / 'tiny.yaml'
    document = copy.deepcopy(RECIPE)
    for name, value in overrides.items():
        override(document, name.replace('__', '.'), value)
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def test_stages_take_what_they_have_in_common_and_lay_their_own_over_it(tmp_path):
    recipe = load_recipe(write(tmp_path))
    teacher, distilled = recipe.stages['teacher'].fit, recipe.stages['distilled'].fit
    assert (teacher.steps, teacher.epochs, teacher.augment.mosaic, teacher.augment.flipud) == (2, 0, 0.5, 0)
    assert (distilled.steps, distilled.epochs, distilled.augment.mosaic, distilled.augment.flipud) == (0, 1, 0.5, 0.5)
    assert recipe.stages['pruned'].fit is None
    assert recipe.stages['distilled'].images == {'real': (0, 4), 'scenes': 2}
    assert recipe.final == 'distilled'


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'nmae': 1}, r"tiny\.yaml has no entry 'nmae': did you mean 'name'"),
        ({'stages__teacher__strat': 'x'}, r"teacher has no entry 'strat': did you mean 'start'"),
        ({'stages__teacher__fit': {'step': 3}}, r"fit has no entry 'step': did you mean 'steps'"),
        ({'stages__distilled__distill__terms__0__loss': 'cwt'}, r"no loss 'cwt': did you mean 'cwd'"),
        ({'stages__distilled__teacher': 'techer'}, r"names 'techer': did you mean 'teacher'"),
        ({'stages__distilled__teacher': 'distilled'}, r"names 'distilled'"),
        ({'stages__distilled__distill': None}, 'belong together'),
        ({'stages__pruned__images': {'real': 3}}, 'leave out images'),
        ({'stages__teacher__images': {'rael': 3}}, r"'rael': did you mean 'real'"),
        ({'stages__teacher__images': {}}, 'needs images'),
        ({'stages__teacher__unlabelled': {'real': 3}}, 'teach nothing without teacher'),
        ({'stages': {}}, 'stages is empty'),
        ({'export__width': 'wide'}, r'export.width must be a whole number'),
        ({'export__height': None}, r'export lacks height'),
        ({'quantize__methode': 'minmax'}, r"quantize has no entry 'methode': did you mean 'method'"),
        ({'calibration__images': {'none': 1}}, r"calibration.images names 'none'"),
        ({'data__real__format': 'ariel'}, 'ariel'),
        ({'validation': 'reel'}, r"validation names 'reel': did you mean 'real'"),
        ({'study': {'arms': {'plain': {}}, 'baseline': 'plane', 'seeded': []}}, r"'plane'.*did you mean 'plain'"),
        ({'file': 'x'}, 'no entry "file"'),
    ],
)
def test_wrong_recipes_name_the_entry_and_the_nearest_one(tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, **changes))


@pytest.mark.parametrize('text', ['- a\n- b\n', 'a: [', '', 'a: &a [*a]', '!!python/object/apply:os.system [ls]'])
def test_files_that_are_no_recipe_are_refused(tmp_path, text):
    (tmp_path / 'r.yaml').write_text(text)
    with pytest.raises(RecipeError, match=r'r\.yaml'):
        load_recipe(tmp_path / 'r.yaml')


def test_entries_are_changed_by_their_dotted_names(tmp_path):
    changes = parse_overrides(
        [
            'stages.teacher.fit.steps=7',
            'stages.distilled.distill.terms.0.weight=9',
            'seed=3',
            'export={width: 64, height: 32}',
        ]
    )
    recipe = load_recipe(write(tmp_path), changes)
    assert recipe.stages['teacher'].fit.steps == 7
    assert recipe.stages['distilled'].distill.terms[0].weight == 9
    assert (recipe.seed, recipe.export.width) == (3, 64)


def test_an_arm_takes_entries_out_by_null(tmp_path):
    plain = {'stages.distilled.distill': None, 'stages.distilled.teacher': None}
    assert load_recipe(write(tmp_path), plain).stages['distilled'].distill is None


def test_a_weights_file_is_named_once_for_all_stages_and_arms(tmp_path):
    plain = load_recipe(write(tmp_path, stages__distilled__teacher='a/v8.pt'))
    arms = {'one': {}, 'two': {'stages.distilled.teacher': None, 'stages.distilled.teachers': {'a': 'weights.v8'}}}
    study = {'arms': arms, 'baseline': 'one', 'seeded': ['distilled']}
    file = write(tmp_path, weights={'v8': 'a/v8.pt'}, stages__distilled__teacher='weights.v8', study=study)
    named = load_recipe(file)
    assert named.stages == plain.stages
    assert load_recipe(file, named.study.arms['two']).stages['distilled'].taught_by == {'a': 'a/v8.pt'}
    other = load_recipe(file, {'weights.v8': 'b/v8.pt'})
    assert other.stages['distilled'].teacher == 'b/v8.pt'
    assert other.study.arms['two']['stages.distilled.teachers'] == {'a': 'b/v8.pt'}
    assert (
        load_recipe(write(tmp_path, stages__distilled__teacher='weights.pt')).stages['distilled'].teacher
        == 'weights.pt'
    )


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        ({'v8x': 'a.pt'}, "no weights.v8: did you mean 'v8x'"),
        ({}, 'weights has no entry'),
        ({'v8': 'a.onnx'}, r'weights files \(.pt, .weights\)'),
        ('a.pt', r'weights files \(.pt, .weights\)'),
    ],
)
def test_a_name_of_no_weights_file_is_refused(tmp_path, weights, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, weights=weights, stages__distilled__teacher='weights.v8'))


@pytest.mark.parametrize(('text', 'message'), [('seed', 'not name=value'), ('=3', 'not name=value'), ('a=[', 'a=')])
def test_unreadable_changes_are_refused(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_overrides([text])


@pytest.mark.parametrize(
    'name', ['seed.a.b', 'stages.distilled.distill.terms.7.weight', 'stages.distilled.distill.terms.x']
)
def test_changes_that_lead_nowhere_are_refused(tmp_path, name):
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, seed=1), {name: 1})


def test_epochs_stand_for_steps():
    assert merged({'steps': 3, 'a': {'b': 1}}, {'epochs': 2, 'a': {'c': 2}}) == {'epochs': 2, 'a': {'b': 1, 'c': 2}}


@pytest.mark.parametrize('file', RECIPES, ids=lambda file: file.stem)
def test_the_recipes_in_the_repository_are_valid_in_all_their_arms(file):
    recipe = load_recipe(file)
    assert recipe.name == file.stem
    for changes in recipe.study.arms.values() if recipe.study else ():
        load_recipe(file, changes)


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize('name', ['s2_dtld_v5', 's3_bdd_vru', 's4_visdrone_v8m', 's5_visdrone_v5s'])
def test_weight_decay_of_the_full_recipes_is_ultralytics_for_as_many_images(name):
    recipe = load_recipe(next(file for file in RECIPES if file.stem == name))
    for stage in recipe.stages.values():
        if stage.fit is not None:
            images = stage.fit.batch * stage.fit.accumulate
            assert stage.fit.decay == pytest.approx(0.0005 * images / 64)
            assert set(stage.images.values()) == {'all'}


@pytest.mark.parametrize(
    ('entries', 'says'),
    [
        ({'stages.teacher.images': {'real': 'some'}}, "'some' is no number of images"),
        ({'sample': 'random'}, 'sample must be one of sessions, names'),
        ({'stages.teacher.start': 'yolov8n.onnx'}, "names 'yolov8n.onnx'"),
    ],
)
def test_what_a_stage_cannot_take_is_refused(tmp_path, entries, says):
    with pytest.raises(RecipeError, match=says):
        load_recipe(write(tmp_path), entries)


@pytest.mark.parametrize('start', ['yolov8n.pt', 'yolov4.weights', 'yolov8n.yaml'])
def test_a_stage_starts_from_files_that_others_made(tmp_path, start):
    assert load_recipe(write(tmp_path), {'stages.teacher.start': start}).stages['teacher'].start == start
    backbone = {'stages.teacher.start': 'm_yolo.yaml', 'stages.teacher.backbone': 'mobilenet_v2.pth'}
    assert load_recipe(write(tmp_path), backbone).stages['teacher'].backbone == 'mobilenet_v2.pth'
