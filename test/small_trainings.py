"""Fixtures of tests that train: one thread for torch, repeatable weights, a teacher, and pictures to teach with."""

import pytest
from tiny_training import architecture, write_network, write_pictures


@pytest.fixture(scope='module', autouse=True)
def _one_thread():
    """Sums of several threads differ in their last bits, which trainings are compared by."""
    torch = pytest.importorskip('torch')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _one_seed(_one_thread):
    import torch

    torch.manual_seed(7)


@pytest.fixture(scope='session')
def pictures(tmp_path_factory):
    """Twelve pictures with labels."""
    return write_pictures(tmp_path_factory.mktemp('pictures'), 12)


@pytest.fixture(scope='session')
def teacher(tmp_path_factory):
    """A weights file; its network is half as wide again as the students."""
    return write_network(tmp_path_factory.mktemp('teacher') / 'teacher.pt', architecture(width=0.1875))
