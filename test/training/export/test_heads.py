"""Every family as one kind of graph: what it returns is what the family's own code returns."""

import numpy as np
import onnx
import pytest
from tiny_detectors import SPARE, with_random_statistics

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

from training.errors import ExportError  # noqa: E402
from training.export.heads import SigmoidMish, boxes_scores  # noqa: E402
from training.export.onnx_export import check_parity, export  # noqa: E402
from training.models import structure  # noqa: E402
from training.models.weights import build_network  # noqa: E402
from training.models.yolov4.network import YOLOv4, decode  # noqa: E402

WIDTH, HEIGHT = 96, 64
CLASSES = ('car', 'truck', 'bus')
FAMILIES = {
    'bins': {},
    'no_bins': {'reg_max': 1},
    'two_branches': {'reg_max': 1, 'end2end': True},
}
QUERIES = {
    'scales': {'z': [0.33, 0.25, 256]},
    'backbone': SPARE['backbone'],
    'head': [[[3, 4, 5], 1, 'RTDETRDecoder', ['nc', 32, 20, 2, 4, 2, 64]]],
}


def distances(family):
    torch.manual_seed(0)
    network = with_random_statistics(build_network(SPARE | FAMILIES[family], CLASSES))
    head = network.model[-1]
    for name in ('cv3', 'one2one_cv3'):
        for branch in getattr(head, name, None) or ():
            branch[-1].bias.data.zero_()
    return network


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def rgb(image):
    return torch.from_numpy(image[None]).flip(3).permute(0, 3, 1, 2).float() / 255


