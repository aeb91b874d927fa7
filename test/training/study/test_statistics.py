"""Paired differences against values computed by hand, and what must hold for all."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import StudyError
from training.study.plan import Result
from training.study.statistics import compare, compare_all, interval, mean_deviation, summarise

T_2 = 4.302652729911275  # quantile 0.975 of Student's t with 2 degrees of freedom
T_4 = 2.7764451051977987
FIGURES = st.floats(-1e3, 1e3, allow_nan=False)
PAIRS = st.lists(st.tuples(FIGURES, FIGURES), min_size=2, max_size=8)


def by_seed(values):
    return dict(enumerate(values))


def compared(pairs, **options):
    arm, baseline = zip(*pairs, strict=True)
    return compare('cwd', 'plain', 'map50', by_seed(arm), by_seed(baseline), **options)


@pytest.mark.parametrize(
    ('arm', 'baseline', 'mean', 'deviation', 'half', 'verdict'),
    [
        # differences 1, 2, 3: mean 2, deviation 1, half width t/√3
        ([11, 12, 13], [10, 10, 10], 2, 1, T_2 / math.sqrt(3), 'no difference shown'),
        # differences 2.0, 2.1, 2.2: deviation 0.1
        ([2.0, 2.1, 2.2], [0, 0, 0], 2.1, 0.1, 0.1 * T_2 / math.sqrt(3), 'above'),
        ([0, 0, 0], [2.0, 2.1, 2.2], -2.1, 0.1, 0.1 * T_2 / math.sqrt(3), 'below'),
        # differences 1, −1, 2, −2, 5: mean 1, squares 0 + 4 + 1 + 9 + 16 = 30, deviation √(30/4)
        ([1, -1, 2, -2, 5], [0] * 5, 1, math.sqrt(7.5), T_4 * math.sqrt(1.5), 'no difference shown'),
        ([3, 3], [1, 1], 2, 0, 0, 'above'),
        ([1, 1, 1], [1, 1, 1], 0, 0, 0, 'no difference shown'),
    ],
)
def test_mean_deviation_and_interval(arm, baseline, mean, deviation, half, verdict):
    result = compare('cwd', 'plain', 'map50', by_seed(arm), by_seed(baseline))
    assert (result.mean, result.deviation) == pytest.approx((mean, deviation))
    assert (result.lower, result.upper) == pytest.approx((mean - half, mean + half))
    assert result.verdict == verdict


def test_one_pair_has_a_difference_but_no_bounded_interval():
    result = compare('cwd', 'plain', 'map50', {0: 61.0}, {0: 60.0})
    assert (result.mean, result.lower, result.upper) == (1.0, -math.inf, math.inf)
    assert math.isnan(result.deviation)
    assert result.verdict == 'no difference shown'


def test_no_pair_has_nothing():
    result = compare('cwd', 'plain', 'map50', {0: 61.0}, {1: 60.0})
    assert math.isnan(result.mean)
    assert (result.differences, result.missing) == ({}, (0, 1))
    assert result.verdict == 'no difference shown'


@pytest.mark.parametrize('absent', [{0: 3.0, 2: 5.0}, {0: 3.0, 1: math.nan, 2: 5.0}, {0: 3.0, 1: math.inf, 2: 5.0}])
def test_a_seed_without_figure_on_either_side_is_left_out_and_named(absent):
    whole = {0: 1.0, 1: 2.0, 2: 3.0}
    result = compare('cwd', 'plain', 'map50', absent, whole)
    assert (dict(result.differences), result.missing) == ({0: 2.0, 2: 2.0}, (1,))
    assert compare('cwd', 'plain', 'map50', whole, absent).missing == (1,)


@pytest.mark.parametrize('confidence', [0, 1, 95, -0.5])
def test_a_confidence_that_is_no_share_is_refused(confidence):
    with pytest.raises(StudyError, match='between 0 and 1'):
        compare('cwd', 'plain', 'map50', {0: 1.0}, {0: 1.0}, confidence)


@given(PAIRS)
def test_the_interval_contains_the_mean(pairs):
    result = compared(pairs)
    assert result.lower <= result.mean <= result.upper


@given(PAIRS, FIGURES)
def test_what_is_added_to_the_arm_shifts_difference_and_interval(pairs, shift):
    before, after = compared(pairs), compared([(arm + shift, baseline) for arm, baseline in pairs])
    expected = [figure + shift for figure in (before.mean, before.lower, before.upper)]
    assert [after.mean, after.lower, after.upper] == pytest.approx(expected, abs=1e-8)


@given(PAIRS, FIGURES)
def test_what_is_added_to_both_arms_of_a_seed_changes_nothing(pairs, shift):
    before, after = compared(pairs), compared([(arm + shift, baseline + shift) for arm, baseline in pairs])
    assert [after.mean, after.lower, after.upper] == pytest.approx([before.mean, before.lower, before.upper], abs=1e-8)


@given(PAIRS)
def test_exchanging_the_arms_mirrors_everything(pairs):
    there, back = compared(pairs), compared([(baseline, arm) for arm, baseline in pairs])
    assert [back.mean, back.lower, back.upper] == pytest.approx([-there.mean, -there.upper, -there.lower], abs=1e-8)
    assert back.verdict == {'above': 'below', 'below': 'above'}.get(there.verdict, there.verdict)


@given(PAIRS)
def test_more_confidence_is_never_narrower(pairs):
    narrow, wide = compared(pairs, confidence=0.8), compared(pairs, confidence=0.99)
    assert wide.lower <= narrow.lower
    assert narrow.upper <= wide.upper


@given(st.permutations([(0, 1.5), (1, 2.5), (2, -0.5), (3, 4.0)]))
def test_the_order_of_the_seeds_does_not_matter(order):
    result = compare('cwd', 'plain', 'map50', dict(order), dict.fromkeys(range(4), 0.0))
    assert (result.mean, result.deviation) == pytest.approx((1.875, 1.8874586))


def test_mean_of_nothing_and_deviation_of_one_are_nan():
    assert all(math.isnan(value) for value in mean_deviation([]))
    assert mean_deviation([3.0])[0] == 3.0
    assert math.isnan(mean_deviation([3.0])[1])
    assert interval(3.0, math.nan, 1, 0.95) == (-math.inf, math.inf)


def test_a_study_is_compared_metric_by_metric_without_its_baseline():
    results = [
        Result(arm, seed, {'map50': 50.0 + seed + gain, 'loss': 1.0})
        for arm, gain in (('plain', 0.0), ('cwd', 1.0))
        for seed in (0, 1)
    ]
    comparisons = compare_all(results, ['plain', 'cwd', 'logits'], 'plain', ['map50', 'loss'], [0, 1, 2])
    assert [(item.arm, item.metric) for item in comparisons] == [
        ('cwd', 'map50'),
        ('logits', 'map50'),
        ('cwd', 'loss'),
        ('logits', 'loss'),
    ]
    assert (dict(comparisons[0].differences), comparisons[0].missing) == ({0: 1.0, 1: 1.0}, (2,))
    assert comparisons[1].missing == (0, 1, 2)
    assert summarise(results, 'cwd', 'map50').mean == 51.5
