"""Channel pruning: dead channels cost nothing, kept ones keep their weights, targets are met, and the result goes all the way."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning:torch', 'ignore:You are using the legacy')

from networks import artifact_entry, bundle_document  # noqa: E402
from pruned_networks import assert_outputs_stayed, with_dead_channels  # noqa: E402
from tiny_detectors import CLASSES, SIDE, detector  # noqa: E402

from training.errors import PruneError, RecipeError  # noqa: E402
from training.models import split_blocks, structure  # noqa: E402
from training.models.weights import load_network, read_kept, save_weights  # noqa: E402
from training.prune.channels import groups  # noqa: E402
from training.prune.cost import count_parameters  # noqa: E402
from training.prune.pruning import choose, importance, lamp, prune  # noqa: E402
from training.prune.settings import METHODS, PruneSettings  # noqa: E402
from training.schema import read  # noqa: E402


@pytest.mark.parametrize('scope', ['layer', 'global'])
@pytest.mark.parametrize('family', ['v8', 'v5', '11', '26'])
def test_dead_channels_go_without_a_trace(family, scope):
    network = with_dead_channels(detector(family))
    pruned = prune(network, PruneSettings(ratio=0.5, round_to=1, scope=scope), SIDE, SIDE)
    assert pruned.after.parameters < 0.62 * pruned.before.parameters
    assert_outputs_stayed(pruned, network)


@pytest.mark.parametrize('family', ['v8', 'v5', '11'])
@pytest.mark.parametrize('method', METHODS)
def test_kept_channels_keep_their_weights(family, method):
    network = detector(family)
    structure.split(network)
    pruned = prune(network, PruneSettings(method=method, ratio=0.4, round_to=4), SIDE, SIDE)
    layers = structure.convolutions(pruned.network)
    for name, whole in structure.convolutions(network).items():
        kept = pruned.outputs.get(name, list(range(whole.out_channels)))
        norm = split_blocks.behind(network, name)
        if norm is not None:
            assert torch.equal(split_blocks.behind(pruned.network, name).running_mean, norm.running_mean[kept])
        if layers[name].weight.shape[1] == whole.weight.shape[1]:
            assert torch.equal(layers[name].weight, whole.weight[kept])
    for level, kept in enumerate(pruned.kept):
        convolution = f'model.{len(network.model) - 1}.cv2.{level}.0.conv'
        rows = pruned.outputs[convolution]
        whole = network.get_submodule(convolution)
        assert torch.equal(layers[convolution].weight, whole.weight[rows][:, kept])


def test_levels_of_a_twice_pruned_network_are_numbered_as_in_the_first():
    network = detector()
    once = prune(network, PruneSettings(ratio=0.3, round_to=2), SIDE, SIDE)
    twice = prune(once.network, PruneSettings(ratio=0.3, round_to=2), SIDE, SIDE)
    for level, kept in enumerate(twice.kept):
        assert set(kept) < set(once.kept[level])
    convolution = f'model.{len(network.model) - 1}.cv2.0.0.conv'
    rows = np.array(once.outputs[convolution])[twice.outputs[convolution]]
    weight = twice.network.get_submodule(convolution).weight
    assert torch.equal(weight, network.get_submodule(convolution).weight[rows][:, twice.kept[0]])


def test_the_network_given_stays_as_it_was():
    network = detector()
    before = copy.deepcopy(network.state_dict())
    prune(network, PruneSettings(ratio=0.5), SIDE, SIDE)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_lamp_equals_the_reference():
    scores = lamp(np.array([0.5, -1.0, 2.0, 0.1]))
    np.testing.assert_allclose(scores, [0.047619048, 0.2, 1.0, 0.001901141], atol=1e-9)


def test_gamma_is_what_the_bn_method_ranks_by():
    network = detector()
    structure.split(network)
    found = groups(network)
    alone = next(group for group in found if len(group.of('outputs')) == 1)
    scores = importance(network, [alone], PruneSettings(method='bn', ratio=0.5))[0]
    gamma = split_blocks.behind(network, alone.name).weight
    np.testing.assert_allclose(scores, gamma.detach().abs().numpy())


def test_group_norm_counts_all_weights_that_go_with_a_channel():
    network = detector()
    group = next(group for group in groups(network) if group.name == 'model.0.conv')
    scores = importance(network, [group], PruneSettings(method='group_norm', ratio=0.5))[0]
    first, second = network.get_submodule('model.0.conv').weight, network.get_submodule('model.1.conv').weight
    squares = first.square().sum((1, 2, 3)) + second.square().sum((0, 2, 3)) + network.model[0].bn.weight.square()
    wanted = squares.sqrt() / squares.sqrt().mean()
    np.testing.assert_allclose(scores, wanted.detach().numpy(), rtol=1e-5)


def test_a_channel_of_a_shortcut_is_made_by_several_layers():
    network = detector('v8')
    structure.split(network)
    group = next(group for group in groups(network) if group.name == 'model.3.second.conv')
    assert {member.name for member in group.of('outputs')} == {'model.3.second.conv', 'model.3.m.0.cv2.conv'}
    assert (group.sources() == 2).all()


@pytest.mark.parametrize(
    ('changes', 'going'),
    [
        ({'ratio': 0.5}, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ({'ratio': 0.5, 'scope': 'global'}, [[0, 1, 2, 3, 4, 5, 6], [7]]),
        ({'ratio': 0.5, 'scope': 'global', 'max_ratio': 0.5}, [[0, 1, 2, 3], [7]]),
        ({'ratio': 0.4, 'round_to': 4}, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ({'ratio': 0.2, 'round_to': 4}, [[], []]),
        ({'ratio': 0.9, 'round_to': 4}, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ({'ratio': 0.9, 'round_to': 16}, [[], []]),
        ({'ratio': 0.0}, [[], []]),
    ],
)
def test_which_channels_go(changes, going):
    scores = [np.arange(8.0), np.array([20, 19, 18, 17, 16, 15, 14, 6.5])]
    settings = PruneSettings(**({'round_to': 1, 'max_ratio': 0.9} | changes))
    assert [channels.tolist() for channels in choose(scores, settings.ratio, settings)] == going


@pytest.mark.parametrize('scope', ['layer', 'global'])
def test_groups_become_multiples(scope):
    pruned = prune(detector(), PruneSettings(ratio=0.4, round_to=4, scope=scope, method='random'), SIDE, SIDE)
    for kept in pruned.outputs.values():
        assert len(kept) % 4 == 0
    assert all(len(kept) % 4 == 0 for kept in pruned.kept)


def test_random_pruning_is_repeatable():
    def kept(seed):
        return prune(detector(), PruneSettings(method='random', ratio=0.5, seed=seed), SIDE, SIDE).kept

    assert kept(1) == kept(1) != kept(2)


@pytest.mark.parametrize(('target', 'scope'), [({'cut_parameters': 0.6}, 'layer'), ({'cut_gflops': 0.5}, 'global')])
def test_targets_are_met_and_not_by_far(target, scope, monkeypatch):
    monkeypatch.setattr('training.prune.pruning.SEARCH_STEPS', 7)
    settings = PruneSettings(method='group_norm', scope=scope, round_to=1, **target)
    pruned = prune(detector(), settings, SIDE, SIDE)
    unit = 'parameters' if 'cut_parameters' in target else 'gflops'
    cut = 1 - getattr(pruned.after, unit) / getattr(pruned.before, unit)
    wanted = next(iter(target.values()))
    assert wanted <= cut < wanted + 0.05


def test_a_latency_target_is_searched(monkeypatch):
    """The clock is replaced by the parameter count: what is tested is the search."""
    monkeypatch.setattr(
        'training.prune.pruning._milliseconds', lambda network, width, height: count_parameters(network) / 1000
    )
    network = detector()
    most = 0.5 * count_parameters(network) / 1000
    pruned = prune(network, PruneSettings(latency_ms=most, round_to=1), SIDE, SIDE)
    assert 0.8 * most < pruned.after.parameters / 1000 <= most


def test_a_target_out_of_reach_is_refused():
    with pytest.raises(PruneError, match='raise max_ratio'):
        prune(detector(), PruneSettings(cut_parameters=0.9, max_ratio=0.3), SIDE, SIDE)


def test_layers_can_be_skipped():
    network = detector()
    structure.split(network)
    pruned = prune(network, PruneSettings(ratio=0.5, round_to=1, skip=('model.0', 'model.3.*')), SIDE, SIDE)
    assert not any(name.startswith(('model.0.', 'model.3.')) for name in pruned.outputs)
    assert pruned.outputs
    with pytest.raises(PruneError, match="no convolution is named 'model.0.conf': did you mean 'model.0.conv'"):
        prune(network, PruneSettings(ratio=0.5, skip=('model.0.conf',)), SIDE, SIDE)


@pytest.mark.parametrize(
    ('entries', 'message'),
    [
        ({'ratio': 0.5, 'method': 'group'}, "did you mean 'group_norm'"),
        ({'ratio': 0.5, 'scope': 'glob'}, "did you mean 'global'"),
        ({}, 'exactly one of'),
        ({'ratio': 0.5, 'cut_gflops': 0.5}, 'exactly one of'),
        ({'ratio': 1.0}, 'ratio must be at least 0 and below 1, not 1.0'),
        ({'cut_parameters': -0.1}, 'cut_parameters must be at least 0 and below 1, not -0.1'),
        ({'latency_ms': 0.0}, 'latency_ms must be above 0, not 0.0'),
        ({'ratio': 0.5, 'round_to': 0}, 'at least 1'),
        ({'ratios': 0.5}, "did you mean 'ratio'"),
    ],
)
def test_settings_are_checked(entries, message):
    with pytest.raises(RecipeError, match=message):
        read(PruneSettings, entries, 'prune')


FAMILIES = ('v8', '11')


def test_networks_pruned_by_half_reload_train_export_and_detect(tmp_path):
    """What comes after pruning runs in a process of its own, which knows nothing of the networks but their files."""
    pruned = {family: prune(detector(family), PruneSettings(ratio=0.5, round_to=4), SIDE, SIDE) for family in FAMILIES}
    for family, result in pruned.items():
        assert result.after.parameters < 0.45 * result.before.parameters
        save_weights(result.network, tmp_path / family / 'pruned.pt', CLASSES)

    folders = [str(tmp_path / family) for family in FAMILIES]
    subprocess.run([sys.executable, '-c', FRESH, *folders], check=True, env=os.environ | {'OMP_NUM_THREADS': '1'})

    for family, result in pruned.items():
        trained, _ = load_network(tmp_path / family / 'trained.pt')
        assert read_kept(tmp_path / family / 'trained.pt') == result.kept
        assert count_parameters(trained) == result.after.parameters
        assert not torch.equal(trained.model[0].conv.weight, result.network.model[0].conv.weight)
        assert detections(tmp_path / family) > 0


FRESH = f"""
import sys
from pathlib import Path
import torch
from training.export.onnx_export import check_parity, export
from training.models.weights import load_network, save_weights
from ultralytics.cfg import get_cfg

