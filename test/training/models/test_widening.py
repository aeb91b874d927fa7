"""A widened network computes what the narrow one does, until noise sets its copied channels apart."""

from __future__ import annotations

import pytest
import torch
from tiny_detectors import CLASSES, SIDE, architecture, detector
from torch import Tensor, nn

from training.errors import WeightsError
from training.models.weights import build_network
from training.models.widening import widen

WIDER = {'scales': {'n': [0.33, 0.25, 512]}}


def wide(family: str, **changes: object) -> nn.Module:
    return build_network(architecture(family, **(changes or WIDER)), CLASSES).eval()


def found(network: nn.Module) -> Tensor:
    with torch.no_grad():
        images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
        predictions = network(images)
    return predictions[0] if isinstance(predictions, tuple) else predictions


@pytest.mark.parametrize('family', ['v8', 'v5'])
def test_without_noise_the_wide_network_computes_what_the_narrow_one_does(family):
    narrow, network = detector(family), wide(family)
    widen(network, narrow, seed=0, noise=0.0)
    assert sum(p.numel() for p in network.parameters()) > 2 * sum(p.numel() for p in narrow.parameters())
    torch.testing.assert_close(found(network), found(narrow), rtol=1e-3, atol=1e-3)


def test_noise_sets_the_copies_apart_and_depends_on_the_seed_alone():
    first, again, other = wide('v8'), wide('v8'), wide('v8')
    for network, seed in ((first, 0), (again, 0), (other, 1)):
        widen(network, detector(), seed=seed)
    weights = next(first.parameters())
    assert not torch.equal(weights[0], weights[1])
    torch.testing.assert_close(weights[0], weights[1], rtol=0.5, atol=1e-3)
    assert torch.equal(weights, next(again.parameters()))
    assert not torch.equal(weights, next(other.parameters()))


def test_a_network_as_wide_as_the_narrow_one_gets_its_weights_unchanged():
    same = wide('v8', nc=80)
    widen(same, detector(), seed=0)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in detector().state_dict().items())


@pytest.mark.parametrize(
    ('network', 'says'),
    [
        (lambda: wide('v5'), 'same layers'),
        (lambda: wide('v8', scales={'n': [0.33, 0.1875, 512]}), 'is no multiple of'),
    ],
)
def test_what_does_not_fit_is_refused(network, says):
    with pytest.raises(WeightsError, match=says):
        widen(network(), detector(), seed=0)
