"""What OpenVINO computes quicker or closer: one rounding for values that are only moved; channels equalised where rounded."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from small_networks import node, shortcuts

pytest.importorskip('torch')

from training.quantize.candidate import Candidate, leaving, with_ranges
from training.quantize.float_parts import pools_first
from training.quantize.noise import layer_noise
from training.quantize.qdq import QuantizeSettings, float_nodes, quantize_model, with_shapes
from training.quantize.search import SearchSettings
from training.quantize.shared_rounding import groups, shared_ranges
from training.quantize.smoothing import smoothed

SIDE = 16


@pytest.fixture
def network(tmp_path):
    return lambda **options: shortcuts(tmp_path / 'model.onnx', SIDE, **options)


@pytest.fixture
def candidate(network):
    def make(**options):
        start = Candidate(with_shapes(network(**options)), QuantizeSettings(target='openvino'))
        return with_ranges(start, images(), 'minmax', 100.0)

    return make


def images():
    rng = np.random.default_rng(1)
    return [rng.uniform(0, 1, (3, SIDE, SIDE)).astype(np.float32) for _ in range(3)]


def outputs(model):
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    return np.concatenate([session.run(None, {'images': image[None]})[0] for image in images()])


def rounded_tensors(model):
    weights = {tensor.name for tensor in model.graph.initializer}
    return {n.input[0] for n in model.graph.node if n.op_type == 'QuantizeLinear' and n.input[0] not in weights}


def test_what_is_only_moved_is_rounded_where_it_is_made(candidate):
    made = candidate()
    read = {one.input[0] for one in made.quantized}
    assert [(group.read, group.made) for group in groups(made.model.graph, read)] == [
        (('joined', 'second'), ('a1', 'sum')),
        (('pooled',), ('a3',)),
    ]
    written = made.written()
    onnx.checker.check_model(written)
    assert rounded_tensors(written) == {'a0', 'a1', 'sum', 'a3'}
    by_output = {output: one for one in written.graph.node for output in one.output}
    joined = next(one for one in written.graph.node if one.op_type == 'Concat')
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    slices = [by_output[name] for name in joined.input if by_output[name].op_type == 'Slice']
    scales = {float(values[by_output[one.input[0]].input[1]]) for one in slices}
    scales.add(float(values[by_output[joined.input[2]].input[1]]))
    assert len(slices) == 2
    assert len(scales) == 1


def test_a_shared_rounding_changes_no_value_that_had_its_range(candidate):
    made = candidate()
    alone = quantize_model(made.model, made.ranges, made.settings, made.left, shared=False)
    assert rounded_tensors(alone) == {'a0', 'second', 'joined', 'pooled'}
    step = (made.ranges['joined'][1] - made.ranges['joined'][0]) / 255
    assert np.abs(outputs(made.written()) - outputs(alone)).max() < 8 * step


def test_a_shared_range_holds_all_that_is_read(candidate):
    made = candidate()
    ranges = dict(made.ranges) | {'second': (-3.0, 0.5), 'joined': (-0.5, 4.0)}
    shared = shared_ranges(made.model.graph, ['second', 'joined', 'pooled', 'a0'], ranges)
    assert shared['second'] == shared['joined'] == (-3.0, 4.0)
    assert shared['a0'] == ranges['a0']


def test_a_picture_and_an_enlargement_between_pixels_share_nothing(network):
    model = onnx.load(network())
    pool = next(one for one in model.graph.node if one.op_type == 'MaxPool')
    pool.op_type = 'Resize'
    pool.attribute.append(helper.make_attribute('mode', 'linear'))
    model.graph.node.insert(0, node('MaxPool', ['images'], 'smaller', kernel_shape=[1, 1]))
    assert [group.read for group in groups(model.graph, ['smaller', 'pooled', 'joined'])] == [('joined',)]


def test_numbers_that_say_a_shape_are_not_rounded(network):
    model = onnx.load(network())
    place = next(number for number, one in enumerate(model.graph.node) if one.op_type == 'Slice')
    added = [
        node('Shape', ['a1'], 'shape'),
        node('Slice', ['shape', 'zero', 'one'], 'batch'),
        node('Concat', ['batch', 'all', 'side', 'side'], 'wanted', axis=0),
        node('Reshape', ['a1', 'wanted'], 'again'),
    ]
    for one in reversed(added):
        model.graph.node.insert(place, one)
    model.graph.initializer.append(numpy_helper.from_array(np.array([SIDE], np.int64), 'side'))
    for one in model.graph.node[place + len(added) :]:
        one.input[:] = ['again' if name == 'a1' else name for name in one.input]
    found = groups(model.graph, ['second', 'joined'])
    assert [(group.read, group.made) for group in found] == [(('joined', 'second'), ('a1', 'sum'))]


def test_channels_equalised_where_rounded_pass_silu_and_lower_the_noise(candidate):
    before = candidate(spread=5.0)
    after, count = smoothed(before, images())
    assert count == 1  # what c1 reads; what is cut, joined or pooled shares a rounding instead
    np.testing.assert_allclose(outputs(after.model), outputs(before.model), rtol=1e-4, atol=1e-4)
    after = with_ranges(after, images(), 'minmax', 100.0)
    noise = {layer.name: layer.noise for layer in layer_noise(before, images())[0]}
    less = {layer.name: layer.noise for layer in layer_noise(after, images())[0]}
    assert less['c1'] < 0.2 * noise['c1']


def test_openvino_makes_the_division_a_part_of_the_rounding(candidate):
    openvino = pytest.importorskip('openvino')
    after = with_ranges(smoothed(candidate(spread=5.0), images())[0], images(), 'minmax', 100.0)
    core = openvino.Core()
    model = core.read_model(after.written().SerializeToString())
    compiled = core.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    found = np.concatenate([compiled(image[None])[0] for image in images()])
    wanted = outputs(after.model)
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    kinds = [op.get_rt_info()['layerType'].astype(str) for op in compiled.get_runtime_model().get_ops()]
    assert 'Eltwise' not in kinds or kinds.count('Eltwise') <= 1  # the shortcut's sum alone


def test_layers_left_in_float_keep_their_weights(candidate):
    made = candidate()
    left = leaving(made, ['c3'])
    written = replace(left, ranges=made.ranges).written()
    reads = next(one for one in written.graph.node if one.name == 'c3')
    assert reads.input[1] == 'w3'


def test_a_dead_half_does_not_widen_the_range_of_all(network):
    model = with_shapes(network())
    settings = QuantizeSettings(target='openvino')
    limits = dict.fromkeys(('c0', 'a0', 'a1', 'c1', 'a2', 'c2', 'a3', 'c3', 'a4', 'c4', 'joined', 'pooled'), (0.0, 2.0))
    written = quantize_model(model, limits | {'second': (0.0, 0.0)}, settings, float_nodes(model.graph, settings))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    rounding = next(one for one in written.graph.node if one.op_type == 'QuantizeLinear' and one.input[0] == 'a1')
    assert values[rounding.input[1]] == pytest.approx(2 / 255)


def stem(path, *, pooled: bool, activation: str = 'LeakyRelu'):
    """A picture's first convolution, its activation, a MaxPool or none, and two convolutions more."""
    rng = np.random.default_rng(3)
    tensors = {
        'w0': rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        'w1': rng.normal(0, 0.3, (8, 8, 1, 1)).astype(np.float32),
        'w2': rng.normal(0, 0.3, (4, 8, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node('Mul', ['images', 'half'], ['halved'], name='halve'),
        helper.make_node('Conv', ['halved', 'w0'], ['c0'], name='first', pads=[1] * 4),
        helper.make_node(activation, ['c0'], ['a0'], name='activation'),
        helper.make_node('MaxPool', ['a0'], ['p0'], name='pool', kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        helper.make_node('Conv', ['p0' if pooled else 'a0', 'w1'], ['c1'], name='second'),
        helper.make_node('Relu', ['c1'], ['a1'], name='relu'),
        helper.make_node('Conv', ['a1', 'w2'], ['out'], name='last'),
    ]
    tensors['half'] = np.array(0.5, np.float32)
    side = SIDE // 2 if pooled else SIDE
    graph = helper.make_graph(
        [one for one in nodes if pooled or one.name != 'pool'],
        'stem',
        [helper.make_tensor_value_info('images', onnx.TensorProto.FLOAT, (1, 3, SIDE, SIDE))],
        [helper.make_tensor_value_info('out', onnx.TensorProto.FLOAT, (1, 4, side, side))],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize('activation', ['LeakyRelu', 'Relu', 'Sigmoid'])
@pytest.mark.parametrize(('engine', 'pooled', 'is_float'), [
    ('onnxruntime', True, False), ('onnxruntime', False, True), ('openvino', False, False), ('tensorrt', True, True),
])  # fmt: skip
def test_the_first_convolution_is_int8_where_the_engine_gains_by_it(tmp_path, engine, pooled, is_float, activation):
    model = with_shapes(stem(tmp_path / 'stem.onnx', pooled=pooled, activation=activation))
    assert pools_first(model.graph) is pooled
    written = SearchSettings(engine=engine).written(model.graph)
    assert written.first_convolution_float is is_float
    left = float_nodes(model.graph, written)
    assert ('first' in left) is is_float
    assert {'halve', 'last'} <= {*left}
    assert 'second' not in left


def test_onnx_runtime_pools_int8_in_the_layout_of_its_convolutions(tmp_path):
    """Elsewhere its MaxPool of INT8 takes ten times as long."""
    import onnxruntime

    model = with_shapes(stem(tmp_path / 'stem.onnx', pooled=True))
    made = with_ranges(Candidate(model, SearchSettings().written(model.graph)), images(), 'minmax', 100.0)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / 'seen.onnx')
    onnxruntime.InferenceSession(made.written().SerializeToString(), options, providers=['CPUExecutionProvider'])
    kinds = [one.op_type for one in onnx.load(tmp_path / 'seen.onnx').graph.node]
    assert 'NhwcMaxPool' in kinds
    assert 'MaxPool' not in kinds
