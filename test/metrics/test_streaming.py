"""The simulated stream: who is processed, who is superseded, and what was at hand when."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.metrics.streaming import Fate, simulate

P, S, OLD = Fate.PROCESSED, Fate.SUPERSEDED, Fate.STALE


@pytest.mark.parametrize(
    ('latency', 'fates', 'at_hand'),
    [
        # Frames at 0, 1, 2, 3, 4 s.
        (0.0, [P, P, P, P, P], [None, 0, 1, 2, 3]),
        (0.5, [P, P, P, P, P], [None, 0, 1, 2, 3]),
        (1.0, [P, P, P, P, P], [None, 0, 1, 2, 3]),
        (1.5, [P, P, P, S, P], [None, None, 0, 1, 1]),
        (2.5, [P, S, P, S, P], [None, None, None, 0, 0]),
        (9.0, [P, S, S, S, P], [None] * 5),
    ],
)
def test_a_late_worker_takes_the_newest_and_the_world_sees_old_results(latency, fates, at_hand):
    stream = simulate([0, 1, 2, 3, 4], [latency] * 5)
    assert [frame.fate for frame in stream.frames] == fates
    # A result that is ready at the very instant of the next frame counts for it; one's own never does unless it took no time.
    expected = [0, 1, 2, 3, 4] if latency == 0 else at_hand
    assert list(stream.at_hand) == expected


def test_finish_times_follow_from_the_queue():
    stream = simulate([0, 1, 2, 3], [2.5, 1.5, 1.5, 1.5])
    assert [(f.start, f.finish) for f in stream.frames] == [(0, 2.5), (None, None), (2.5, 4.0), (4.0, 5.5)]


def test_double_speed_halves_the_time_between_frames():
    assert simulate([0, 2, 4, 6], [1.5] * 4, rate=2).frames == simulate([0, 1, 2, 3], [1.5] * 4).frames


def test_what_waited_too_long_is_stale():
    stream = simulate([0, 1, 2], [1.9, 0.1, 0.1], max_age=0.5)
    assert [frame.fate for frame in stream.frames] == [P, OLD, P]


@given(
    st.lists(st.floats(0, 1), max_size=40),
    st.lists(st.floats(0, 3), min_size=40, max_size=40),
    st.sampled_from([0.0, 0.4]),
)
def test_every_frame_has_one_fate_and_no_result_comes_before_its_time(gaps, latencies, max_age):
    arrivals = [sum(gaps[: index + 1]) for index in range(len(gaps))]
    stream = simulate(arrivals, latencies[: len(arrivals)], max_age=max_age)
    assert len(stream.frames) == len(arrivals)
    assert sum(stream.count(fate) for fate in Fate) == len(arrivals)
    busy = [(f.start, f.finish) for f in stream.frames if f.finish is not None]
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(busy))
    for frame, index in zip(stream.frames, stream.at_hand, strict=True):
        if index is not None:
            assert stream.frames[index].finish <= frame.arrival


@pytest.mark.parametrize(
    ('arrivals', 'latencies', 'rate', 'says'),
    [([0, 1], [1], 1, '2 frames'), ([1, 0], [1, 1], 1, 'order'), ([0], [-1], 1, 'negative'), ([0], [1], 0, 'rate')],
)
def test_nonsense_is_refused(arrivals, latencies, rate, says):
    with pytest.raises(ValueError, match=says):
        simulate(arrivals, latencies, rate)
