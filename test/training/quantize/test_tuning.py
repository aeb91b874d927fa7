"""ONNX graphs in torch: the same numbers as ONNX Runtime; and training in INT8 with the float network as teacher."""

import numpy as np
import onnx
import pytest
from onnx import helper
from small_networks import SIDE as LAMPS_SIDE
from small_networks import conv, depthwise_lamps, node, save, shortcuts

torch = pytest.importorskip('torch')

from training.errors import QuantizationError  # noqa: E402
from training.quantize.candidate import Candidate, with_ranges  # noqa: E402
from training.quantize.qdq import QuantizeSettings, with_shapes  # noqa: E402
from training.quantize.torch_graph import TorchGraph  # noqa: E402
from training.quantize.tuning import tuned  # noqa: E402

SIDE = 12


def pictures(side, count=4):
    rng = np.random.default_rng(1)
    return [rng.uniform(0, 1, (3, side, side)).astype(np.float32) for _ in range(count)]


def candidate(file, images, target='openvino', **settings):
    start = Candidate(with_shapes(file), QuantizeSettings(target=target, **settings))
    return start, with_ranges(start, images, 'minmax', 100.0)


def by_onnx_runtime(model, outputs, picture):
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(copy.SerializeToString(), settings, providers=['CPUExecutionProvider'])
    return session.run(None, {session.get_inputs()[0].name: picture[None]})


def operators(path):
    """One of each operator that the other networks lack."""
    tensors = {
        'w0': np.random.default_rng(2).normal(0, 0.4, (4, 3, 3, 3)).astype(np.float32),
        'shape': np.array([0, 2, 2, -1], np.int64),
        'back': np.array([1, 4, SIDE // 2, SIDE // 2], np.int64),
        'twice': np.array([1, 1, 2, 2], np.float32),
        'order': np.array([2, 0, 1, 3], np.int64),
        'low': np.array(-0.5, np.float32),
        'high': np.array(0.7, np.float32),
        'parts': np.array([1, 3], np.int64),
    }
    nodes = [
        conv(0, 'images', pads=[1, 1, 1, 1], strides=[2, 2]),
        node('LeakyRelu', ['c0'], 'leaky', alpha=0.1),
        node('Reshape', ['leaky', 'shape'], 'four'),
        node('Transpose', ['four'], 'turned', perm=[0, 2, 1, 3]),
        node('Reshape', ['turned', 'back'], 'shuffled'),
        node('Gather', ['shuffled', 'order'], 'gathered', axis=1),
        node('Resize', ['gathered', '', 'twice'], 'large', mode='nearest', coordinate_transformation_mode='asymmetric'),
        node('AveragePool', ['large'], 'mean', kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node('HardSwish', ['mean'], 'swish'),
        node('HardSigmoid', ['swish'], 'gate', alpha=1 / 6),
        node('Sub', ['large', 'gate'], 'less'),
        node('Clip', ['less', 'low', 'high'], 'clipped'),
        helper.make_node('Split', ['clipped', 'parts'], ['one', 'three'], 'split', axis=1),
        node('GlobalAveragePool', ['three'], 'one_each'),
        node('Div', ['three', 'one_each'], 'over'),
        node('Tanh', ['one'], 'tanh'),
        node('Mul', ['over', 'tanh'], 'output'),
    ]
    return save(path, nodes, tensors, {'output': (1, 3, SIDE, SIDE)}, image=(1, 3, SIDE, SIDE))


@pytest.mark.parametrize('target', ['', 'onnxruntime', 'openvino', 'tensorrt'])
@pytest.mark.parametrize(
    ('make', 'side', 'output'),
    [
        (lambda path: shortcuts(path, SIDE, spread=3.0), SIDE, 'c5'),
        (lambda path: depthwise_lamps(path, act='SiLU', spread=3.0), LAMPS_SIDE, 'c3'),
        (operators, SIDE, 'output'),
    ],
    ids=['shortcuts', 'lamps', 'operators'],
)
def test_torch_computes_what_onnx_runtime_computes(tmp_path, make, side, output, target):
    file, images = make(tmp_path / 'model.onnx'), pictures(side)
    model = with_shapes(file)
    if target and make is not operators:
        model = candidate(file, images, target)[1].written()
    found = TorchGraph(model, [output])(torch.from_numpy(images[0][None]))[0].numpy()
    (wanted,) = by_onnx_runtime(model, [output], images[0])
    near = np.abs(found - wanted) <= 1e-4 * max(np.abs(wanted).max(), 1)
    assert near.mean() > 0.95  # a value right between two levels may go either way
    assert np.abs(found - wanted).max() <= 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize('target', ['onnxruntime', 'openvino', 'tensorrt'])
def test_tuned_weights_bring_the_network_nearer_to_the_float_one(tmp_path, target):
    images = pictures(SIDE, 6)
    start, before = candidate(shortcuts(tmp_path / 'model.onnx', SIDE, spread=4.0), images, target, reduce_range=True)
    after = tuned(before, start, images, 60)
    steps = {name: after.weight_scales[name] for name in ('w1', 'w2', 'w3', 'w4')}
    for name, scale in steps.items():
        weight = next(onnx.numpy_helper.to_array(t) for t in after.model.graph.initializer if t.name == name)
        levels = weight / scale[:, None, None, None]
        np.testing.assert_allclose(levels, levels.round(), atol=1e-3)

    def error(model):
        batch = [torch.from_numpy(image[None]) for image in images]
        graph, wanted = TorchGraph(model, ['c5']), TorchGraph(start.model, ['c5'])
        return sum((graph(one)[0] - wanted(one)[0]).square().mean() for one in batch)

    assert error(after.written()) < 0.95 * error(before.written())


def test_a_network_with_an_operator_that_torch_has_not_here_is_no_trainable_one(tmp_path):
    file = save(
        tmp_path / 'model.onnx',
        [conv(0, 'images'), node('Softplus', ['c0'], 'soft'), conv(1, 'soft')],
        {f'w{n}': np.ones((3, 3, 1, 1), np.float32) for n in range(2)},
        {'c1': (1, 3, SIDE, SIDE)},
        image=(1, 3, SIDE, SIDE),
    )
    with pytest.raises(QuantizationError, match='no trainable network: torch has no Softplus here'):
        TorchGraph(with_shapes(file), ['c1'])
