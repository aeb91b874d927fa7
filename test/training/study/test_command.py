"""`study` as it is used: options, exit status, the page, and a kind of study beside `paired`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
import yaml
from study_jobs import ridge, ridge_that_fails

from training.errors import Interrupted, RecipeError, StudyError
from training.study import command, running
from training.study.plan import Study

STRENGTHS = {'plain': {'strength': 0.0}, 'ridge': {'strength': 5.0}, 'strong': {'strength': 50.0}}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """`study ridge` beside the kinds that there are; returns how to call it."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    chosen = {'job': ridge, 'arms': STRENGTHS}

    def run_ridge(options):
        made = Study(tmp_path / 'study', chosen['job'], chosen['arms'], tuple(options.seeds), 'plain')
        return running.run_study(made, options, 'Ridge regression')

    def add_ridge(kinds):
        parser = kinds.add_parser('ridge')
        command.add_study_options(parser)
        parser.set_defaults(command=run_ridge)

    monkeypatch.setattr(command, 'KINDS', [*command.KINDS, add_ridge])
    parser = argparse.ArgumentParser('python -m training')
    command.add_parser(parser.add_subparsers())

    def call(*arguments, **changes):
        chosen.update(changes)
        options = parser.parse_args(['study', 'ridge', *arguments])
        return options.command(options)

    return call


def test_a_study_leaves_a_page_with_tables_and_pictures(study, tmp_path, capsys):
    page = tmp_path / 'results' / 'ridge.md'
    assert study('--seeds', '0', '1', '2', '--workers', '0', '--against', 'test_loss', '--report', str(page)) == 0
    names = {file.name for file in page.parent.iterdir()}
    assert names == {
        *('ridge.md', 'ridge_cells.csv', 'ridge_comparisons.csv', 'ridge_r2.png', 'ridge_r2.svg'),
        *('ridge_test_loss.png', 'ridge_test_loss.svg', 'ridge_r2_over_test_loss.png', 'ridge_r2_over_test_loss.svg'),
    }
    text = page.read_text()
    assert text.startswith('# Ridge regression\n')
    assert '![ridge r2](ridge_r2.png)' in text
    printed, told = capsys.readouterr()
    progress = [line for line in told.splitlines() if 'cells to do' in line]  # no terminal: a line for each cell
    assert len(progress) == 9
    assert progress[0].startswith('plain_seed0 done, 8 of 9 cells to do, about')
    assert '| plain | ' in printed
    assert f'written: {os.path.relpath(page)}' in printed
    assert str(Path.cwd()) not in text


def test_the_next_call_does_nothing_again_and_writes_the_same_tables(study, tmp_path, capsys):
    study('--workers', '0')
    first = (tmp_path / 'study' / 'report_cells.csv').read_bytes()
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / 'study' / 'cells').glob('*.json')}
    assert study('--workers', '0') == 0
    assert (tmp_path / 'study' / 'report_cells.csv').read_bytes() == first
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps


def test_a_dry_run_says_what_is_missing_and_runs_nothing(study, tmp_path, capsys):
    study('--seeds', '0', '--workers', '0')
    capsys.readouterr()
    assert study('--seeds', '0', '1', '--dry-run') == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ['done  plain_seed0', 'done  ridge_seed0', 'done  strong_seed0', 'to do plain_seed1']
    assert lines[-1].startswith('3 of 6 cells to do, baseline plain')
    assert len(list((tmp_path / 'study' / 'cells').glob('*.json'))) == 3


def test_a_failed_cell_is_told_with_arm_seed_and_traceback_and_in_the_exit_status(study, tmp_path, capsys):
    arms = {'plain': {'strength': 0.0}, 'wild': {'strength': -1.0}}
    assert study('--workers', '2', arms=arms, job=ridge_that_fails) == 1
    said = capsys.readouterr().err
    assert 'training: wild, seed 1: ended with status 1: ArithmeticError: the loss is NaN at step 7' in said
    assert 'Traceback' in said
    page = (tmp_path / 'study' / 'report.md').read_text()
    assert 'cells: 5 of 6' in page
    assert '- wild, seed 1: ' in page


def test_with_nothing_done_there_is_no_page_but_the_reasons(study, tmp_path, capsys):
    assert study('--seeds', '1', '--workers', '0', arms={'plain': {'strength': -1.0}}, job=ridge_that_fails) == 1
    assert not (tmp_path / 'study' / 'report.md').exists()
    assert 'loss is NaN' in capsys.readouterr().err


@pytest.mark.parametrize('stop', [KeyboardInterrupt(), Interrupted('stopped at step 3 of 5')])
def test_an_interrupt_says_how_to_go_on(study, capsys, stop):
    """Python's own, or that of a training in this process, which leaves a checkpoint first."""

    def interrupted(strength, seed, threads):
        if seed == 1:
            raise stop
        return {'r2': 0.5}

    assert study('--workers', '0', job=interrupted) == 130
    assert 'interrupted with 6 of 9 cells to do; the same command goes on' in capsys.readouterr().err
    assert study('--seeds', '0', '--dry-run', job=interrupted) == 0
    assert '0 of 3 cells to do' in capsys.readouterr().out


