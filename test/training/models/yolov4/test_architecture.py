"""YOLOv4 by its architecture: built from mappings and yaml files, saved and loaded."""

from pathlib import Path

import pytest

pytest.importorskip('torch')
import torch

from training.errors import WeightsError
from training.models.weights import build_network, load_network, save_weights
from training.models.yolov4.backbones import parameter_count
from training.models.yolov4.network import ANCHORS, YOLOv4

NETWORKS = Path(__file__).parents[4] / 'training' / 'recipes' / 'networks'
CLASSES = ('car', 'bus')
LIGHT = {'family': 'yolov4', 'backbone': 'mobilenet_v2', 'neck': 'depthwise'}


@pytest.mark.parametrize(
    ('file', 'parameters'),
    [('m_yolo.yaml', 10_801_149), ('m_yolo_small.yaml', 2_511_357), ('rv_yolo.yaml', 45_176_717)],
)
def test_networks_of_the_recipes_have_their_sizes(file, parameters):
    network = build_network(str(NETWORKS / file), [f'class {number}' for number in range(80)])
    assert isinstance(network, YOLOv4)
    assert parameter_count(network) == parameters


def test_width_is_a_share_of_the_channels_of_neck_and_heads():
    whole, quarter = (build_network({**LIGHT, 'width': width}, CLASSES) for width in (1.0, 0.25))
    assert quarter.neck.outputs == (32, 64, 128)
    assert parameter_count(quarter.backbone) == parameter_count(whole.backbone)
    assert 12 < parameter_count(whole.neck) / parameter_count(quarter.neck) < 16


def test_a_saved_network_is_the_same_when_loaded(tmp_path):
    anchors = [[[side + 10 * level, side] for side in (4, 8, 12)] for level in range(3)]
    network = build_network({**LIGHT, 'anchors': anchors}, CLASSES).eval()
    save_weights(network, tmp_path / 'weights.pt', CLASSES)
    loaded, classes = load_network(tmp_path / 'weights.pt')
    assert classes == CLASSES
    assert loaded.yaml == {**LIGHT, 'width': 1.0, 'match': 0.213, 'assignment': 'cell', 'anchors': anchors}
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(loaded(image), network(image), strict=True):
            assert torch.equal(ours, theirs)


def test_what_is_left_out_is_yolov4_s_own():
    network = build_network(LIGHT, CLASSES)
    assert torch.equal(network.anchors, torch.tensor(ANCHORS))


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'backbone': 'mobilenet_v3'}, "did you mean 'mobilenet_v2'"),
        ({'neck': 'wide'}, 'there is no neck'),
        ({'assignment': 'corners'}, 'there is no assignment'),
        ({'assignment': 3}, 'are names'),
        ({'width': 0}, 'width must be a number'),
        ({'width': True}, 'width must be a number'),
        ({'width': float('nan')}, 'width must be a number'),
        ({'match': 1.5}, 'match must be a number from 0 to 1'),
        ({'necks': 'full'}, "did you mean 'neck'"),
        ({'backbone': 3}, 'are names'),
        ({'anchors': [[1, 2]]}, 'anchors must be'),
        ({'anchors': [[[1, 2]] * 3] * 2}, 'anchors must be three'),
        ({'anchors': [[[1, -2]] * 3] * 3}, 'over 0'),
        ({'anchors': [[[1, float('nan')]] * 3] * 3}, 'over 0'),
    ],
)
def test_wrong_architectures_are_refused(changes, says):
    with pytest.raises(WeightsError, match=says):
        build_network({**LIGHT, **changes}, CLASSES)
