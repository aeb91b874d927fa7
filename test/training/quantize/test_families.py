"""Quantization of heads without bins, with two branches and with queries: the tail is found, INT8 is near float."""

import numpy as np
import onnx
import pytest

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

from training.export.onnx_export import export  # noqa: E402
from training.models.weights import build_network  # noqa: E402
from training.quantize.qdq import QuantizeSettings, quantize  # noqa: E402

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
FAMILIES = {
    'no bins': (lambda: build_network(DISTANCES, CLASSES), ()),
    'two branches': (lambda: build_network(DISTANCES | {'end2end': True}, CLASSES), ()),
    'queries': (lambda: build_network(QUERIES, CLASSES), ('Conv',)),
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
