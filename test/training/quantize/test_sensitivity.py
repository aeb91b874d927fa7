"""Layer by layer: which layers there are, what the table says of them, and what is left in float under a limit."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

from training.data.spread import spread  # noqa: E402
from training.errors import QuantizationError  # noqa: E402
from training.quantize.float_parts import front, tail  # noqa: E402
from training.quantize.mixed import by_gain_per_cost, choose, with_choice  # noqa: E402
from training.quantize.ptq import quantize  # noqa: E402
from training.quantize.qdq import MixedSettings, QuantizeSettings, with_shapes  # noqa: E402
from training.quantize.sensitivity import Judge, layers, overlap, sensitivity, write_table  # noqa: E402

SETTINGS = QuantizeSettings()


@pytest.fixture(scope='module')
def fragile(tiny, tmp_path_factory):
    """The tiny network with one layer that INT8 ruins: in one channel a weight a thousand times the others."""
    model = onnx.load(tiny.file)
    node = next(node for node in model.graph.node if node.name.endswith('layers.3/conv/Conv'))
    weight = next(value for value in model.graph.initializer if value.name == node.input[1])
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:, 0, 0, 0] *= 1000
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    file = tmp_path_factory.mktemp('fragile') / 'fragile_fp32.onnx'
    onnx.save(model, file)
    return file


@pytest.fixture(scope='module')
def trunk(tiny):
    """The head's layers stay in float: half as many to measure."""
    found = layers(with_shapes(tiny.file).graph, SETTINGS)
    return QuantizeSettings(float_nodes=tuple(n for layer in found if 'branches' in layer.name for n in layer.nodes))


@pytest.fixture(scope='module')
def table(fragile, tiny, trunk):
    return sensitivity(fragile, tiny.images[:2], trunk)


def test_every_quantized_node_belongs_to_exactly_one_layer(tiny):
    graph = with_shapes(tiny.file).graph
    found = layers(graph, SETTINGS)
    nodes = [name for layer in found for name in layer.nodes]
    assert len(nodes) == len(set(nodes))
    assert not {*front(graph), *tail(graph)} & set(nodes)
    kinds = {node.name: node.op_type for node in graph.node}
    assert [sum(kinds[name] == 'Conv' for name in layer.nodes) for layer in found] == [1] * 24
    assert {'Sigmoid', 'Mul', 'Concat'} <= {kinds[name] for name in nodes}


def test_layers_are_named_by_their_module_and_know_their_weights(tiny):
    found = {layer.name: layer for layer in layers(with_shapes(tiny.file).graph, SETTINGS)}
    assert found['1'].weights == 16 * 8 * 3 * 3
    assert {'2.m.0.cv1', 'box_branches.0.1'} <= found.keys()
    assert not any(name.startswith('/') for name in found)


def test_the_table_finds_the_fragile_layer(table):
    worst = table.worst_first()[0]
    assert worst.layer.name == '3'
    assert worst.alone.total == max(row.alone.total for row in table.rows)
    assert table.gain(worst) > 0.3 * table.all_int8.total
    assert worst.extra_bytes == 3 * worst.layer.weights


def test_the_table_is_left_as_csv_json_markdown_and_plot(table, tmp_path):
    write_table(table, tmp_path / 'results')
    lines = (tmp_path / 'results' / 'sensitivity.csv').read_text().splitlines()
    assert len(lines) == 1 + len(table.rows)
    assert json.loads((tmp_path / 'results' / 'sensitivity.json').read_text())['rows'][0]['layer']['name'] == '1'
    assert (tmp_path / 'results' / 'sensitivity.md').read_text().count('\n') == 2 + len(table.rows)
    assert '<svg' in (tmp_path / 'results' / 'sensitivity.svg').read_text()


def test_the_float_network_itself_does_not_drift(tiny):
    model = with_shapes(tiny.file)
    drift, milliseconds = Judge(model, tiny.images).drift(model)
    assert drift.total == pytest.approx(0, abs=1e-6)
    assert milliseconds > 0


