"""Learned rounding against the nearest one: a layer whose errors add up, and a small network whole."""

import numpy as np
import pytest
from small_networks import SIDE as LAMPS_SIDE
from small_networks import depthwise_lamps, shortcuts

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


@pytest.mark.parametrize(
    ('make', 'side', 'output', 'target'),
    [
        (shortcuts, SIDE, 'c5', 'onnxruntime'),
        (shortcuts, SIDE, 'c5', 'openvino'),
        (shortcuts, SIDE, 'c5', 'tensorrt'),
        (depthwise_lamps, LAMPS_SIDE, 'c3', 'openvino'),  # one scale a channel, which ONNX Runtime's kernels refuse
    ],
)
def test_a_network_whose_rounding_is_learned_is_nearer_to_the_float_one(tmp_path, make, side, output, target):
    rng = np.random.default_rng(1)
    images = [rng.uniform(0, 1, (3, side, side)).astype(np.float32) for _ in range(6)]
    file = tmp_path / 'model.onnx'
    start = Candidate(
        with_shapes(make(file, side, spread=2.0) if make is shortcuts else make(file, spread=6.0)),
        QuantizeSettings(target=target),
    )
    before = with_ranges(start, images, 'minmax', 100.0)
    after = learned(before, images[:5])
    assert set(after.weight_scales) == {f'w{n}' for n in range(1, 5 if make is shortcuts else 3)}

    def written(model):
        return TorchGraph(model, [output])(torch.from_numpy(images[5][None]))[0]

    wanted = written(start.model)
    errors = [(written(one.written()) - wanted).square().mean() for one in (before, after)]
    assert errors[1] < errors[0]
