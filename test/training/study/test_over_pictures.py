"""Paired differences over samples of the test pictures, from maps computed by hand."""

import numpy as np
import pytest
from study_jobs import ridge

from training.study import over_pictures
from training.study.plan import Result, Study

# mAP on all pictures, then on four samples of them, by arm and seed.
MAPS = {
    ('alone', 0): [0.20, 0.18, 0.19, 0.21, 0.22],
    ('alone', 1): [0.30, 0.28, 0.29, 0.31, 0.32],
    ('cwd', 0): [0.24, 0.21, 0.23, 0.25, 0.27],
    ('cwd', 1): [0.32, 0.30, 0.31, 0.33, 0.34],
    ('late', 1): [0.29, 0.29, 0.29, 0.29, 0.29],
}


@pytest.fixture
def intervals(tmp_path, monkeypatch):
    """The intervals by arm; `late` has no cell with seed 0."""
    monkeypatch.setattr(over_pictures, '_maps', lambda study, result, _: np.array(MAPS[result.arm, result.seed]))
    study = Study(tmp_path, ridge, {arm: {} for arm in ('alone', 'cwd', 'late', 'none')}, (0, 1), 'alone')
    results = [Result(arm, seed, {}) for arm, seed in MAPS]
    return {item.arm: item for item in over_pictures.over_pictures(study, results, 4, confidence=0.5)}


def test_differences_are_means_over_the_seeds_on_each_sample(intervals):
    # cwd − alone, seed 0: .04 | .03 .04 .04 .05; seed 1: .02 | .02 .02 .02 .02; means .03 | .025 .03 .03 .035
    cwd = intervals['cwd']
    assert (cwd.pairs, cwd.mean) == (2, pytest.approx(0.03))
    assert (cwd.lower, cwd.upper) == (pytest.approx(0.02875), pytest.approx(0.03125))


def test_a_seed_that_one_of_both_lacks_is_left_out(intervals):
    assert (intervals['late'].pairs, intervals['late'].mean) == (1, pytest.approx(-0.01))
    assert intervals.keys() == {'cwd', 'late'}


def test_the_section_says_what_was_drawn(intervals):
    section = over_pictures.markdown(intervals.values(), 'alone', 4, 0.5)
    assert '50 % percentile interval' in section
    assert '| cwd | +0.03 [+0.0288, +0.0312] | 2 |' in section
