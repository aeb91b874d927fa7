"""Quantization of a tiny random detector, for ONNX Runtime and for TensorRT."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

from training.errors import QuantizationError  # noqa: E402
from training.quantize.float_parts import COMPUTING, front, tail  # noqa: E402
from training.quantize.ptq import quantize  # noqa: E402
from training.quantize.qdq import QuantizeSettings, with_shapes  # noqa: E402

CONVOLUTIONS = 31
FLOAT_CONVOLUTIONS = 7
"""The first, and the last of three box and three score branches."""


@pytest.fixture
def int8(tiny, tmp_path):
    def make(**settings):
        target = tmp_path / 'int8.onnx'
        left = quantize(tiny.file, target, tiny.images, QuantizeSettings(**settings))
        return onnx.load(target).graph, left

    return make


def constants(graph):
    return {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}


def makers(graph):
    return {name: node for node in graph.node for name in node.output}


def outputs(file, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    return [session.run(['boxes', 'scores'], {'image': image[None]}) for image in images]


@pytest.mark.parametrize('target', ['onnxruntime', 'tensorrt'])
@pytest.mark.parametrize(('convolutions_float', 'int8_weights'), [(True, 0), (False, 6)])
def test_the_tail_stays_float(int8, target, convolutions_float, int8_weights):
    graph, _ = int8(target=target, last_convolutions_float=convolutions_float)
    maker = makers(graph)
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


def test_for_onnxruntime_activations_are_unsigned_and_weights_signed_per_channel(int8):
    graph, left = int8()
    values, maker = constants(graph), makers(graph)
    quantized = [node for node in graph.node if node.op_type == 'Conv' and node.name not in left]
    assert len(quantized) == CONVOLUTIONS - FLOAT_CONVOLUTIONS
    for node in quantized:
        weight, scale = (values[name] for name in maker[node.input[1]].input[:2])
        assert weight.dtype == np.int8
        assert scale.shape == (weight.shape[0],)
        assert values[maker[node.input[0]].input[2]].dtype == np.uint8


def test_for_tensorrt_everything_is_signed_symmetric_and_per_channel_on_axis_0(int8):
    graph, left = int8(target='tensorrt')
    values, maker = constants(graph), makers(graph)
    assert next(entry.version for entry in onnx.load_model_from_string(_model(graph)).opset_import) <= 17
    pairs = [node for node in graph.node if node.op_type in ('QuantizeLinear', 'DequantizeLinear')]
    assert pairs
    for node in pairs:
        assert values[node.input[2]].dtype == np.int8
        assert not values[node.input[2]].any()
    quantized = [node for node in graph.node if node.op_type == 'Conv' and node.name not in left]
    assert len(quantized) == CONVOLUTIONS - FLOAT_CONVOLUTIONS
    for node in quantized:
        activation, weight = maker[node.input[0]], maker[node.input[1]]
        assert activation.op_type == weight.op_type == 'DequantizeLinear'
        quantizer = maker[weight.input[0]]
        assert quantizer.op_type == 'QuantizeLinear'
        assert values[quantizer.input[0]].dtype == np.float32
        for pair in (quantizer, weight):
            assert [attribute.i for attribute in pair.attribute if attribute.name == 'axis'] == [0]
            assert values[pair.input[1]].shape == (values[quantizer.input[0]].shape[0],)
        assert values[activation.input[1]].shape == ()
        assert node.input[2] in values  # the bias is float


def _model(graph):
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 17)])
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_for_tensorrt_a_convolution_and_its_activation_function_can_be_fused(int8):
    graph, _ = int8(target='tensorrt')
    maker = makers(graph)
    written = {
        maker[node.input[0]].op_type
        for node in graph.node
        if node.op_type == 'QuantizeLinear' and node.input[0] in maker
    }
    assert 'Mul' in written  # the end of SiLU
    assert not written & {'Conv', 'Sigmoid'}


@pytest.mark.parametrize('target', ['onnxruntime', 'tensorrt'])
@pytest.mark.parametrize('per_channel', [True, False])
def test_onnxruntime_computes_int8_near_float(tiny, tmp_path, target, per_channel):
    file = tmp_path / 'int8.onnx'
    quantize(tiny.file, file, tiny.images, QuantizeSettings(target=target, per_channel=per_channel))
    for (boxes, scores), (wanted_boxes, wanted_scores) in zip(
        outputs(file, tiny.images), outputs(tiny.file, tiny.images), strict=True
    ):
        assert 0 < np.abs(scores - wanted_scores).mean() < 0.02
        assert np.abs(boxes - wanted_boxes).mean() < 1


def test_per_tensor_weights_have_one_scale(int8):
    graph, left = int8(per_channel=False)
    values, maker = constants(graph), makers(graph)
    for node in graph.node:
        if node.op_type == 'Conv' and node.name not in left:
            assert values[maker[node.input[1]].input[1]].size == 1


def test_only_the_named_operators_are_quantized(int8):
    graph, _ = int8(operators=('Conv',))
    maker = makers(graph)
    quantizers = [node for node in graph.node if node.op_type == 'QuantizeLinear' and node.input[0] in maker]
    assert 'Conv' in {maker[node.input[0]].op_type for node in quantizers}
    assert 'Sigmoid' not in {maker[node.input[0]].op_type for node in quantizers}
    assert 'Sigmoid' in {maker[node.input[0]].op_type for node in int8()[0].node if node.op_type == 'QuantizeLinear'}


def test_fixed_ranges_take_the_place_of_calibrated_ones(tiny, tmp_path):
    graph = with_shapes(tiny.file).graph
    names = front(graph)
    second = next(node for node in graph.node if node.op_type == 'Conv' and node.name not in names)
    quantize(tiny.file, tmp_path / 'int8.onnx', tiny.images, QuantizeSettings(), {second.input[0]: (-1.0, 4.1)})
    quantized = onnx.load(tmp_path / 'int8.onnx').graph
    values = constants(quantized)
    pair = next(
        node for node in quantized.node if node.op_type == 'QuantizeLinear' and node.input[0] == second.input[0]
    )
    assert values[pair.input[1]] == pytest.approx(5.1 / 255)
    assert values[pair.input[2]] == 50


def test_a_named_node_stays_float(tiny, int8):
    graph = with_shapes(tiny.file).graph
    names = {*front(graph), *tail(graph)}
    named = next(node.name for node in graph.node if node.op_type == 'Conv' and node.name not in names)
    quantized, left = int8(float_nodes=(named,))
    assert named in left
    node = next(node for node in quantized.node if node.name == named)
    assert constants(quantized)[node.input[1]].dtype == np.float32


def test_the_convolution_that_reads_the_pixels_stays_float(tiny):
    graph = onnx.load(tiny.file).graph
    assert [node.op_type for node in graph.node if node.name in front(graph)] == ['Cast', 'Transpose', 'Conv']


def test_the_tail_is_found_whatever_the_nodes_are_named(tiny):
    graph = onnx.load(tiny.file).graph
    names = tail(graph)
    for number, node in enumerate(graph.node):
        node.name = f'n{number}' if node.name in names else node.name
    assert len(tail(graph)) == len(names)
    assert all(name.startswith('n') for name in tail(graph))
    assert sum(node.op_type in COMPUTING for node in graph.node if node.name in tail(graph)) == 6


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'method': 'guess'}, "unknown calibration method 'guess'"),
        ({'target': 'abacus'}, "unknown target 'abacus'"),
        ({'percentile': 9.9}, 'between 50 and 100'),
        ({'operators': ('Convolution',)}, 'Convolution cannot be quantized'),
        ({'float_nodes': ('no_such_node',)}, 'has no node no_such_node'),
    ],
)
def test_wrong_settings_are_refused(tiny, tmp_path, settings, message):
    with pytest.raises(QuantizationError, match=message):
        quantize(tiny.file, tmp_path / 'int8.onnx', tiny.images, QuantizeSettings(**settings))


def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / 'broken.onnx').write_bytes(b'no network')
    with pytest.raises(QuantizationError, match='cannot be read'):
        quantize(tmp_path / 'broken.onnx', tmp_path / 'int8.onnx', [np.zeros((2, 2, 3), np.uint8)], QuantizeSettings())


def test_the_input_stays_uint8(int8):
    graph, _ = int8()
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
