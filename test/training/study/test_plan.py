"""Cells of a study: their order, their files, when they must be done anew."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_jobs import ridge, ridge_that_fails

from training.errors import StudyError
from training.study.plan import Cell, Result, Study, read_result, split_metrics, write_result

ARMS = {'plain': {'strength': 0.0}, 'ridge': {'strength': 5.0}}


def study(folder, **changes):
    return Study(**{'folder': folder, 'job': ridge, 'arms': ARMS, 'seeds': (0, 1), 'baseline': 'plain', **changes})


def first(study):
    return study.cells[0]


def test_cells_come_seed_by_seed_so_that_a_part_already_holds_pairs(tmp_path):
    assert [cell.name for cell in study(tmp_path).cells] == ['plain_seed0', 'ridge_seed0', 'plain_seed1', 'ridge_seed1']


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'arms': {}}, 'at least one arm'),
        ({'seeds': ()}, 'at least one arm and one seed'),
        ({'seeds': (0, 1, 0)}, 'a seed is given twice: 0 1 0'),
        ({'seeds': (0, -1)}, 'from 0 up, not -1'),
        ({'baseline': 'plian'}, "no arm: did you mean 'plain'"),
        ({'arms': {'plain': {}, '../outside': {}}}, "cannot be called '../outside'"),
        ({'arms': {'plain': {}, 'a/b': {}}}, 'name a file'),
        ({'arms': {'plain': {'strength': Path('x')}}}, 'the arm plain are not plain JSON'),
        ({'arms': {'plain': {'strength': math.nan}}}, 'the arm plain are not plain JSON'),
    ],
)
def test_a_study_that_cannot_be_is_refused(tmp_path, changes, message):
    with pytest.raises(StudyError, match=message):
        study(tmp_path, **changes)


METRICS = st.dictionaries(st.text(min_size=1), st.floats(allow_infinity=False), min_size=1)


@given(metrics=METRICS, notes=st.dictionaries(st.text(), st.text() | st.lists(st.integers()) | st.booleans()))
def test_a_result_survives_its_file(tmp_path_factory, metrics, notes):
    cell = first(study(tmp_path_factory.mktemp('study')))
    write_result(cell, Result('plain', 0, metrics, notes, 1.5, {'threads': 1}))
    read = read_result(cell)
    assert repr(dict(read.metrics)) == repr(metrics)  # repr: NaN is not equal to itself
    assert dataclasses.replace(read, metrics={}) == Result('plain', 0, {}, notes, 1.5, {'threads': 1})
    assert [file.name for file in cell.file.parent.iterdir()] == ['plain_seed0.json']


@pytest.mark.parametrize(
    'changes',
    [
        {'arms': {**ARMS, 'plain': {'strength': 1.0}}},
        {'depends_on': 'another recipe'},
        {'job': ridge_that_fails},
    ],
)
def test_a_cell_with_other_settings_is_done_anew_and_said(tmp_path, changes):
    write_result(first(study(tmp_path)), Result('plain', 0, {'r2': 0.5}))
    said = []
    assert read_result(first(study(tmp_path, **changes)), said.append) is None
    assert said == ['plain_seed0: done with other settings; it is done anew']


@pytest.mark.parametrize(
    'changes',
    [
        {'arms': {'plain': ARMS['plain'], 'more': {'strength': 9.0}}},
        {'seeds': (0, 1, 2, 3)},
        {'places': {'calls': 'elsewhere'}},
    ],
)
def test_other_arms_seeds_and_places_leave_a_cell_done(tmp_path, changes):
    write_result(first(study(tmp_path)), Result('plain', 0, {'r2': 0.5}))
    assert read_result(first(study(tmp_path, **changes))).metrics == {'r2': 0.5}


@pytest.mark.parametrize(
    'damage',
    [
        lambda whole: '',
        lambda whole: whole[: len(whole) // 2],
        lambda whole: '[]',
        lambda whole: '{}',
        lambda whole: 'null',
        lambda whole: whole.replace('0.5', '"many"'),
        lambda whole: whole.replace('"metrics"', '"matrix"'),
        lambda whole: '\0' * len(whole),
    ],
)
def test_a_damaged_file_is_told_and_its_cell_done_anew(tmp_path, damage):
    cell = first(study(tmp_path))
    write_result(cell, Result('plain', 0, {'r2': 0.5}))
    cell.file.write_text(damage(cell.file.read_text()))
    said = []
    assert read_result(cell, said.append) is None
    assert len(said) == 1
    assert 'plain_seed0.json is damaged' in said[0]


def test_numbers_are_metrics_and_all_else_are_notes():
    metrics, notes = split_metrics(
        {'map50': np.float64(0.5), 'epochs': 3, 'pruned': True, 'device': 'cpu', 'map': None}
    )
    assert metrics == {'map50': 0.5, 'epochs': 3.0}
    assert notes == {'pruned': True, 'device': 'cpu', 'map': None}


@pytest.mark.parametrize(
    ('returned', 'message'),
    [
        (None, 'not NoneType'),
        ([0.5], 'not list'),
        ({}, 'no metric'),
        ({'device': 'cpu'}, 'no metric'),
        ({'map': np.array([0.5])}, 'use float'),
    ],
)
def test_what_is_no_set_of_metrics_is_refused(returned, message):
    with pytest.raises(StudyError, match=message):
        split_metrics(returned)


def test_a_cell_is_named_for_its_arm_and_seed(tmp_path):
    cell = Cell(study(tmp_path), 'ridge', 1)
    assert cell.file == tmp_path / 'cells' / 'ridge_seed1.json'
    assert cell.log == tmp_path / 'cells' / 'ridge_seed1.log'
    assert cell.arguments == {'strength': 5.0, 'seed': 1}