for folder in map(Path, sys.argv[1:]):
    network, classes = load_network(folder / 'pruned.pt')
    network.train().args = get_cfg()
    batch = {{
        'img': torch.rand(2, 3, {SIDE}, {SIDE}),
        'cls': torch.zeros(2, 1),
        'bboxes': torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.2, 0.2]]),
        'batch_idx': torch.tensor([0.0, 1.0]),
    }}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    loss, _ = network.loss(batch)
    loss.sum().backward()
    optimizer.step()
    save_weights(network, folder / 'trained.pt', classes)
    module = export(network, {SIDE}, {SIDE}, folder / 'pruned.onnx')
    image = torch.randint(0, 256, ({SIDE}, {SIDE}, 3), dtype=torch.uint8).numpy()
    check_parity(module, folder / 'pruned.onnx', [image])
"""


def detections(folder):
    """How many objects the runtime's detector reports on noise, with the exported network as a bundle."""
    from kd_perception import engines
    from kd_perception.bundles.bundle import write_bundle
    from kd_perception.detection.detector import Detector

    document = bundle_document(
        name='pruned',
        classes=list(CLASSES),
        thresholds={'score': 0.001, 'iou': 0.5},
        artifacts=[artifact_entry(folder, 'pruned.onnx')],
    )
    bundle = write_bundle(folder, document)
    engine = engines.load(bundle, bundle.artifacts[0])
    found, _ = Detector(bundle, engine).detect(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8))
    assert found.boxes.shape == (len(found.scores), 4)
    return len(found.scores)
