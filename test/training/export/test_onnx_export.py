"""Export of a tiny random detector."""

import numpy as np
import onnx
import pytest
import yaml
from tiny_detectors import SPARE, with_random_statistics

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning:torch', 'ignore:You are using the legacy')

from training.errors import ExportError  # noqa: E402
from training.export.heads import boxes_scores, fold_normalization  # noqa: E402
from training.export.onnx_export import check_parity, export  # noqa: E402
from training.models.ultralytics_architecture import DetectionModel  # noqa: E402

WIDTH, HEIGHT = 96, 64
CLASSES = ('car', 'truck', 'bus')
CELLS = (12 * 8) + (6 * 4) + (3 * 2)


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """A YOLOv8 of width 0.125 with random weights and random batch-norm statistics, so that fusing matters."""
    file = tmp_path_factory.mktemp('tiny') / 'tiny.yaml'
    file.write_text(yaml.safe_dump({'nc': 80, **SPARE}))
    torch.manual_seed(0)
    model = DetectionModel(str(file), nc=len(CLASSES), verbose=False)
    with_random_statistics(model)
    for branch in model.model[-1].cv3:
        branch[-1].bias.data.zero_()
    return model


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(3)]


@pytest.fixture
def exported(network, tmp_path):
    file = tmp_path / 'tiny.onnx'
    return export(network, WIDTH, HEIGHT, file), file


def test_the_graph_takes_pixels_and_returns_boxes_and_scores(exported):
    graph = onnx.load(exported[1]).graph
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {'image': [1, HEIGHT, WIDTH, 3], 'boxes': [1, CELLS, 4], 'scores': [1, CELLS, 3]}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_normalization_and_channel_order_cost_no_node(exported):
    graph = onnx.load(exported[1]).graph
    first = next(node for node in graph.node if node.op_type == 'Conv')
    before = [node.op_type for node in graph.node[: list(graph.node).index(first)]]
    assert sorted(before) == ['Cast', 'Transpose']


def test_graph_and_torch_agree(exported, images):
    module, file = exported
    worst = check_parity(module, file, images)
    assert worst['score'] < 1e-4
    assert worst['box_px'] < 1e-2


def test_our_decoding_is_ultralytics_decoding(network, images):
    from ultralytics.utils.ops import xywh2xyxy

    pixels = torch.from_numpy(images[0][None])
    rgb = pixels.flip(3).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        wanted = network(rgb)[0].transpose(1, 2)
        boxes, scores = boxes_scores(network, WIDTH, HEIGHT)(pixels)
    torch.testing.assert_close(boxes, xywh2xyxy(wanted[..., :4]), atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(scores, wanted[..., 4:], atol=1e-4, rtol=1e-4)


def test_a_file_of_another_network_is_refused(exported, images, network):
    module, file = exported
    with torch.no_grad():
        module.head.score_branches[0][-1].bias += 1
    with pytest.raises(ExportError, match='differs from torch by'):
        check_parity(module, file, images)


def test_parity_without_images_is_refused(exported):
    with pytest.raises(ExportError, match='at least one image'):
        check_parity(*exported, [])


@pytest.mark.parametrize(('width', 'height'), [(100, 64), (96, 70)])
def test_sizes_off_the_stride_are_refused(network, width, height):
    with pytest.raises(ExportError, match='multiple of the largest stride'):
        boxes_scores(network, width, height)


def test_folded_normalization_equals_the_explicit_one():
    torch.manual_seed(1)
    convolution = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1).double()
    bgr = torch.randint(0, 256, (1, 3, 17, 17)).double()
    wanted = convolution(bgr.flip(1) / 255)
    fold_normalization(convolution)
    torch.testing.assert_close(convolution(bgr), wanted)
