"""The queue keeps the newest, and the counters balance."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE

from kd_perception.runtime.frame_counters import DROP_CAUSES, FrameCounters
from kd_perception.runtime.latest_frame_queue import LatestFrameQueue


def test_put_returns_what_it_superseded():
    queue: LatestFrameQueue[int] = LatestFrameQueue()
    assert queue.put(1) is None
    assert queue.put(2) == 1
    assert queue.take() == 2


def test_close_wakes_the_taker_and_hands_back_the_rest():
    queue: LatestFrameQueue[int] = LatestFrameQueue()
    taken: list[int | None] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take()))
    taker.start()
    assert queue.close() == []
    taker.join(PATIENCE)
    assert taken == [None]

    queue = LatestFrameQueue()
    queue.put(1)
    assert queue.close() == [1]
    assert queue.put(2) == 2
    assert queue.take() is None


def test_nothing_is_lost_between_threads():
    queue: LatestFrameQueue[int] = LatestFrameQueue()
    taken, superseded = [], []

    def take() -> None:
        while (item := queue.take()) is not None:
            taken.append(item)

    taker = threading.Thread(target=take)
    taker.start()
    for item in range(1, 5001):
        old = queue.put(item)
        if old is not None:
            superseded.append(old)
    while taken[-1:] != [5000]:
        pass
    queue.close()
    taker.join()
    assert sorted(taken + superseded) == list(range(1, 5001))
    assert taken == sorted(taken)


STEPS = st.lists(st.one_of(st.integers(0, 3), st.just('take')), max_size=80)
"""A frame of one of four cameras comes, or one is taken."""


@given(STEPS)
def test_a_frame_waits_for_at_most_one_frame_of_each_other_camera(steps):
    queue: LatestFrameQueue[tuple[int, int]] = LatestFrameQueue(4)
    passed_over = [0] * 4
    waiting: set[int] = set()
    for number, step in enumerate(steps):
        if step != 'take':
            queue.put((step, number), step)
            waiting.add(step)
            continue
        taken = queue.poll()
        assert (taken is None) == (not waiting)
        if taken is None:
            continue
        waiting.discard(taken[0])
        passed_over[taken[0]] = 0
        for camera in waiting:
            passed_over[camera] += 1
            assert passed_over[camera] <= 3


@given(STEPS)
def test_of_every_camera_only_the_newest_waits_and_none_is_lost(steps):
    queue: LatestFrameQueue[tuple[int, int]] = LatestFrameQueue(4)
    put, out = [], []
    newest: dict[int, int] = {}
    for number, step in enumerate(steps):
        if step == 'take':
            taken = queue.poll()
            if taken is not None:
                assert newest[taken[0]] == taken[1]
                out.append(taken)
        else:
            superseded = queue.put((step, number), step)
            put.append((step, number))
            newest[step] = number
            if superseded is not None:
                assert superseded[0] == step
                out.append(superseded)
    assert sorted([*out, *queue.close()]) == sorted(put)


def test_two_busy_cameras_share_evenly_however_quick_the_other_is():
    queue: LatestFrameQueue[str] = LatestFrameQueue(2)
    taken = []
    for _ in range(100):
        for _ in range(5):
            queue.put('quick', 0)
        queue.put('slow', 1)
        taken.append(queue.poll())
    assert taken.count('quick') == taken.count('slow') == 50


@given(st.lists(st.sampled_from(['publish', *DROP_CAUSES])))
def test_received_is_published_plus_dropped_plus_pending(fates):
    counters = FrameCounters()
    for index, fate in enumerate(fates):
        counters.receive()
        counts = counters.snapshot()
        assert counts.pending == 1
        assert counts.received == index + 1
        counters.publish() if fate == 'publish' else counters.drop(fate)
    counts = counters.snapshot()
    assert counts.pending == 0
    assert counts.received == counts.published + sum(counts.dropped.values()) == len(fates)


def test_an_unknown_cause_is_refused():
    with pytest.raises(KeyError):
        FrameCounters().drop('bad luck')
