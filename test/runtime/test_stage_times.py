"""Stage times, their rolling percentiles, and rates."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.detection.stage_times import STAGES, StageTimes
from kd_perception.runtime.frame_counters import RateMeter, RollingStageTimes, worst_stage


def test_stages_come_in_the_order_of_a_frames_way():
    assert STAGES == ('transport', 'queue', 'decode', 'preprocess', 'infer', 'postprocess', 'track', 'publish', 'age')
    assert tuple(StageTimes().as_dict()) == STAGES


def test_percentiles_are_those_of_the_last_window():
    rolling = RollingStageTimes(window=100)
    for value in range(1000):
        rolling.add(StageTimes(infer=float(value)))
    infer = rolling.percentiles()['infer']
    expected = np.percentile(np.arange(900, 1000), [50, 95, 99])
    assert [infer.p50, infer.p95, infer.p99] == pytest.approx(expected)
    assert infer.max == 999
    assert len(rolling) == 100


def test_worst_stage_is_by_p95_and_never_the_sum():
    rolling = RollingStageTimes()
    assert rolling.percentiles() == {}
    assert worst_stage(rolling.percentiles()) is None
    rolling.add(StageTimes(infer=5, decode=7, age=100))
    assert worst_stage(rolling.percentiles()) == 'decode'
    rolling.clear()
    assert len(rolling) == 0


@pytest.mark.parametrize(
    ('times', 'now', 'rate'),
    [([], 0, 0), ([1.0], 1, 0), ([0, 0.1, 0.2, 0.3], 0.3, 10), ([0, 0.5, 1.0, 9.0, 9.5], 9.5, 2), ([0, 1], 10, 0)],
)
def test_rate_is_of_the_last_seconds(times, now, rate):
    meter = RateMeter(window_s=3.0)
    for t in times:
        meter.tick(t)
    assert meter.rate(now) == pytest.approx(rate)
