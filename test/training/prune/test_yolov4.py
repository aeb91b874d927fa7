"""The permissive family is pruned like the others: dead channels cost nothing, and the result reloads without Ultralytics."""

import pytest

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning:torch')

from pruned_networks import assert_outputs_stayed, image, with_dead_channels  # noqa: E402
from tiny_detectors import CLASSES, SIDE, with_random_statistics  # noqa: E402
from without_ultralytics import run_without_ultralytics  # noqa: E402

from training.errors import PruneError  # noqa: E402
from training.models import structure  # noqa: E402
from training.models.transfer import with_classes  # noqa: E402
from training.models.weights import load_network, read_kept, save_weights  # noqa: E402
from training.models.yolov4.architecture import build  # noqa: E402
from training.models.yolov4.network import deployed  # noqa: E402
from training.prune.channels import groups  # noqa: E402
from training.prune.pruning import prune  # noqa: E402
from training.prune.sensitivity import output_drift, sensitivity  # noqa: E402
from training.prune.settings import PruneSettings  # noqa: E402


def network(backbone, neck='light'):
    torch.manual_seed(0)
    return with_random_statistics(
        build({'family': 'yolov4', 'backbone': backbone, 'neck': neck, 'width': 0.125}, CLASSES)
    )


@pytest.mark.parametrize(
    ('backbone', 'neck'),
    [
        ('timm/efficientnet_lite0', 'light'),
        ('mobilenet_v2', 'depthwise'),
        ('timm/resnet18', 'full'),
        pytest.param('cspdarknet53', 'full', marks=pytest.mark.thorough),
    ],
)
def test_dead_channels_go_without_a_trace(backbone, neck):
    whole = with_dead_channels(network(backbone, neck))
    pruned = prune(whole, PruneSettings(ratio=0.5, round_to=1), SIDE, SIDE)
    assert pruned.after.parameters < 0.35 * pruned.before.parameters
    assert_outputs_stayed(pruned, whole)


@pytest.mark.parametrize('backbone', ['repvit_m0_9', 'timm/mobilenetv3_small_100'])
def test_gates_and_branches_are_pruned_by_their_weights_and_reload(backbone, tmp_path):
    pruned = prune(network(backbone), PruneSettings(method='group_norm', ratio=0.5, round_to=4), SIDE, SIDE)
    save_weights(pruned.network, tmp_path / 'pruned.pt', CLASSES)
    again, classes = load_network(tmp_path / 'pruned.pt')
    assert classes == CLASSES
    assert again.kept == read_kept(tmp_path / 'pruned.pt') == pruned.kept
    with torch.no_grad():
        for one, other, joined in zip(pruned.network(image()), again(image()), deployed(again)(image()), strict=True):
            assert torch.equal(one, other)
            torch.testing.assert_close(joined, other, rtol=1e-4, atol=1e-5)


def test_a_pruned_network_takes_other_classes_and_keeps_what_it_shares():
    pruned = prune(network('timm/efficientnet_lite0'), PruneSettings(ratio=0.5), SIDE, SIDE).network
    other = with_classes(pruned, CLASSES, ('bus', 'tram', 'lorry'))
    assert other.classes == ('bus',)
    assert structure.describe(other.network)['normalizations'] == structure.describe(pruned)['normalizations']
    rows, whole = other.network.heads[0][1].weight.unflatten(0, (3, 8)), pruned.heads[0][1].weight.unflatten(0, (3, 7))
    assert torch.equal(rows[:, :5], whole[:, :5])
    assert torch.equal(rows[:, 5], whole[:, 6])
    assert [maps.shape[2] for maps in other.network(image())] == [8] * 3


def test_what_cannot_be_pruned_is_refused_in_words():
    with pytest.raises(PruneError, match='a block of its kind cannot be pruned'):
        prune(network('timm/edgenext_xx_small'), PruneSettings(method='group_norm', ratio=0.5), SIDE, SIDE)
    with pytest.raises(PruneError, match='torch-pruning cannot follow this network'):
        groups(network('timm/dpn68'))


def test_each_layer_alone_shows_what_it_bears():
    whole = network('mobilenet_v2')
    rows = sensitivity(whole, output_drift(whole, image()), PruneSettings(ratio=0.5, round_to=1), (0.5,))
    assert len(rows) == len(groups(whole))
    assert {row.layer.partition('.')[0] for row in rows} == {'backbone', 'neck', 'heads'}
    assert all(row.value > 0 for row in rows)


def test_files_with_a_structure_of_another_network_are_refused():
    whole = network('timm/efficientnet_lite0')
    for change in ({'neck.fine_up.2.1': 10**9}, {'neck.fine_up.2.1': 0}, {'neck.fine_up.2.1': True}):
        described = structure.describe(whole)
        described['normalizations'] |= change
        with pytest.raises(PruneError, match=r'neck.fine_up.2.1 cannot have'):
            structure.restore(network('timm/efficientnet_lite0'), described)


WITHOUT_ULTRALYTICS = """
from pathlib import Path

from training.export.onnx_export import export
from training.models.weights import load_network, save_weights
from training.prune.pruning import prune
from training.prune.settings import PruneSettings
from training.prune.sparsity import SparsityPenalty, SparsitySettings

folder = Path(sys.argv[1])
whole, classes = load_network(folder / 'whole.pt')
SparsityPenalty(whole, SparsitySettings()).add_gradients(0.5)
pruned = prune(whole, PruneSettings(cut_parameters=0.7), 64, 64)
save_weights(pruned.network, folder / 'pruned.pt', classes)
again, _ = load_network(folder / 'pruned.pt')
export(again, 64, 64, folder / 'pruned.onnx')
print(pruned.before.parameters, pruned.after.parameters)
"""


def test_penalty_pruning_reloading_and_export_do_without_ultralytics(tmp_path):
    save_weights(network('timm/efficientnet_lite0'), tmp_path / 'whole.pt', CLASSES)
    done = run_without_ultralytics(WITHOUT_ULTRALYTICS, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    before, after = map(int, done.stdout.split())
    assert 0.25 * before < after <= 0.3 * before
