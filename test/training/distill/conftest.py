"""One thread for torch, and repeatable weights: the tensors here are tiny."""

import pytest


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed():
    torch = pytest.importorskip('torch')
    torch.set_num_threads(1)
    torch.manual_seed(7)
