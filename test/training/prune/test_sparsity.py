"""The penalty on γ: its schedule, its gradient, and the channels that it leaves alone."""

import pytest

torch = pytest.importorskip('torch')

from tiny_detectors import detector  # noqa: E402

from training.errors import RecipeError  # noqa: E402
from training.models import structure  # noqa: E402
from training.prune.sparsity import SparsityPenalty, SparsitySettings, draw_gammas, gammas  # noqa: E402
from training.schema import counted, read  # noqa: E402


def with_zero_gradients(network):
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return network


@pytest.mark.parametrize(('progress', 'rate'), [(0.0, 1e-3), (0.5, 5.5e-4), (1.0, 1e-4)])
def test_the_rate_falls_to_a_tenth(progress, rate):
    assert SparsitySettings(rate=1e-3).rate_at(progress) == pytest.approx(rate)


def test_the_gradient_is_the_sign_times_the_rate():
    network = with_zero_gradients(detector())
    gamma = network.model[0].bn.weight
    gamma.data[:3] = torch.tensor([-0.5, 0.0, 0.5])
    penalty = SparsityPenalty(network, SparsitySettings(rate=1e-2))
    penalty.add_gradients(0.0)
    assert gamma.grad[:3].tolist() == pytest.approx([-1e-2, 0, 1e-2])
    assert network.model[0].bn.bias.grad.abs().max() == 0
    assert network.model[0].conv.weight.grad.abs().max() == 0


def test_the_gradient_is_that_of_the_value():
    network = with_zero_gradients(detector())
    penalty = SparsityPenalty(network, SparsitySettings(rate=1e-2))
    penalty.add_gradients(0.5)
    before, gamma, step = penalty.value(), network.model[0].bn.weight, 1e-3
    with torch.no_grad():
        gamma += step
    assert (penalty.value() - before) / step == pytest.approx(float(gamma.grad.sum()), rel=1e-2)


@pytest.mark.parametrize('is_split', [True, False])
def test_channels_that_a_shortcut_adds_up_are_left_alone(is_split):
    network = detector()
    if is_split:
        structure.split(network)
    with_zero_gradients(network)
    SparsityPenalty(network, SparsitySettings()).add_gradients(0.0)
    touched = {
        name: layer.weight.grad != 0
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.BatchNorm2d)
    }
    assert not touched['model.3.m.0.cv2.bn'].any()
    assert touched['model.3.m.0.cv1.bn'].all()
    if is_split:
        assert touched['model.3.first.bn'].all()
        assert not touched['model.3.second.bn'].any()
    else:
        half = len(touched['model.3.cv1.bn']) // 2
        assert touched['model.3.cv1.bn'][:half].all()
        assert not touched['model.3.cv1.bn'][half:].any()
    assert touched['model.10.m.0.cv2.bn'].all(), 'the blocks of the neck have no shortcut'


def test_frozen_layers_have_no_gradient_to_add_to():
    network = detector()
    network.model[0].requires_grad_(False)
    SparsityPenalty(network, SparsitySettings()).add_gradients(0.0)
    assert network.model[0].bn.weight.grad is None


def test_training_with_it_shrinks_gamma():
    network = detector().train()
    penalty = SparsityPenalty(network, SparsitySettings(rate=0.1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    first = penalty.value()
    for step in range(5):
        optimizer.zero_grad()
        sum(value.square().mean() for value in network.model[0](torch.rand(2, 3, 16, 16))).backward()
        with_zero_gradients(network) if step == 0 else None
        penalty.add_gradients(0.0)
        optimizer.step()
    assert penalty.value() < first


@pytest.mark.parametrize(('method', 'zeros'), [('gradient', False), ('auto', True)])
def test_under_adamw_only_a_proximal_step_brings_gamma_to_zero_and_keeps_it_there(method, zeros):
    network = detector().train()
    penalty = SparsityPenalty(network, SparsitySettings(rate=1.0, final_share=1.0, method=method), 'adamw')
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05, weight_decay=0)
    for _ in range(30):
        optimizer.zero_grad()
        sum(value.square().mean() for value in network.model[0](torch.rand(2, 3, 16, 16))).backward()
        with_zero_gradients(network)
        if not penalty.proximal:
            penalty.add_gradients(0.0)
        optimizer.step()
        if penalty.proximal:
            penalty.shrink(0.0, 0.05)
    assert bool((penalty.values() == 0).float().mean() > 0.5) == zeros


def test_which_step_is_taken():
    network = detector()
    taken = {
        (method, optimizer): SparsityPenalty(network, SparsitySettings(method=method), optimizer).proximal
        for method in ('auto', 'gradient', 'proximal')
        for optimizer in ('sgd', 'adamw')
    }
    assert [pair for pair, proximal in taken.items() if proximal] == [
        ('auto', 'adamw'),
        ('proximal', 'sgd'),
        ('proximal', 'adamw'),
    ]
    assert 'method' not in counted(SparsitySettings(method='gradient'))
    assert counted(SparsitySettings())['method'] == 'auto'


def test_the_picture(tmp_path):
    network = detector()
    assert gammas(network)['model.0.bn'].shape == network.model[0].bn.weight.shape
    spreads = [SparsityPenalty(of, SparsitySettings()).values() for of in (network, detector(seed=1))]
    draw_gammas(dict(zip(('before', 'after'), spreads, strict=True)), tmp_path / 'pictures' / 'gamma.png')
    assert (tmp_path / 'pictures' / 'gamma.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize(
    ('entries', 'message'),
    [
        ({'rate': 0}, 'rate must be above 0 and at most 1'),
        ({'final_share': 2}, '0 to 1'),
        ({'rates': 1}, "did you mean 'rate'"),
    ],
)
def test_settings_are_checked(entries, message):
    with pytest.raises(RecipeError, match=message):
        read(SparsitySettings, entries, 'sparsity')
