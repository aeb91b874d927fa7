"""Export and quantization of a tiny random detector."""

import numpy as np
import onnx
import pytest

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning:torch', 'ignore:You are using the legacy')

from training.errors import ExportError, QuantizationError  # noqa: E402
from training.export.heads import boxes_scores, fold_normalisation  # noqa: E402
from training.export.onnx_export import check_parity, export  # noqa: E402
from training.models.yolo import DetectionModel  # noqa: E402
from training.quantize.qdq import QuantizeSettings, calibration_hash, front, quantize, tail  # noqa: E402

WIDTH, HEIGHT = 96, 64
CLASSES = ('car', 'truck', 'bus')
CELLS = (12 * 8) + (6 * 4) + (3 * 2)
TINY = """\
nc: 80
scales: {z: [0.33, 0.125, 256]}
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 1, C2f, [128, True]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 1, Conv, [512, 3, 2]]
  - [-1, 1, Conv, [512, 3, 2]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 1, C2f, [256]]
  - [[3, 8, 5], 1, Detect, [nc]]
"""


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """A YOLOv8 of width 0.125 with random weights and random batch-norm statistics, so that fusing matters."""
    file = tmp_path_factory.mktemp('tiny') / 'tiny.yaml'
    file.write_text(TINY)
    torch.manual_seed(0)
    model = DetectionModel(str(file), nc=len(CLASSES), verbose=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    for branch in model.model[-1].cv3:
        branch[-1].bias.data.zero_()
    return model.eval()


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


def test_normalisation_and_channel_order_cost_no_node(exported):
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


def test_folded_normalisation_equals_the_explicit_one():
    torch.manual_seed(1)
    convolution = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1).double()
    bgr = torch.randint(0, 256, (1, 3, 17, 17)).double()
    wanted = convolution(bgr.flip(1) / 255)
    fold_normalisation(convolution)
    torch.testing.assert_close(convolution(bgr), wanted)


@pytest.mark.parametrize(('convolutions_float', 'int8_weights'), [(True, 0), (False, 6)])
def test_the_tail_stays_float(exported, images, tmp_path, convolutions_float, int8_weights):
    target = tmp_path / 'int8.onnx'
    quantize(exported[1], target, images, QuantizeSettings(last_convolutions_float=convolutions_float))
    graph = onnx.load(target).graph
    maker = {name: node for node in graph.node for name in node.output}
    waiting, seen, convolutions = [output.name for output in graph.output], set(), {}
    while waiting:
        node = maker.get(waiting.pop())
        if node is None or node.op_type == 'Conv':
            convolutions |= {} if node is None else {node.name: node}
            continue
        seen.add(node.op_type)
        waiting += node.input
    assert {'Softmax', 'Sigmoid', 'Concat', 'Sub', 'Add'} <= seen
    assert len(convolutions) == 6
    weights = [maker[node.input[1]].op_type for node in convolutions.values() if node.input[1] in maker]
    assert weights == ['DequantizeLinear'] * int8_weights
    if convolutions_float:
        assert not seen & {'QuantizeLinear', 'DequantizeLinear'}


def test_all_other_convolutions_have_int8_weights_per_channel(exported, images, tmp_path):
    target = tmp_path / 'int8.onnx'
    left = quantize(exported[1], target, images, QuantizeSettings())
    graph = onnx.load(target).graph
    constants = {constant.name: constant for constant in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type != 'Conv' or node.name in left:
            continue
        weight, scale = (constants[name] for name in maker[node.input[1]].input[:2])
        activation = maker[node.input[0]]
        assert weight.data_type == onnx.TensorProto.INT8
        assert list(scale.dims) == [weight.dims[0]]
        assert constants[activation.input[2]].data_type == onnx.TensorProto.UINT8


def test_the_convolution_that_reads_the_pixels_stays_float(exported):
    graph = onnx.load(exported[1]).graph
    kinds = [node.op_type for node in graph.node if node.name in front(graph)]
    assert kinds == ['Cast', 'Transpose', 'Conv']


def test_int8_is_near_float(exported, images, tmp_path):
    import onnxruntime

    target = tmp_path / 'int8.onnx'
    quantize(exported[1], target, images, QuantizeSettings())
    scores = [
        onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider']).run(
            ['scores'], {'image': images[0][None]}
        )[0]
        for file in (exported[1], target)
    ]
    assert np.abs(scores[0] - scores[1]).mean() < 0.02
    assert not np.array_equal(*scores)


def test_the_tail_is_found_whatever_the_nodes_are_named(exported):
    graph = onnx.load(exported[1]).graph
    names = tail(graph)
    for number, node in enumerate(graph.node):
        node.name = f'n{number}' if node.name in names else node.name
    assert len(tail(graph)) == len(names)
    assert all(name.startswith('n') for name in tail(graph))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (QuantizeSettings(method='guess'), "unknown calibration method 'guess'"),
        (QuantizeSettings(float_nodes=('no_such_node',)), 'has no node no_such_node'),
    ],
)
def test_wrong_settings_are_refused(exported, images, tmp_path, settings, message):
    with pytest.raises(QuantizationError, match=message):
        quantize(exported[1], tmp_path / 'int8.onnx', images, settings)


def test_calibration_needs_images(exported, tmp_path):
    with pytest.raises(QuantizationError, match='needs images'):
        quantize(exported[1], tmp_path / 'int8.onnx', [], QuantizeSettings())


def test_the_calibration_hash_knows_pixels_and_order(images):
    assert calibration_hash(images) == calibration_hash([image.copy() for image in images])
    assert calibration_hash(images) != calibration_hash(images[::-1])