def test_an_unknown_metric_is_answered_with_the_nearest(study):
    with pytest.raises(StudyError, match="did you mean 'r2'"):
        study('--workers', '0', '--metric', 'r22')


def test_help_teaches_with_examples(capsys):
    parser = argparse.ArgumentParser('python -m training')
    command.add_parser(parser.add_subparsers())
    with pytest.raises(SystemExit):
        parser.parse_args(['study', 'paired', '--help'])
    shown = capsys.readouterr().out
    for option in ('--arms', '--seeds', '--baseline', '--workers', '--scheduler', '--metric', '--dry-run', '--report'):
        assert option in shown
    assert 'python -m training study paired training/recipes/s4_small.yaml' in shown


RECIPE = {
    'name': 'shapes',
    'validation': 'scenes',
    'data': {'scenes': {'format': 'scenes', 'scenes': {'count': 20, 'size': 64}}},
    'stages': {
        'teacher': {'start': 'yolov8n.yaml', 'images': {'scenes': 10}, 'fit': {'image_size': 64, 'steps': 2}},
        'student': {
            'start': 'yolov8n.yaml',
            'teacher': 'teacher',
            'images': {'scenes': 10},
            'fit': {'image_size': 64, 'steps': 2},
            'distill': {'terms': [{'loss': 'cwd'}]},
        },
    },
    'export': {'width': 64, 'height': 64},
    'calibration': {'images': {'scenes': 2}},
    'quantize': {},
    'study': {
        'baseline': 'plain',
        'seeded': ['student'],
        'arms': {
            'plain': {'stages.student.distill': None, 'stages.student.teacher': None},
            'cwd': {},
            'twice': {'stages.student.distill.terms.0.weight': 2},
            'longer': {'stages.student.distill': None, 'stages.student.teacher': None, 'stages.student.fit.steps': 3},
        },
    },
    'bundle': {'description': 'd', 'licence': 'l', 'attribution': ['a'], 'data': 'd', 'method': 'm'},
}


def paired(tmp_path, *arguments, **changes):
    recipe = tmp_path / 'shapes.yaml'
    recipe.write_text(yaml.safe_dump({**RECIPE, **changes}, sort_keys=False))
    parser = argparse.ArgumentParser('python -m training')
    command.add_parser(parser.add_subparsers())
    places = ['--data', str(tmp_path), '--out', str(tmp_path / 'out')]
    options = parser.parse_args(['study', 'paired', str(recipe), *places, *arguments])
    return command.recipe_study(options, ridge)


def test_arms_come_from_the_recipe_and_the_baseline_always_joins(tmp_path):
    assert list(paired(tmp_path).arms) == ['plain', 'cwd', 'twice', 'longer']
    chosen = paired(tmp_path, '--arms', 'twice', 'cwd', '--seeds', '4', '5')
    assert list(chosen.arms) == ['plain', 'twice', 'cwd']
    assert (chosen.baseline, chosen.seeds) == ('plain', (4, 5))
    assert chosen.arms['twice'] == {'overrides': {'stages.student.distill.terms.0.weight': 2}}
    assert list(paired(tmp_path, '--arms', 'twice', '--baseline', 'cwd').arms) == ['cwd', 'twice']
    assert set(chosen.cells[0].arguments) == {'recipe_file', 'overrides', 'seed', 'out', 'data'}


def test_what_is_set_is_set_in_every_arm(tmp_path):
    arms = paired(tmp_path, '--set', 'stages.student.fit.steps=9').arms
    assert arms['cwd']['overrides'] == {'stages.student.fit.steps': 9}
    assert arms['longer']['overrides']['stages.student.fit.steps'] == 3


@pytest.mark.parametrize(
    ('arguments', 'changes', 'message'),
    [
        (['--arms', 'plian'], {}, "no arm 'plian': did you mean 'plain'"),
        (['--baseline', 'cvd'], {}, "no arm 'cvd': did you mean 'cwd'"),
        ([], {'study': None}, 'no section `study`'),
        (
            [],
            {'study': {**RECIPE['study'], 'arms': {'plain': {'stages.student.fit.stepz': 3}}}},
            "did you mean 'steps'",
        ),
        (['--set', 'stages.student.fit'], {}, 'is not name=value'),
    ],
)
def test_an_arm_that_cannot_be_is_told_before_anything_runs(tmp_path, arguments, changes, message):
    with pytest.raises((RecipeError, StudyError), match=message):
        paired(tmp_path, *arguments, **changes)


def test_of_the_recipe_only_what_the_cells_are_made_of_makes_them_anew(tmp_path):
    def print_of(*arguments, **changes):
        return paired(tmp_path, *arguments, **changes).cells[0].fingerprint

    before = print_of()
    more = {**RECIPE['study'], 'arms': {**RECIPE['study']['arms'], 'thrice': {}}}
    assert print_of(study=more) == before
    assert print_of('--arms', 'cwd') == before
    assert print_of(study={**RECIPE['study'], 'seeded': ['teacher', 'student']}) != before
    assert print_of(data={'scenes': {'format': 'scenes', 'scenes': {'count': 30, 'size': 64}}}) != before
    assert print_of('--set', 'stages.teacher.fit.steps=9') != before
