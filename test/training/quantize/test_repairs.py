"""Candidates and their repairs: channels equalised, biases and roundings corrected, layers left in float."""

import numpy as np
import pytest
from onnx import numpy_helper
from small_networks import depthwise_lamps, picture_of_lamps

pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

from training.quantize.candidate import Candidate, biased, channel_extremes, leaving, with_ranges  # noqa: E402
from training.quantize.network import constants  # noqa: E402
from training.quantize.noise import layer_noise, unshifted  # noqa: E402
from training.quantize.qdq import QuantizeSettings, channel_scales, with_shapes  # noqa: E402
from training.quantize.repairs import equalised, rounded  # noqa: E402


@pytest.fixture
def candidate(tmp_path):
    def make(target='onnxruntime', **network):
        pictures = [picture_of_lamps(seed)[0] for seed in range(6)]
        images = [image[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) / 10 for image in pictures]
        model = with_shapes(depthwise_lamps(tmp_path / 'model.onnx', **network))
        return with_ranges(Candidate(model, QuantizeSettings(target=target)), images, 'minmax', 100.0), images

    return make


def outputs(model, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    return np.concatenate([session.run(None, {'images': image[None]})[0][:, 4:] for image in images])


def test_equalised_channels_leave_the_float_network_as_it_was(candidate):
    before, images = candidate(spread=4.0)
    after, count = equalised(before, images)
    assert count == 2  # what c1 and c2 read
    np.testing.assert_allclose(outputs(after.model, images), outputs(before.model, images), rtol=1e-3, atol=1e-5)
    low, high = channel_extremes(after.model, ['a0'], images)['a0']
    assert low.min() >= 0
    assert high.max() < 1.2 * high.min()


def test_the_noise_names_the_layer_that_unlike_channels_ruin(candidate):
    spread, images = candidate(spread=6.0)
    layers = {layer.name: layer for layer in layer_noise(spread, images)[0]}
    assert max(layers, key=lambda name: layers[name].noise) == 'c1'
    assert 'depthwise, channels of unlike range' in layers['c1'].why
    own_scales, _ = candidate('openvino', spread=6.0)
    assert layer_noise(own_scales, images)[0][0].noise < 0.1 * layers['c1'].noise


def test_biases_take_the_shift_of_the_mean_back(candidate):
    before, images = candidate(spread=2.0)
    shifts = layer_noise(before, images)[1]
    bias = {tensor.name: numpy_helper.to_array(tensor) for tensor in unshifted(before, images).model.graph.initializer}
    assert np.abs(shifts['c1']).max() > 0
    np.testing.assert_allclose(bias['c1_bias'], -shifts['c1'], rtol=1e-4, atol=1e-7)
    assert not numpy_helper.to_array(constants(biased(before.model).graph)['c1_bias']).any()


def test_a_network_without_depthwise_convolutions_has_one_scale_an_activation(candidate):
    start, images = candidate('openvino')
    assert set(start.channel_ranges) == {'a0'}
    assert with_ranges(leaving(start, ['c1']), images, 'minmax', 100.0).channel_ranges == {}


@pytest.mark.parametrize('act', ['Relu', 'SiLU'])
def test_a_layer_in_float_stays_in_float_in_onnx_runtime(candidate, act):
    """Between Q and DQ it would not: ONNX Runtime rounds the weights of such a convolution by itself, for all channels alike."""
    import onnxruntime

    start, images = candidate(act=act, spread=3.0)
    model = leaving(start, ['c1']).written()
    answers = []
    for level in (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ):
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = level
        session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=['CPUExecutionProvider'])
        answers.append(session.run(None, {'images': images[0][None]})[0])
    np.testing.assert_allclose(answers[1], answers[0], atol=2e-2)
    reading = {node.input[0] for node in model.graph.node if node.op_type == 'QuantizeLinear'}
    assert 'c1' not in reading


def test_rounding_by_what_is_read_keeps_more_than_rounding_to_the_nearest(candidate):
    before, images = candidate()
    after = rounded(before, images)
    assert set(after.weight_scales) == {'w1', 'w2'}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.model.graph.initializer}
    steps = weights['w2'] / after.weight_scales['w2'][:, None, None, None]
    np.testing.assert_allclose(steps, steps.round(), atol=1e-3)
    noise = {layer.name: layer for layer in layer_noise(before, images)[0]}
    less = {layer.name: layer for layer in layer_noise(after, images)[0]}
    assert less['c2'].by_weights < 1e-6 <= noise['c2'].by_weights


@pytest.mark.parametrize(
    ('low', 'high', 'zero'),
    [([0, 0], [1, 100], 0), ([-1, -1], [1, 1], 127), ([0, 0], [0, 0], 0), ([-1, -50], [3, 150], 64)],
)
def test_scales_of_channels_hold_their_ends(low, high, zero):
    scales, found = channel_scales(np.float32(low), np.float32(high))
    assert abs(found - zero) <= 1
    assert np.all(scales * (255 - found) >= np.float32(high) * 0.999)
    assert np.all(scales * found >= -np.float32(low) * 0.999)
