"""Quantization-aware training: what trains is what the QDQ graph computes, and nothing of it stays in the weights."""

import copy

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

from training.errors import QuantizationError  # noqa: E402
from training.export.heads import boxes_scores  # noqa: E402
from training.export.onnx_export import export  # noqa: E402
from training.models.weights import build_network, load_network, save_weights  # noqa: E402
from training.quantize.ptq import quantize  # noqa: E402
from training.quantize.qat import RoundedConv, finish_qat, onnx_ranges, prepare_qat  # noqa: E402
from training.quantize.qdq import QuantizeSettings  # noqa: E402

WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope='module')
def prepared(tiny):
    return prepare_qat(tiny.network, tiny.images)


def rgb(image):
    return torch.from_numpy(image[None]).flip(3).permute(0, 3, 1, 2).float() / 255


def raw(network, image):
    """Box distributions and logits of a network in evaluation mode, (1, 4·16 + classes, N)."""
    with torch.no_grad():
        answers = network(rgb(image))[1]
    return torch.cat([answers['boxes'], answers['scores']], 1)


def test_the_state_has_the_float_networks_tensors(tiny, prepared):
    state = prepared.state_dict()
    assert state.keys() == tiny.network.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in tiny.network.state_dict().items())


def test_all_convolutions_but_the_first_and_the_last_are_rounded(prepared):
    rounded = [name for name, module in prepared.named_modules() if isinstance(module, RoundedConv)]
    assert len(rounded) == 24
    assert 'model.0' not in rounded


def test_values_that_nobody_rounded_are_rounded_where_they_are_read(prepared):
    blocks = {name: module for name, module in prepared.named_modules() if isinstance(module, RoundedConv)}
    assert 'input' in blocks['model.1'].roundings  # behind the float convolution
    assert 'input' not in blocks['model.2.cv1'].roundings  # behind a rounded one
    assert 'input' in blocks['model.2.cv2'].roundings  # behind a concatenation


def test_the_prepared_network_is_near_the_float_one_but_rounded(tiny, prepared):
    difference = (raw(prepared, tiny.images[0]) - raw(tiny.network, tiny.images[0])).abs().mean()
    assert 0 < difference < 0.05


def test_the_float_network_comes_back_exactly(tiny, prepared):
    network, ranges = finish_qat(prepared)
    assert not any(isinstance(module, RoundedConv) for module in network.modules())
    assert len(ranges) == 24
    assert all(low <= 0 <= high for places in ranges.values() for low, high in places.values())
    torch.testing.assert_close(raw(network, tiny.images[0]), raw(tiny.network, tiny.images[0]))


