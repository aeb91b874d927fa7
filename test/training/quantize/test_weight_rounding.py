"""Learned rounding against the nearest one: a layer whose errors add up, and a small network whole."""

import numpy as np
import pytest
from small_networks import SIDE as LAMPS_SIDE
from small_networks import chain, depthwise_lamps, shortcuts

torch = pytest.importorskip('torch')

from training.quantize.candidate import Candidate, with_ranges  # noqa: E402
from training.quantize.qdq import QuantizeSettings, with_shapes  # noqa: E402
from training.quantize.torch_graph import TorchGraph  # noqa: E402
from training.quantize.weight_rounding import Layer, learn, learned  # noqa: E402

SIDE, LEVELS = 12, 7


def layer(groups, values):
    """As behind ReLU: what is read is positive and goes together; weights of 4 bits, so that rounding costs much."""
    draw = torch.Generator().manual_seed(1)
    few = torch.randn(groups, 1200, values // 4, generator=draw)
    mixed = few @ torch.randn(groups, values // 4, values, generator=draw) / 2
    read = torch.relu(mixed + 0.3 * torch.randn(groups, 1200, values, generator=draw) + 0.2)
    weight = torch.randn(groups, 4, values, generator=draw)
    scale = weight.abs().amax(2, keepdim=True) / LEVELS
    bias = torch.zeros(groups, 1, 4)
    return Layer(weight, scale, bias, read, read @ weight.transpose(1, 2), torch.relu)


@pytest.mark.parametrize(('groups', 'values', 'share'), [(1, 32, 0.75), (3, 8, 0.95)])
def test_learned_rounding_keeps_more_of_what_a_layer_writes(groups, values, share):
    one = layer(groups, values)
    weight, bias = learn(one, LEVELS, 300)
    steps = weight / one.scale
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    assert (steps - one.weight / one.scale).abs().max() < 1  # up or down, no farther

    def error(weights, biases):
        found = torch.relu(one.read @ weights.transpose(1, 2) + biases)
        return (found - torch.relu(one.wanted)).square().mean()

    nearest = torch.round(one.weight / one.scale) * one.scale
    shift = (one.read @ nearest.transpose(1, 2) - one.wanted).mean(1, keepdim=True)
    assert error(weight, bias) < share * error(nearest, -shift)  # biases corrected in both
    again, _ = learn(one, LEVELS, 300)
    torch.testing.assert_close(again, weight, atol=0, rtol=0)


def test_where_learning_gains_nothing_rounding_is_to_the_nearest():
    one = layer(1, 32)
    on_grid = torch.round(one.weight / one.scale) * one.scale
    exact = Layer(on_grid, one.scale, one.bias, one.read, one.read @ on_grid.transpose(1, 2), one.function)
    weight, bias = learn(exact, LEVELS, 20)
    torch.testing.assert_close(weight, on_grid)
    torch.testing.assert_close(bias, one.bias, atol=1e-5, rtol=0)


def small(make, path, **options):
    """One of the small networks, with pictures that calibrate, and others."""
    side = LAMPS_SIDE if make is depthwise_lamps else SIDE
    rng = np.random.default_rng(0)
    images = [rng.uniform(0, 1, (3, side, side)).astype(np.float32) for _ in range(48)]
    file = make(path, **options) if make is depthwise_lamps else make(path, side, **options)
    return with_shapes(file), images[:16], images[16:]


def error(candidate, model, output, images):
    """Squared error of a tensor of the INT8 network, over several pictures."""
    networks = [TorchGraph(one, [output]) for one in (candidate.written(), model)]
    found, wanted = ([network(torch.from_numpy(image[None]))[0] for image in images] for network in networks)
    return float((torch.cat(found) - torch.cat(wanted)).square().mean())


@pytest.mark.parametrize(
    ('make', 'spread', 'output', 'target'),
    [
        (shortcuts, 2.0, 'c5', 'onnxruntime'),
        (shortcuts, 2.0, 'c5', 'openvino'),
        (shortcuts, 2.0, 'c5', 'tensorrt'),
        (depthwise_lamps, 6.0, 'c3', 'openvino'),  # one scale a channel, which ONNX Runtime's kernels refuse
    ],
)
def test_a_network_whose_rounding_is_learned_is_nearer_to_the_float_one(tmp_path, make, spread, output, target):
    model, taught, others = small(make, tmp_path / 'model.onnx', spread=spread)
    before = with_ranges(Candidate(model, QuantizeSettings(target=target)), taught, 'minmax', 100.0)
    after = learned(before, taught)
    assert set(after.weight_scales) == {f'w{n}' for n in range(1, 5 if make is shortcuts else 3)}
    assert error(after, model, output, others) < error(before, model, output, others)


@pytest.mark.parametrize('target', ['onnxruntime', 'openvino'])
def test_no_layer_answers_again_for_what_one_before_it_has_answered_for(tmp_path, target):
    model, taught, others = small(chain, tmp_path / 'model.onnx')
    before = with_ranges(Candidate(model, QuantizeSettings(target=target)), taught, 'minmax', 100.0)
    errors = [error(one, model, 'a15', others) for one in (before, learned(before, taught))]
    assert errors[1] < errors[0]
