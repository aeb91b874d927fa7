"""The mailbox keeps the newest, and the books balance."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.core.mailbox import DROP_CAUSES, FrameBooks, Mailbox


def test_put_returns_what_it_superseded():
    mailbox: Mailbox[int] = Mailbox()
    assert mailbox.put(1) is None
    assert mailbox.put(2) == 1
    assert mailbox.take() == 2


def test_close_wakes_the_taker_and_hands_back_the_rest():
    mailbox: Mailbox[int] = Mailbox()
    taken: list[int | None] = []
    taker = threading.Thread(target=lambda: taken.append(mailbox.take()))
    taker.start()
    assert mailbox.close() == []
    taker.join(5.0)
    assert taken == [None]

    mailbox = Mailbox()
    mailbox.put(1)
    assert mailbox.close() == [1]
    assert mailbox.put(2) == 2
    assert mailbox.take() is None


def test_nothing_is_lost_between_threads():
    mailbox: Mailbox[int] = Mailbox()
    taken, superseded = [], []

    def take() -> None:
        while (item := mailbox.take()) is not None:
            taken.append(item)

    taker = threading.Thread(target=take)
    taker.start()
    for item in range(1, 5001):
        old = mailbox.put(item)
        if old is not None:
            superseded.append(old)
    while taken[-1:] != [5000]:
        pass
    mailbox.close()
    taker.join()
    assert sorted(taken + superseded) == list(range(1, 5001))
    assert taken == sorted(taken)


STEPS = st.lists(st.one_of(st.integers(0, 3), st.just('take')), max_size=80)
"""A frame of one of four cameras comes, or one is taken."""


@given(STEPS)
def test_a_frame_waits_for_at_most_one_frame_of_each_other_camera(steps):
    mailbox: Mailbox[tuple[int, int]] = Mailbox(4)
    passed_over = [0] * 4
    waiting: set[int] = set()
    for number, step in enumerate(steps):
        if step != 'take':
            mailbox.put((step, number), step)
            waiting.add(step)
            continue
        taken = mailbox.poll()
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
    mailbox: Mailbox[tuple[int, int]] = Mailbox(4)
    put, out = [], []
    newest: dict[int, int] = {}
    for number, step in enumerate(steps):
        if step == 'take':
            taken = mailbox.poll()
            if taken is not None:
                assert newest[taken[0]] == taken[1]
                out.append(taken)
        else:
            superseded = mailbox.put((step, number), step)
            put.append((step, number))
            newest[step] = number
            if superseded is not None:
                assert superseded[0] == step
                out.append(superseded)
    assert sorted([*out, *mailbox.close()]) == sorted(put)


def test_two_busy_cameras_share_evenly_however_quick_the_other_is():
    mailbox: Mailbox[str] = Mailbox(2)
    taken = []
    for _ in range(100):
        for _ in range(5):
            mailbox.put('quick', 0)
        mailbox.put('slow', 1)
        taken.append(mailbox.poll())
    assert taken.count('quick') == taken.count('slow') == 50


@given(st.lists(st.sampled_from(['publish', *DROP_CAUSES])))
def test_received_is_published_plus_dropped_plus_pending(fates):
    books = FrameBooks()
    for index, fate in enumerate(fates):
        books.receive()
        counts = books.snapshot()
        assert counts.pending == 1
        assert counts.received == index + 1
        books.publish() if fate == 'publish' else books.drop(fate)
    counts = books.snapshot()
    assert counts.pending == 0
    assert counts.received == counts.published + sum(counts.dropped.values()) == len(fates)


def test_an_unknown_cause_is_refused():
    with pytest.raises(KeyError):
        FrameBooks().drop('bad luck')
