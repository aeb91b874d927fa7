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
    assert mailbox.close() is None
    taker.join(5.0)
    assert taken == [None]

    mailbox = Mailbox()
    mailbox.put(1)
    assert mailbox.close() == 1
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
