"""YOLOv4: the canonical network's size, its variants, and its boxes."""

import pytest

pytest.importorskip('torch')
import torch

from training.errors import WeightsError
from training.models.yolov4.backbones import Classifier, make_backbone, mebibytes, parameter_count
from training.models.yolov4.network import ANCHORS, CENTER_SCALES, YOLOv4, decode


@pytest.mark.parametrize(
    ('backbone', 'neck', 'parameters', 'mib'),
    [
        ('cspdarknet53', 'full', 64_363_101, 245.53),  # the public network
        ('mobilenet_v2', 'depthwise', 10_801_149, 41.2),
        ('mobilenet_v2', 'light', 9_143_165, 34.9),  # ours: 7.04 times smaller than the public network
        ('mobilenet_v2', 'full', 39_062_013, 149.0),
        ('repvit_m0_9', 'full', 42_033_629, 160.4),
        ('repvit_m1_0', 'full', 43_761_849, 166.9),
        ('repvit_m1_1', 'full', 45_176_717, 172.3),
    ],
)
def test_sizes_are_those_of_the_literature(backbone, neck, parameters, mib):
    network = YOLOv4(80, backbone, neck)
    assert parameter_count(network) == parameters
    assert mebibytes(network) == pytest.approx(mib, abs=0.06)


def test_the_backbone_of_the_public_network_has_its_size():
    assert parameter_count(make_backbone('cspdarknet53')) == 26_617_184


@pytest.mark.parametrize('backbone', ['cspdarknet53', 'mobilenet_v2', 'repvit_m0_9'])
def test_maps_and_outputs_have_the_stated_channels_and_strides(backbone):
    network = YOLOv4(3, backbone, 'depthwise').eval()
    image = torch.zeros(2, 3, 64, 96)
    with torch.no_grad():
        maps, outputs = network.backbone(image), network(image)
    wanted = [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(network.backbone.channels, network.backbone.strides, strict=True)
    ]
    assert [tuple(value.shape) for value in maps] == wanted
    assert [tuple(value.shape) for value in outputs] == [(2, 3, 8, *shape[2:]) for shape in wanted]


def test_a_reparameterised_repvit_computes_the_same():
    torch.manual_seed(0)
    backbone = make_backbone('repvit_m0_9').eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        wanted = backbone(image)
        backbone.reparameterise()
        found = backbone(image)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_classifier_gives_maps_a_pooled_vector_and_logits():
    classifier = Classifier('mobilenet_v2', 7).eval()
    with torch.no_grad():
        logits, maps, pooled = classifier(torch.zeros(2, 3, 64, 64))
    assert (tuple(logits.shape), len(maps), tuple(pooled.shape)) == ((2, 7), 3, (2, 320))


def test_a_raw_zero_is_an_anchor_in_the_middle_of_its_cell():
    raw = torch.zeros(1, 3, 5 + 2, 2, 4)
    boxes, scores = decode(raw, torch.tensor(ANCHORS[0]), 8, CENTER_SCALES['cell'][0])
    assert boxes.shape == (1, 24, 4)
    assert scores.shape == (1, 24, 2)
    # the first anchor, 12 × 16, in row 1, column 2
    torch.testing.assert_close(boxes[0, 1 * 4 + 2], torch.tensor([20.0 - 6, 12.0 - 8, 20.0 + 6, 12.0 + 8]))
    assert scores.unique().tolist() == [0.25]


def test_centres_reach_beyond_the_border_of_their_cell():
    raw = torch.zeros(1, 3, 6, 1, 1)
    raw[:, :, 0] = -20.0
    boxes, _ = decode(raw, torch.tensor(ANCHORS[0]), 8, 1.2)
    torch.testing.assert_close((boxes[0, 0, 0] + boxes[0, 0, 2]) / 2, torch.tensor(-0.8), atol=1e-4, rtol=0)


@pytest.mark.parametrize(('backbone', 'neck'), [('mobilenet_v3', 'full'), ('mobilenet_v2', 'depthwize')])
def test_unknown_parts_are_refused(backbone, neck):
    with pytest.raises(WeightsError, match=r'mobilenet_v2|depthwise'):
        YOLOv4(3, backbone, neck)
