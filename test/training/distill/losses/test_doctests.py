"""The example in every loss's docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

torch = pytest.importorskip('torch')

from training.distill import losses  # noqa: E402

MODULES = [f'{losses.__name__}.{module.name}' for module in pkgutil.iter_modules(losses.__path__)]


@pytest.mark.parametrize('name', [losses.__name__, 'training.distill.adapters', *MODULES])
def test_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={'torch': torch})
    assert result.failed == 0
    if not name.endswith('.base'):
        assert result.attempted
