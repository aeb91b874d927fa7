"""Splitting blocks is exact, and the channel structure rebuilds a pruned network."""

import copy

import pytest

torch = pytest.importorskip('torch')

from tiny_detectors import CLASSES, SIDE, architecture, detector  # noqa: E402

from training.errors import PruneError  # noqa: E402
from training.models import split_blocks, structure  # noqa: E402
from training.models.kept_channels import keep_features, keep_inputs, keep_outputs  # noqa: E402
from training.models.weights import build_network  # noqa: E402
from training.prune.heads import head_maps  # noqa: E402


def image(side=SIDE):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('family', ['v8', 'v5', '11', '26'])
def test_splitting_changes_no_output(family):
    network = detector(family)
    whole = copy.deepcopy(network)
    structure.split(network)
    with torch.no_grad():
        for split, one in zip(head_maps(network, image()), head_maps(whole, image()), strict=True):
            assert torch.equal(split, one)
        assert torch.equal(network(image())[0], whole(image())[0])
    assert not any(split_blocks._is_c2f(module) for module in network.modules())


def test_splitting_keeps_the_place_of_each_layer():
    network = detector('11')
    places = [(layer.f, layer.i) for layer in network.model]
    structure.split(network)
    assert [(layer.f, layer.i) for layer in network.model] == places
    assert {type(layer).__name__ for layer in network.model} >= {'SplitC2f', 'SplitC2PSA'}


def test_splitting_keeps_the_mode():
    network = detector().train()
    structure.split(network)
    assert all(module.training for module in network.modules())


def test_a_structure_is_restored():
    network = detector('11')
    structure.split(network)
    keep_outputs(network.get_submodule('model.0.conv'), [1, 4, 5])
    keep_features(network.get_submodule('model.0.bn'), [1, 4, 5])
    keep_inputs(network.get_submodule('model.1.conv'), [1, 4, 5])
    rebuilt = build_network(architecture('11'), CLASSES)
    structure.restore(rebuilt, structure.describe(network))
    rebuilt.load_state_dict(network.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(image())[0], network.eval()(image())[0])


def test_files_of_before_do_not_name_the_normalizations():
    pruned = detector('11')
    structure.split(pruned)
    keep_outputs(pruned.get_submodule('model.0.conv'), [1, 4, 5])
    keep_features(pruned.get_submodule('model.0.bn'), [1, 4, 5])
    keep_inputs(pruned.get_submodule('model.1.conv'), [1, 4, 5])
    description = structure.describe(pruned)
    rebuilt = build_network(architecture('11'), CLASSES)
    structure.restore(rebuilt, {name: description[name] for name in ('split', 'convolutions')})
    assert structure.describe(rebuilt) == description


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'model.0.conv': [3, 0]}, 'cannot have 3 inputs and 0 outputs'),
        ({'model.0.conv': [3, 10**9]}, 'cannot have'),
        ({'model.0.conv': [3]}, 'must be'),
        ({'model.0.conv': [3, 2.5]}, 'must be'),
        ({'model.0.conv': [3, True]}, 'must be'),
        ({'model.99.conv': [3, 8]}, 'another architecture'),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(change, message):
    network = detector()
    description = structure.describe(network)
    description['convolutions'] |= change
    with pytest.raises(PruneError, match=message):
        structure.restore(network, description)


def test_chosen_channels_keep_their_weights():
    layer = torch.nn.Conv2d(4, 6, 3)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    keep_outputs(layer, [0, 5])
    keep_inputs(layer, [1, 3])
    assert torch.equal(layer.weight, weight[[0, 5]][:, [1, 3]])
    assert torch.equal(layer.bias, bias[[0, 5]])
    assert (layer.in_channels, layer.out_channels) == (2, 2)


def test_a_depthwise_convolution_loses_inputs_and_outputs_together():
    layer = torch.nn.Conv2d(6, 6, 3, groups=6)
    keep_outputs(layer, [0, 2, 3])
    assert layer(torch.zeros(1, 3, 5, 5)).shape == (1, 3, 3, 3)