def test_gradients_reach_every_weight_and_lower_the_loss(tiny, prepared):
    student = copy.deepcopy(prepared).train()
    target = raw(tiny.network, tiny.images[0])
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(6):
        answers = student(rgb(tiny.images[0]))
        loss = (torch.cat([answers['boxes'], answers['scores']], 1) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        losses.append(float(loss))
        optimizer.step()
    block = student.get_submodule('model.1')
    for tensor in (block.conv.weight, block.bn.weight, block.bn.bias):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0
    assert losses[-1] < losses[0]
    assert torch.equal(block.bn.running_mean, prepared.get_submodule('model.1').bn.running_mean)
    assert block.roundings['before'].limits == prepared.get_submodule('model.1').roundings['before'].limits


def test_the_graph_has_the_ranges_and_computes_what_was_trained(tiny, prepared, tmp_path):
    network, ranges = finish_qat(prepared)
    fp32, int8 = tmp_path / 'fp32.onnx', tmp_path / 'int8.onnx'
    export(network, WIDTH, HEIGHT, fp32)
    fixed = onnx_ranges(fp32, network, ranges)
    quantize(fp32, int8, tiny.images, QuantizeSettings(), fixed)
    graph = onnx.load(int8).graph
    scales = {
        node.input[0]: numpy_helper.to_array(next(c for c in graph.initializer if c.name == node.input[1]))
        for node in graph.node
        if node.op_type == 'QuantizeLinear'
    }
    parts = {name for node in graph.node if node.op_type == 'Slice' for name in node.output}
    for tensor in set(fixed) & set(scales) - parts:
        low, high = fixed[tensor]
        assert scales[tensor] == pytest.approx((high - low) / 255, rel=1e-4)
    assert len(set(fixed) & set(scales)) > 40

    import onnxruntime

    session = onnxruntime.InferenceSession(str(int8), providers=['CPUExecutionProvider'])
    float_scores = boxes_scores(network, WIDTH, HEIGHT)(torch.from_numpy(tiny.images[0][None]))[1].numpy()
    with torch.no_grad():
        trained = prepared(rgb(tiny.images[0]))[0][:, 4:].transpose(1, 2).numpy()
    found = session.run(['scores'], {'image': tiny.images[0][None]})[0]
    assert np.abs(found - trained).mean() < 0.5 * np.abs(found - float_scores).mean() + 2e-3
    assert np.abs(found - trained).mean() < 0.01


def test_weights_go_through_a_file_and_back(tiny, prepared, tmp_path):
    save_weights(prepared, tmp_path / 'weights.pt', ('car', 'truck', 'bus'))
    network, _ = load_network(tmp_path / 'weights.pt')
    torch.testing.assert_close(raw(network, tiny.images[0]), raw(tiny.network, tiny.images[0]))


def test_wrong_networks_are_refused(tiny, prepared, tmp_path):
    with pytest.raises(QuantizationError, match='needs images'):
        prepare_qat(tiny.network, [])
    with pytest.raises(QuantizationError, match='a fused network has none'):
        prepare_qat(copy.deepcopy(tiny.network).fuse(verbose=False), tiny.images)
    with pytest.raises(QuantizationError, match='not prepared'):
        finish_qat(tiny.network)
    network, ranges = finish_qat(prepared)
    with torch.no_grad():
        network.get_submodule('model.1').conv.weight.add_(1)
    with pytest.raises(QuantizationError, match=r'no convolution with the weights of model\.1'):
        onnx_ranges(tiny.file, network, ranges)


@pytest.mark.parametrize('target', ['tensorrt', 'openvino'])
def test_where_an_engine_fuses_only_what_convolutions_read_is_rounded(tiny, target):
    prepared = prepare_qat(tiny.network, tiny.images, QuantizeSettings(target=target))
    blocks = [block for block in prepared.modules() if isinstance(block, RoundedConv)]
    assert len(blocks) == 24
    assert all(set(block.roundings) == {'input'} for block in blocks)
    assert {block.roundings['input'].symmetric for block in blocks} == {target == 'tensorrt'}


@pytest.mark.parametrize('target', ['tensorrt', 'openvino'])
def test_the_graph_for_an_engine_that_fuses_computes_what_was_trained(tiny, tmp_path, target):
    import onnxruntime

    settings = QuantizeSettings(target=target)
    prepared = prepare_qat(tiny.network, tiny.images, settings)
    network, ranges = finish_qat(prepared)
    fp32, int8 = tmp_path / 'fp32.onnx', tmp_path / 'int8.onnx'
    export(network, WIDTH, HEIGHT, fp32)
    quantize(fp32, int8, tiny.images, settings, onnx_ranges(fp32, network, ranges))
    session = onnxruntime.InferenceSession(str(int8), providers=['CPUExecutionProvider'])
    found = session.run(['scores'], {'image': tiny.images[0][None]})[0]
    off = {}
    for name, trained in {target: prepared, 'onnxruntime': prepare_qat(tiny.network, tiny.images)}.items():
        with torch.no_grad():
            scores = trained(rgb(tiny.images[0]))[0][:, 4:].transpose(1, 2).numpy()
        off[name] = np.abs(found - scores).mean()
    assert off[target] < 0.7 * off['onnxruntime']


@pytest.mark.parametrize(
    ('settings', 'values'),
    [({}, 255), ({'reduce_range': True}, 129), ({'per_channel': False}, 255)],
)
def test_weights_are_rounded_as_the_settings_say(tiny, settings, values):
    block = prepare_qat(tiny.network, tiny.images, QuantizeSettings(**settings)).get_submodule('model.1')
    with torch.no_grad():
        weight = block._rounded(block.conv.weight)
    reach = block.conv.weight.detach().abs()
    scale = reach.amax(dim=(1, 2, 3)) if block.per_channel else reach.amax().expand(len(reach))
    steps = weight / (scale / (values // 2))[:, None, None, None]
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    assert float(steps.abs().max()) == pytest.approx(values // 2, abs=1e-3)


@pytest.mark.parametrize(
    'settings',
    [
        {'first_convolution_float': False},
        {'last_convolutions_float': False},
        {'float_nodes': ('n',)},
        {'operators': ('Add',)},
    ],
)
def test_settings_that_cannot_be_trained_for_are_refused(tiny, settings):
    with pytest.raises(QuantizationError, match='qat'):
        prepare_qat(tiny.network, tiny.images, QuantizeSettings(**settings))


def test_a_yolov4_is_sent_to_quantize(tiny):
    network = build_network({'family': 'yolov4', 'backbone': 'mobilenet_v2', 'neck': 'light', 'width': 0.05}, ('car',))
    with pytest.raises(QuantizationError, match='python -m training quantize'):
        prepare_qat(network, tiny.images)
