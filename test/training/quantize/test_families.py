"""Quantization of heads without bins, with two branches and with queries: the tail is found, INT8 is near float."""

import numpy as np
import onnx
import pytest

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

from training.export.heads import SigmoidMish  # noqa: E402
from training.export.onnx_export import export  # noqa: E402
from training.models.weights import build_network  # noqa: E402
from training.quantize.float_parts import MISH, mish, products  # noqa: E402
from training.quantize.ptq import quantize  # noqa: E402
from training.quantize.qdq import QuantizeSettings  # noqa: E402

WIDTH, HEIGHT = 96, 64
CLASSES = ('car', 'truck', 'bus')
BODY = [[-1, 1, 'Conv', [64, 3, 2]], *([[-1, 1, 'Conv', [128, 3, 2]]] * 4)]
SCALES = {'z': [0.33, 0.125, 256]}
QUERIES = {
    'scales': SCALES,
    'backbone': BODY,
    'head': [[[2, 3, 4], 1, 'RTDETRDecoder', ['nc', 32, 20, 2, 4, 2, 64]]],
}
DISTANCES = {'scales': SCALES, 'backbone': BODY, 'head': [[[2, 3, 4], 1, 'Detect', ['nc']]], 'reg_max': 1}
ANCHORS = {'family': 'yolov4', 'backbone': 'mobilenet_v2', 'neck': 'light', 'width': 0.125}
FAMILIES = {
    'no bins': (lambda: build_network(DISTANCES, CLASSES), ()),
    'two branches': (lambda: build_network(DISTANCES | {'end2end': True}, CLASSES), ()),
    'queries': (lambda: build_network(QUERIES, CLASSES), ('Conv',)),
    'anchors': (lambda: build_network(ANCHORS, CLASSES), ()),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_every_family_is_quantized_with_its_tail_in_float(family, tmp_path):
    import onnxruntime

    build, operators = FAMILIES[family]
    torch.manual_seed(0)
    files = [tmp_path / 'fp32.onnx', tmp_path / 'int8.onnx']
    export(build().eval(), WIDTH, HEIGHT, files[0])
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(2)]
    quantize(files[0], files[1], images, QuantizeSettings(operators=operators))
    graph = onnx.load(files[1]).graph
    assert len(products(onnx.load(files[0]).graph)) == (6 if family == 'anchors' else 0)
    assert_products_read_int8_and_write_float(graph)
    maker = {name: node for node in graph.node for name in node.output}
    assert any(node.op_type == 'QuantizeLinear' for node in graph.node)
    assert all(maker[output.name].op_type != 'DequantizeLinear' for output in graph.output)
    scores = [
        onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider']).run(
            ['scores'], {'image': images[0][None]}
        )[0]
        for file in files
    ]
    assert np.sort(scores[0], axis=1) == pytest.approx(np.sort(scores[1], axis=1), abs=0.02)


def assert_products_read_int8_and_write_float(graph):
    maker = {name: node for node in graph.node for name in node.output}
    quantized = {node.input[0] for node in graph.node if node.op_type == 'QuantizeLinear'}
    for node in graph.node:
        if node.name in products(graph):
            assert {maker[name].op_type for name in node.input} == {'DequantizeLinear'}
            assert node.output[0] not in quantized


def test_mish_stays_float_as_a_whole(tmp_path):
    import onnxruntime

    torch.manual_seed(0)
    first, middle, last = (torch.nn.Conv2d(*channels, 3) for channels in ((3, 8), (8, 8), (8, 4)))
    network = Pixels(torch.nn.Sequential(first, SigmoidMish(), middle, SigmoidMish(), last))
    files = [tmp_path / 'fp32.onnx', tmp_path / 'int8.onnx']
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(2)]
    example = (torch.from_numpy(images[0][None]),)
    torch.onnx.export(network, example, str(files[0]), dynamo=False, opset_version=17, input_names=['image'])
    left = quantize(files[0], files[1], images, QuantizeSettings())
    names = mish(onnx.load(files[0]).graph)
    assert len(names) == 2 * len(MISH)
    assert {*names} <= {*left}
    sessions = [onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider']) for file in files]
    wanted, found = (session.run(None, {'image': images[0][None]})[0] for session in sessions)
    assert 0 < np.abs(found - wanted).max() < 0.02


class Pixels(torch.nn.Module):
    """A network that reads an image as bytes."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, image):
        return self.body(image.float().permute(0, 3, 1, 2) / 255)
