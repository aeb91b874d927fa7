"""Networks of foreign exporters made ready: they compute the same, and the quantizer can take them."""

import numpy as np
import onnx
import pytest
from onnx import helper
from small_networks import SIDE, save

from training.errors import QuantizationError
from training.quantize.activations import activation_functions
from training.quantize.float_parts import front, tail
from training.quantize.network import constants, convolutions, focus_to_convolution, read_network
from training.quantize.qdq import depthwise_inputs


def run(model, image):
    import onnxruntime

    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model.read_bytes()
    return onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider']).run(None, {'images': image})


@pytest.fixture
def image():
    return np.random.default_rng(0).normal(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32)


def focus(path, starts=((0, 0), (1, 0), (0, 1), (1, 1)), last=None, **how):
    """Four slices, each by two nodes as YOLOX's exporter writes them, joined, and a convolution."""
    nodes, joined = [], []
    for number, (row, column) in enumerate(starts):
        rows, both = f'rows{number}', f'both{number}'
        nodes.append(helper.make_node('Slice', ['images', f's{row}', 'end', 'two', 'step'], [rows], rows))
        nodes.append(helper.make_node('Slice', [rows, f's{column}', 'end', 'three', 'step'], [both], both))
        joined.append(both)
    nodes.append(helper.make_node('Concat', joined, ['joined'], 'joined', axis=1))
    nodes.append(helper.make_node('Conv', ['joined', 'w', 'b'], ['c'], 'c', pads=[1, 1, 1, 1], **(last or {})))
    nodes.append(helper.make_node('Relu', ['c'], ['out'], 'out'))
    rng = np.random.default_rng(1)
    tensors = {
        name: np.array([value], np.int64) for name, value in {'s0': 0, 's1': 1, 'two': 2, 'three': 3, 'step': 2}.items()
    }
    tensors |= {'end': np.array([2**31 - 1], np.int64), 'b': rng.normal(0, 1, 5).astype(np.float32)}
    tensors['w'] = rng.normal(0, 1, (5, 12, 3, 3)).astype(np.float32)
    return save(path, nodes, tensors, {'out': (1, 5, SIDE // 2, SIDE // 2)}, **how)


@pytest.mark.parametrize('starts', [((0, 0), (1, 0), (0, 1), (1, 1)), ((1, 1), (0, 0), (1, 0), (0, 1))])
def test_slices_before_a_convolution_become_one_convolution(tmp_path, image, starts):
    file = focus(tmp_path / 'focus.onnx', starts)
    model = read_network(file)
    assert [node.op_type for node in model.graph.node] == ['Conv', 'Relu']
    np.testing.assert_allclose(run(model, image)[0], run(file, image)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('starts', [((0, 0), (0, 0), (0, 1), (1, 1)), ((0, 0), (1, 0), (0, 1), (0, 0))])
def test_other_slices_stay(tmp_path, starts):
    assert focus_to_convolution(onnx.load(focus(tmp_path / 'focus.onnx', starts)).graph) == 0


@pytest.mark.parametrize('how', [{'opset': 11}, {'weights_as_inputs': True}, {'image': ('batch', 3, 'h', 'w')}])
def test_old_and_open_graphs_are_made_ready(tmp_path, image, how):
    file = focus(tmp_path / 'old.onnx', **how)
    model = read_network(file, (1, 3, SIDE, SIDE))
    assert [value.name for value in model.graph.input] == ['images']
    assert max(entry.version for entry in model.opset_import) >= 13
    assert {node.name for node in convolutions(model.graph)} == {'c'}
    assert front(model.graph) == ['c']
    np.testing.assert_allclose(run(model, image)[0], run(file, image)[0], rtol=1e-4, atol=1e-4)


def test_batch_norms_are_folded(tmp_path, image):
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node('Conv', ['images', 'w'], ['c']),
        helper.make_node('BatchNormalization', ['c', 'gain', 'bias', 'mean', 'var'], ['n']),
        helper.make_node('Relu', ['n'], ['out']),
    ]
    tensors = {name: rng.uniform(0.5, 2, 4).astype(np.float32) for name in ('gain', 'bias', 'mean', 'var')}
    tensors['w'] = rng.normal(0, 1, (4, 3, 3, 3)).astype(np.float32)
    file = save(tmp_path / 'norm.onnx', nodes, tensors, {'out': (1, 4, SIDE - 2, SIDE - 2)})
    model = read_network(file)
    assert [node.op_type for node in model.graph.node] == ['Conv', 'Relu']
    assert all(node.name for node in model.graph.node)
    np.testing.assert_allclose(run(model, image)[0], run(file, image)[0], rtol=1e-3, atol=1e-4)


def test_operators_of_other_domains_are_refused(tmp_path):
    node = helper.make_node('QLinearThing', ['images'], ['out'], 'q', domain='com.example')
    file = save(tmp_path / 'other.onnx', [node], {}, {'out': (1, 3, SIDE, SIDE)})
    with pytest.raises(QuantizationError, match=r'com\.example\.QLinearThing, not of the ONNX standard'):
        read_network(file)


def test_the_mean_over_bins_belongs_to_the_tail_whatever_computes_it(tmp_path):
    nodes = [
        helper.make_node('Conv', ['images', 'w'], ['c'], 'c'),
        helper.make_node('Relu', ['c'], ['r'], 'r'),
        helper.make_node('Conv', ['r', 'v'], ['d'], 'd'),
        helper.make_node('Softmax', ['d'], ['s'], 's', axis=1),
        helper.make_node('Transpose', ['s'], ['t'], 't', perm=[0, 1, 2, 3]),
        helper.make_node('Conv', ['t', 'bins'], ['out'], 'bins'),
    ]
    rng = np.random.default_rng(3)
    tensors = {'w': rng.normal(0, 1, (8, 3, 1, 1)), 'v': rng.normal(0, 1, (8, 8, 1, 1))}
    tensors['bins'] = np.arange(8.0).reshape(1, 8, 1, 1)
    weights = {name: value.astype(np.float32) for name, value in tensors.items()}
    model = read_network(save(tmp_path / 'bins.onnx', nodes, weights, {'out': (1, 1, SIDE, SIDE)}))
    assert set(tail(model.graph)) == {'bins', 't', 's', 'd'}


ERF = [
    ('Div', ['x', 'k'], 'd'),
    ('Erf', ['d'], 'e'),
    ('Add', ['e', 'k'], 'p'),
    ('Mul', ['x', 'p'], 'm'),
    ('Mul', ['m', 'k'], 'y'),
]


@pytest.mark.parametrize(
    ('kind', 'nodes'),
    [
        ('SiLU', [('Sigmoid', ['x'], 's'), ('Mul', ['x', 's'], 'y')]),
        ('HardSwish', [('HardSigmoid', ['x'], 's'), ('Mul', ['s', 'x'], 'y')]),
        ('HardSwish', [('HardSwish', ['x'], 'y')]),
        ('GELU', ERF),
        (None, [('Sigmoid', ['x'], 's'), ('Mul', ['s', 'k'], 'y')]),
    ],
)
def test_activation_functions_are_seen_as_one_operator(kind, nodes):
    graph = onnx.GraphProto()
    graph.node.extend(helper.make_node(op, inputs, [output], output) for op, inputs, output in nodes)
    found = activation_functions(graph)
    assert [(one.kind, one.reads, one.writes) for one in found] == ([(kind, 'x', 'y')] if kind else [])
    for one in found:
        assert len(one.nodes) == len(nodes)
        value = one.function(np.array([-20.0, 0.0, 3.0]))
        assert value == pytest.approx([0, 0, 3], abs=0.2)


def test_what_only_depthwise_convolutions_read_may_have_a_scale_a_channel(tmp_path):
    from small_networks import depthwise_lamps

    model = read_network(depthwise_lamps(tmp_path / 'lamps.onnx'))
    assert depthwise_inputs(model.graph, ['c0', 'c3']) == ['a0']
    assert depthwise_inputs(model.graph, ['c0', 'c1', 'c3']) == []
    assert set(constants(model.graph)) >= {'w0', 'w1', 'w2', 'w3'}
