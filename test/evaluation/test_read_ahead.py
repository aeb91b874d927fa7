"""Reading ahead changes when things are read, and nothing else."""

from __future__ import annotations

import threading

import pytest

from kd_perception.evaluation.read_ahead import read_ahead


@pytest.mark.parametrize('depth', [0, 1, 4, 100])
def test_everything_comes_in_order(depth):
    assert list(read_ahead(range(50), lambda n: n * n, depth)) == [n * n for n in range(50)]


@pytest.mark.parametrize('depth', [0, 3])
def test_an_error_comes_at_its_place(depth):
    def prepare(n: int) -> int:
        if n == 2:
            raise ValueError('two')
        return n

    seen = []
    with pytest.raises(ValueError, match='two'):
        seen.extend(iter_until_error(read_ahead(range(5), prepare, depth), seen))
    assert seen == [0, 1]


def iter_until_error(items, seen):
    for item in items:
        seen.append(item)
    return []


def test_no_more_than_depth_is_made_ahead():
    made = []
    items = read_ahead(range(100), lambda n: made.append(n) or n, 3)
    assert next(items) == 0
    deadline = threading.Event()
    deadline.wait(0.3)
    assert len(made) <= 1 + 3 + 1  # the one taken, the queue, and the one in the thread's hands
    items.close()
    assert 'read_ahead' not in [thread.name for thread in threading.enumerate()]
