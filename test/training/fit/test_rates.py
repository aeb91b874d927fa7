"""Learning rate and momentum of each step: warm-up, apart for biases and momentum, then a cosine."""

import pytest

torch = pytest.importorskip('torch')

from training.fit.optimizer import Rates, make_optimizer  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402

NETWORK = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
USUAL = {'steps': 8, 'learning_rate': 0.01, 'final_share': 0.0, 'momentum': 0.9}


def rates(first=0, **changes):
    """Of each step: learning rate of weights, of biases, and momentum."""
    settings = FitSettings(**{**USUAL, 'warmup_steps': 4, **changes})
    optimizer = make_optimizer([NETWORK], settings)
    found = []
    of_run = Rates(settings, settings.steps, first)
    for step in range(settings.steps):
        of_run.set(optimizer, step)
        weights, *_, biases = optimizer.param_groups
        found.append((weights['lr'], biases['lr'], biases.get('momentum', biases.get('betas', [0])[0])))
    return found


def test_all_weights_warm_up_together_unless_asked_otherwise():
    assert [rate for rate, _, _ in rates()][:2] == pytest.approx([0.0025, 0.005 * 0.96194], rel=1e-4)
    assert all(rate == bias and momentum == 0.9 for rate, bias, momentum in rates())
    assert [rate for rate, _, _ in rates()][4] == pytest.approx(0.005)  # half of the cosine is behind


@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
def test_biases_come_down_and_momentum_comes_up_in_the_warm_up(optimizer):
    found = rates(optimizer=optimizer, warmup_bias_lr=0.1, warmup_momentum=0.8)
    assert found[0] == pytest.approx((0.0025, 0.1 + (0.01 - 0.1) / 4, 0.8 + 0.1 / 4))
    assert [bias > rate for rate, bias, _ in found] == [True] * 3 + [False] * 5
    assert [momentum for _, _, momentum in found[3:]] == pytest.approx([0.9] * 5)


def test_a_stage_before_the_task_has_the_full_rate_and_the_warm_up_follows_it():
    found = [rate for rate, _, _ in rates(first=2, warmup_steps=2)]
    assert found[:4] == pytest.approx([0.01, 0.01, 0.005, 0.01 * 0.933], rel=1e-3)


def test_normalizations_and_biases_do_not_decay():
    groups = make_optimizer([NETWORK], FitSettings(**USUAL)).param_groups
    assert [(len(group['params']), group['weight_decay']) for group in groups] == [(1, 0.01), (1, 0.0), (2, 0.0)]