def assert_same(network, image, boxes, scores):
    with torch.no_grad():
        found_boxes, found_scores = boxes_scores(network, WIDTH, HEIGHT)(torch.from_numpy(image[None]))
    torch.testing.assert_close(found_boxes, boxes, atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(found_scores, scores, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize('family', ['bins', 'no_bins'])
def test_distances_decode_as_ultralytics_decodes_them(family, image):
    from ultralytics.utils.ops import xywh2xyxy

    network = distances(family)
    with torch.no_grad():
        wanted = network(rgb(image))[0].transpose(1, 2)
    assert_same(network, image, xywh2xyxy(wanted[..., :4]), wanted[..., 4:])


def test_of_two_branches_the_one_to_many_branch_is_exported(image):
    network = distances('two_branches')
    head = network.model[-1]
    with torch.no_grad():
        for one, many in zip(head.one2one_cv3, head.cv3, strict=True):
            one[-1].bias.fill_(3)  # tells the branches apart
            many[-1].bias.zero_()
        head.end2end = False
        wanted = network(rgb(image))[0].transpose(1, 2)
        head.end2end = True
    module = boxes_scores(network, WIDTH, HEIGHT)
    with torch.no_grad():
        torch.testing.assert_close(module(torch.from_numpy(image[None]))[1], wanted[..., 4:], atol=1e-4, rtol=1e-3)
    assert head.end2end
    assert head.cv2 is not None


def test_a_network_fused_to_its_one_to_one_branch_exports_that(image):
    network = distances('two_branches')
    head = network.model[-1]
    head.end2end = True
    network.fuse(verbose=False)
    with torch.no_grad():
        wanted = head.forward_head(network.predict(rgb(image), embed=None)[1]['one2one']['feats'], **head.one2one)
    assert_same(network, image, *_decoded(head, wanted))


def _decoded(head, raw):
    from ultralytics.utils.tal import dist2bbox, make_anchors

    anchors, strides = make_anchors(raw['feats'], head.stride, 0.5)
    boxes = dist2bbox(raw['boxes'].transpose(1, 2), anchors[None], xywh=False, dim=-1) * strides
    return boxes, raw['scores'].transpose(1, 2).sigmoid()


def test_queries_become_corners_in_pixels(image):
    torch.manual_seed(0)
    network = with_random_statistics(build_network(QUERIES, CLASSES))
    with torch.no_grad():
        _, (boxes, logits, *_) = network(rgb(image))
    centers, sides = boxes[0].split(2, dim=2)
    size = torch.tensor([WIDTH, HEIGHT])
    corners = torch.cat([(centers - sides / 2) * size, (centers + sides / 2) * size], 2)
    assert_same(network, image, corners, logits[0].sigmoid())


@pytest.mark.parametrize(('backbone', 'neck'), [('mobilenet_v2', 'depthwise'), ('cspdarknet53', 'full')])
def test_anchors_decode_as_yolov4_decodes_them(backbone, neck, image):
    torch.manual_seed(0)
    network = with_random_statistics(YOLOv4(len(CLASSES), backbone, neck))
    with torch.no_grad():
        levels = zip(network(rgb(image)), network.anchors, network.strides, (1.2, 1.1, 1.05), strict=True)
        decoded = [decode(*level) for level in levels]
    boxes, scores = (torch.cat([cell_by_cell(value) for value in values], 1) for values in zip(*decoded, strict=True))
    assert_same(network, image, boxes, scores)


def cell_by_cell(value):
    """Candidates anchor by anchor → the anchors of each cell beside one another."""
    return value.unflatten(1, (3, -1)).transpose(1, 2).flatten(1, 2)


def test_mish_without_softplus_is_mish():
    values = torch.cat([torch.linspace(-120, 120, 4801), torch.tensor([-1e30, 1e30])])
    torch.testing.assert_close(SigmoidMish()(values), torch.nn.functional.mish(values), atol=3e-6, rtol=1e-6)


def test_yolov4_is_exported_without_softplus():
    kinds = {type(module) for module in boxes_scores(YOLOv4(len(CLASSES)), 32, 32).modules()}
    assert SigmoidMish in kinds
    assert torch.nn.Mish not in kinds


@pytest.mark.parametrize(
    'make',
    [
        lambda: distances('no_bins'),
        lambda: distances('two_branches'),
        lambda: with_random_statistics(build_network(QUERIES, CLASSES)),
        lambda: with_random_statistics(YOLOv4(len(CLASSES), 'mobilenet_v2', 'depthwise')),
    ],
    ids=['no_bins', 'two_branches', 'queries', 'anchors'],
)
def test_every_family_keeps_its_numbers_in_onnx(make, image, tmp_path):
    torch.manual_seed(0)
    file = tmp_path / 'network.onnx'
    check_parity(export(make(), WIDTH, HEIGHT, file), file, [image])
    kinds = [node.op_type for node in onnx.load(file).graph.node]
    assert 'BatchNormalization' not in kinds
    assert sorted(kinds[: kinds.index('Conv')]) == ['Cast', 'Transpose']


def test_a_network_whose_blocks_are_split_computes_the_same(image):
    network = distances('bins')
    with torch.no_grad():
        wanted = boxes_scores(network, WIDTH, HEIGHT)(torch.from_numpy(image[None]))
    structure.split(network)
    assert structure.is_split(network)
    assert_same(network, image, *wanted)


def test_the_network_itself_is_left_as_it_was(image):
    network = distances('bins')
    with torch.no_grad():
        before = network(rgb(image))[0]
        boxes_scores(network, WIDTH, HEIGHT)
        assert torch.equal(network(rgb(image))[0], before)


def test_an_unknown_head_is_refused():
    with pytest.raises(ExportError, match='no export for the head Sequential'):
        boxes_scores(torch.nn.Sequential(torch.nn.Sequential()), WIDTH, HEIGHT)


def test_an_input_of_other_than_three_channels_is_refused():
    network = build_network(SPARE, CLASSES)
    network.model[0].conv = torch.nn.Conv2d(4, 8, 3, 2, 1)
    with pytest.raises(ExportError, match='convolution of three channels'):
        boxes_scores(network, WIDTH, HEIGHT)
