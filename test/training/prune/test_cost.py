"""Costs against published counts, and timing side by side."""

import pytest

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning:torch', 'ignore:You are using the legacy')

from tiny_detectors import SIDE, detector  # noqa: E402

from training.export.onnx_export import export  # noqa: E402
from training.models.weights import build_network  # noqa: E402
from training.prune.cost import cost, count_fused_parameters, count_gflops, measure_latency  # noqa: E402

TEN = [f'class {number}' for number in range(10)]


@pytest.mark.parametrize(
    ('name', 'parameters', 'fused', 'gflops'),
    [
        ('yolov8n.yaml', 3_012_798, 3_007_598, 8.1),
        ('yolov8s.yaml', 11_139_470, 11_129_454, 28.5),
        ('yolov8m.yaml', 25_862_110, 25_845_550, 78.7),
    ],
)
def test_published_counts(name, parameters, fused, gflops):
    network = build_network(name, TEN)
    counted = cost(network, 640, 640)
    assert counted.parameters == parameters
    assert count_fused_parameters(network) == fused
    assert counted.gflops == pytest.approx(gflops, abs=0.05)


def test_operations_of_one_convolution_by_hand():
    network = detector()
    side = SIDE // 2
    weights = network.model[0].conv.weight.numel()
    with_it = count_gflops(network, SIDE, SIDE)
    network.model[0].conv.weight = torch.nn.Parameter(network.model[0].conv.weight[:, :, :1, :1])
    network.model[0].conv.padding = (0, 0)
    without = count_gflops(network, SIDE, SIDE)
    assert (with_it - without) * 1e9 == pytest.approx(2 * weights * 8 / 9 * side * side)


def test_operations_grow_with_the_picture():
    network = detector()
    assert count_gflops(network, 2 * SIDE, SIDE) == pytest.approx(2 * count_gflops(network, SIDE, SIDE))


def test_an_end_to_end_head_runs_one_of_its_two_pairs_of_branches():
    network = detector('26')
    one = count_gflops(network, SIDE, SIDE)
    network.model[-1].end2end = False
    assert count_gflops(network, SIDE, SIDE) == pytest.approx(one)
    network.model[-1].cv3 = torch.nn.ModuleList(torch.nn.Identity() for _ in network.model[-1].cv3)
    assert count_gflops(network, SIDE, SIDE) < 0.95 * one


def test_timing_side_by_side(tmp_path):
    for name, side in (('small', SIDE), ('large', 4 * SIDE)):
        export(detector(), side, side, tmp_path / f'{name}.onnx')
    files = {name: tmp_path / f'{name}.onnx' for name in ('small', 'large')}
    times = measure_latency(files, rounds=5, warm_up=1, progress=False)
    assert times.keys() == files.keys()
    for latency in times.values():
        assert 0 < latency.low <= latency.median <= latency.high
