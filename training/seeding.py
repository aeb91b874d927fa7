"""What makes a run the same again: random numbers that depend on a seed and a place alone, sums in one order."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def seeded(seed: int, place: int) -> Iterator[None]:
    """torch's random numbers, a function of the seed and the place; put back afterwards.

    Args:
        seed: of the run.
        place: what they are drawn for: the number of a batch, or one below 0 for what comes before the first.
    """
    with torch.random.fork_rng(devices=[]):
        drawn = hashlib.sha256(f'{seed} {place}'.encode()).digest()
        torch.manual_seed(int.from_bytes(drawn[:7], 'little'))
        yield


@contextlib.contextmanager
def in_one_thread() -> Iterator[None]:
    """One thread of torch, so that sums have one order, and their last bits do not depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
