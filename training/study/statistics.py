"""Paired differences between arms, seed by seed, with Student's t interval of their mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from training.errors import StudyError
from training.study.plan import Result

ABOVE, BELOW, UNDECIDED = 'above', 'below', 'no difference shown'


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline in one metric.

    Attributes:
        arm: the arm.
        baseline: what it is compared with.
        metric: name of the figure.
        differences: arm − baseline by seed, where both have a finite figure.
        missing: seeds without such a pair.
        confidence: of the interval, between 0 and 1.
        mean: of the differences; NaN without any.
        deviation: their sample standard deviation, divided by n − 1; NaN with less than two.
        lower: the interval's lower end; −∞ with less than two differences.
        upper: its upper end; +∞ with less than two.
    """

    arm: str
    baseline: str
    metric: str
    differences: Mapping[int, float]
    missing: tuple[int, ...]
    confidence: float
    mean: float
    deviation: float
    lower: float
    upper: float

    @property
    def verdict(self) -> str:
        """`above` or `below` where the interval leaves 0 out, else `no difference shown`."""
        if self.lower > 0:
            return ABOVE
        return BELOW if self.upper < 0 else UNDECIDED


@dataclass(frozen=True)
class Summary:
    """An arm by itself in one metric: its figures by seed, their mean and sample standard deviation (NaN as above)."""

    arm: str
    metric: str
    values: Mapping[int, float]
    mean: float
    deviation: float


def compare(
    arm: str,
    baseline: str,
    metric: str,
    arm_values: Mapping[int, float],
    baseline_values: Mapping[int, float],
    confidence: float = 0.95,
) -> Comparison:
    """Pair two arms by seed.

    The interval is mean ± t(1 − α/2, n − 1) · deviation / √n: it takes the differences as independent draws from a normal
    distribution, nothing more. With all differences equal it is a point.

    Raises:
        StudyError: `confidence` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise StudyError(f'the confidence is a share between 0 and 1, such as 0.95, not {confidence}')
    seeds = sorted({*arm_values, *baseline_values})
    pairs = {seed: arm_values.get(seed, math.nan) - baseline_values.get(seed, math.nan) for seed in seeds}
    differences = {seed: value for seed, value in pairs.items() if math.isfinite(value)}
    mean, deviation = mean_deviation(list(differences.values()))
    lower, upper = interval(mean, deviation, len(differences), confidence)
    missing = tuple(seed for seed in seeds if seed not in differences)
    return Comparison(arm, baseline, metric, differences, missing, confidence, mean, deviation, lower, upper)


def mean_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; NaN where there are too few values for it."""
    if not values:
        return math.nan, math.nan
    return math.fsum(values) / len(values), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def interval(mean: float, deviation: float, count: int, confidence: float) -> tuple[float, float]:
    """Student's t interval of a mean; unbounded with less than two values, which say nothing about their spread."""
    if count < 2:
        return -math.inf, math.inf
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * deviation / math.sqrt(count)
    return mean - half, mean + half


def values_of(results: Sequence[Result], arm: str, metric: str) -> dict[int, float]:
    """Figures of an arm by seed; NaN where a result lacks the metric."""
    return {result.seed: result.metrics.get(metric, math.nan) for result in results if result.arm == arm}


def summarise(results: Sequence[Result], arm: str, metric: str) -> Summary:
    """An arm by itself."""
    values = values_of(results, arm, metric)
    return Summary(arm, metric, values, *mean_deviation([value for value in values.values() if math.isfinite(value)]))


def compare_all(
    results: Sequence[Result],
    arms: Sequence[str],
    baseline: str,
    metrics: Sequence[str],
    seeds: Sequence[int],
    confidence: float = 0.95,
) -> list[Comparison]:
    """Every arm but the baseline in every metric, metric by metric; seeds without results count as missing."""
    absent = dict.fromkeys(seeds, math.nan)
    return [
        compare(
            arm,
            baseline,
            metric,
            absent | values_of(results, arm, metric),
            absent | values_of(results, baseline, metric),
            confidence,
        )
        for metric in metrics
        for arm in arms
        if arm != baseline
    ]
