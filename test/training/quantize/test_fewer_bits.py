"""An INT8 graph on a grid of fewer bits, on a tiny random detector and on one convolution computed by hand."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

from training.quantize.fewer_bits import fewer_bits  # noqa: E402
from training.quantize.ptq import quantize  # noqa: E402
from training.quantize.qdq import QuantizeSettings  # noqa: E402


@pytest.fixture
def int8(tiny, tmp_path):
    def make(bits, **settings):
        file = tmp_path / f'{bits}.onnx'
        quantize(tiny.file, file, tiny.images, QuantizeSettings(last_convolutions_float=False, **settings))
        fewer_bits(file, bits)
        return file

    return make


def weights(file):
    """The weights of a graph as numbers, and the whole numbers that they are kept as, by name."""
    graph = onnx.load(file).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type == 'DequantizeLinear' and constants.get(node.input[0], np.float32(0)).dtype == np.int8:
            whole, scale = constants[node.input[0]], constants[node.input[1]]
            axis = [-1 if scale.ndim else 1, *([1] * (whole.ndim - 1))]
            found[node.input[0]] = whole * scale.reshape(axis if scale.ndim else ()), whole
    return found


def outputs(file, images):
    session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    return np.concatenate([session.run(['boxes'], {'image': image[None]})[0] for image in images])


@pytest.mark.parametrize('per_channel', [True, False])
def test_weights_lie_on_the_coarser_grid_near_where_they_were(int8, per_channel):
    whole = weights(int8(8, per_channel=per_channel))
    for bits, most in ((6, 31), (5, 15)):
        coarse = weights(int8(bits, per_channel=per_channel))
        assert coarse.keys() == whole.keys()
        for name, (value, steps) in coarse.items():
            assert np.abs(steps).max() == most
            step = np.abs(whole[name][0]).max() / most
            assert np.abs(value - whole[name][0]).max() <= 0.51 * step


def test_the_fewer_bits_the_farther_off_and_eight_change_nothing(int8, tiny, tmp_path):
    target = tmp_path / 'plain.onnx'
    quantize(tiny.file, target, tiny.images, QuantizeSettings(last_convolutions_float=False))
    assert np.array_equal(outputs(target, tiny.images), outputs(int8(8), tiny.images))
    float_boxes = outputs(tiny.file, tiny.images)
    errors = [np.abs(outputs(int8(bits), tiny.images) - float_boxes).mean() for bits in (8, 6, 4)]
    assert errors[0] < errors[1] < errors[2]


def test_a_convolution_gives_what_its_rounded_parts_give(tmp_path):
    """x in 0 … 2.55 by steps of 0.01, w in ±1.27 by 0.01, bias 0.5; in six bits the steps are 255/63 and 127/31 times as wide."""
    given = {'xs': 0.01, 'xz': np.uint8(0), 'ws': 0.01, 'wz': np.int8(0), 'bs': 1e-4, 'bz': np.int32(0)}
    given |= {'w': np.array([[[[127]], [[-40]]]], np.int8), 'b': np.array([5000], np.int32)}
    constants = [
        numpy_helper.from_array(np.asarray(value, np.float32 if isinstance(value, float) else None), name)
        for name, value in given.items()
    ]
    nodes = [
        helper.make_node('QuantizeLinear', ['x', 'xs', 'xz'], ['xq']),
        helper.make_node('DequantizeLinear', ['xq', 'xs', 'xz'], ['xd']),
        helper.make_node('DequantizeLinear', ['w', 'ws', 'wz'], ['wd']),
        helper.make_node('DequantizeLinear', ['b', 'bs', 'bz'], ['bd']),
        helper.make_node('Conv', ['xd', 'wd', 'bd'], ['y']),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, k, 1, 1)) for name, k in (('x', 2), ('y', 1))]
    graph = helper.make_graph(nodes, 'g', ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=9)
    onnx.save(model, tmp_path / 'g.onnx')
    fewer_bits(tmp_path / 'g.onnx', 6)
    x = np.array([1.0, 2.0], np.float32)
    x_step, w_step = 0.01 * 255 / 63, 0.01 * 127 / 31
    rounded_x, rounded_w = np.rint(x / x_step) * x_step, np.rint(np.array([1.27, -0.40]) / w_step) * w_step
    rounded_b = np.rint(0.5 / (x_step * w_step)) * x_step * w_step
    session = onnxruntime.InferenceSession(str(tmp_path / 'g.onnx'), providers=['CPUExecutionProvider'])
    assert session.run(None, {'x': x.reshape(1, 2, 1, 1)})[0].item() == pytest.approx(
        float(rounded_x @ rounded_w + rounded_b), abs=1e-5
    )


@pytest.mark.parametrize('bits', [1, 9])
def test_other_numbers_of_bits_are_refused(bits, tmp_path):
    with pytest.raises(ValueError, match='bits must be from 2 to 8'):
        fewer_bits(tmp_path / 'none.onnx', bits)