def test_a_network_that_finds_nothing_cannot_judge(tiny):
    model = with_shapes(tiny.file)
    model.graph.node.append(onnx.helper.make_node('Mul', ['scores', 'nothing'], ['none']))
    model.graph.initializer.append(onnx.helper.make_tensor('nothing', onnx.TensorProto.FLOAT, [], [0.0]))
    for node in model.graph.node:
        node.output[:] = [{'scores': 'found', 'none': 'scores'}.get(name, name) for name in node.output]
        node.input[:] = [{'scores': 'found'}.get(name, name) for name in node.input]
    with pytest.raises(QuantizationError, match='finds nothing'):
        Judge(model, tiny.images)


def test_under_a_limit_of_size_the_fragile_layer_stays_float(fragile, tiny, trunk, table):
    everything = choose(fragile, tiny.images, trunk, MixedSettings(max_bytes=10**9, most_layers=1), table)
    smallest = everything.steps[0].file_bytes
    row = next(row for row in table.rows if row.layer.name == '3')
    limit = smallest + row.extra_bytes + 2000
    chosen = choose(fragile, tiny.images, trunk, MixedSettings(max_bytes=limit, most_layers=3), table)
    assert set(row.layer.nodes) <= set(chosen.float_nodes)
    assert all(step.file_bytes <= limit for step in chosen.steps)
    drifts = [step.drift.total for step in chosen.steps]
    assert drifts == sorted(drifts, reverse=True)
    assert drifts[-1] < 0.7 * drifts[0]
    again = choose(fragile, tiny.images, trunk, MixedSettings(max_bytes=limit, most_layers=3), table)
    assert again.float_nodes == chosen.float_nodes


def test_the_choice_is_what_quantize_writes(fragile, tiny, trunk, table, tmp_path):
    float_layers = [row.layer for row in table.rows if row.layer.name not in ('1', '3')]
    nodes = tuple(name for layer in float_layers for name in layer.nodes)
    plain = replace(trunk, float_nodes=(*trunk.float_nodes, *nodes))
    settings = replace(plain, mixed=MixedSettings(max_bytes=10**9, most_layers=1, judged_images=1))
    left = quantize(fragile, tmp_path / 'mixed.onnx', tiny.images[:1], settings)
    added = set(left) - set(quantize(fragile, tmp_path / 'int8.onnx', tiny.images[:1], plain))
    assert [name for name in added if name.endswith('Conv')] == ['/body/layers.3/conv/Conv']
    assert (tmp_path / 'mixed.onnx').stat().st_size > (tmp_path / 'int8.onnx').stat().st_size


def test_under_a_limit_of_time_layers_are_judged_by_their_time(table):
    rows = by_gain_per_cost(table, MixedSettings(max_ms=1.0))
    assert {row.layer.name for row in rows} == {row.layer.name for row in table.rows if table.gain(row) > 0}
    worth = [table.gain(row) / max(row.extra_ms, 0.05) for row in rows]
    assert worth == sorted(worth, reverse=True)


def test_a_limit_that_no_choice_reaches_is_refused(fragile, tiny, trunk, table):
    with pytest.raises(QuantizationError, match='the limit is lower'):
        choose(fragile, tiny.images, trunk, MixedSettings(max_bytes=1000), table)
    with pytest.raises(QuantizationError, match='needs a limit'):
        MixedSettings()


def test_a_choice_adds_to_the_nodes_that_the_settings_name(fragile, tiny, trunk, table):
    chosen = choose(fragile, tiny.images, trunk, MixedSettings(max_bytes=10**9, most_layers=1), table)
    settings = with_choice(replace(SETTINGS, float_nodes=('named',)), chosen)
    assert settings.float_nodes == ('named', *chosen.float_nodes)
    assert settings.mixed is None


@pytest.mark.parametrize(('count', 'wanted'), [(1, [0]), (2, [0, 3]), (9, [0, 1, 2, 3])])
def test_images_are_spread_evenly(count, wanted):
    images = [np.full((1, 1, 3), k, np.uint8) for k in range(4)]
    assert [int(image[0, 0, 0]) for image in spread(images, count)] == wanted


@pytest.mark.parametrize(
    ('box', 'iou'), [((0, 0, 4, 4), 1.0), ((0, 0, 4, 2), 0.5), ((4, 4, 8, 8), 0.0), ((2, 2, 1, 1), 0.0)]
)
def test_overlap_of_pairs(box, iou):
    assert overlap(np.array([[0, 0, 4, 4]], np.float32), np.array([box], np.float32)) == pytest.approx([iou])
