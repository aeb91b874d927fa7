"""The ONNX reader agrees with the library `onnx`, and no file makes it fail otherwise than by an error of ours."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import bright_cells
from onnx import TensorProto, helper, numpy_helper

from kd_perception.bundles.onnx_graph import read_graph
from kd_perception.errors import EngineError

CONTENT = bright_cells().SerializeToString()


@pytest.mark.parametrize('precision', ['fp32', 'int8'])
def test_it_reads_what_onnx_reads(repository, precision):
    file = repository / 'models' / 'aerial_traffic' / f'aerial_traffic_{precision}.onnx'
    graph, model = read_graph(file.read_bytes(), file.name), onnx.load(file)
    assert graph.opset == model.opset_import[0].version
    assert [(v.name, v.shape) for v in (*graph.inputs, *graph.outputs)] == [
        (v.name, tuple(d.dim_value for d in v.type.tensor_type.shape.dim))
        for v in (*model.graph.input, *model.graph.output)
    ]
    assert set(graph.constants) == {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        expected = numpy_helper.to_array(tensor)
        found = graph.constants[tensor.name]
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(found, expected)
    for node, expected in zip(graph.nodes, model.graph.node, strict=True):
        assert (node.op, node.inputs, node.outputs) == (
            expected.op_type,
            tuple(expected.input),
            tuple(expected.output),
        )
        for attribute in expected.attribute:
            value = helper.get_attribute_value(attribute)
            wanted = value.decode() if isinstance(value, bytes) else tuple(value) if isinstance(value, list) else value
            assert node.attributes[attribute.name] == wanted


@pytest.mark.parametrize(
    ('kind', 'values'),
    [
        (TensorProto.FLOAT, [1.5, -2.0]),
        (TensorProto.DOUBLE, [1e300, -2.0]),
        (TensorProto.FLOAT16, [0.5, -65504.0]),
        (TensorProto.INT64, [-(2**62), 5]),
        (TensorProto.INT32, [-7, 2**31 - 1]),
        (TensorProto.INT8, [-128, 127]),
        (TensorProto.UINT8, [0, 255]),
        (TensorProto.BOOL, [True, False]),
    ],
)
@pytest.mark.parametrize('raw', [False, True])
def test_every_type_packed_or_raw(kind, values, raw):
    tensor = helper.make_tensor('t', kind, [2, 1], values)
    if raw:
        tensor = numpy_helper.from_array(numpy_helper.to_array(tensor), 't')
    model = bright_cells()
    model.graph.initializer.append(tensor)
    found = read_graph(model.SerializeToString(), 'n').constants['t']
    assert found.tolist() == numpy_helper.to_array(tensor).tolist()
    assert found.dtype == numpy_helper.to_array(tensor).dtype


def test_constants_among_the_nodes_become_weights():
    model = bright_cells()
    model.graph.node.insert(0, helper.make_node('Constant', [], ['c'], value_ints=[3, 4]))
    graph = read_graph(model.SerializeToString(), 'n')
    assert graph.constants['c'].tolist() == [3, 4]
    assert 'Constant' not in {node.op for node in graph.nodes}


def of_another_domain(model):
    model.graph.node[0].domain = 'com.example'


def with_a_subgraph(model):
    model.graph.node.append(
        helper.make_node('If', ['x'], ['y'], then_branch=onnx.GraphProto(), else_branch=onnx.GraphProto())
    )


def with_text(model):
    model.graph.initializer.append(helper.make_tensor('t', TensorProto.STRING, [1], [b'a']))


def of_a_wrong_size(model):
    model.graph.initializer[0].dims[0] = 1000


@pytest.mark.parametrize('change', [of_another_domain, with_a_subgraph, with_text, of_a_wrong_size])
def test_what_detectors_do_not_have_is_refused(change):
    model = bright_cells()
    change(model)
    with pytest.raises(EngineError, match='cannot load net.onnx'):
        read_graph(model.SerializeToString(), 'net.onnx')


@given(st.binary(max_size=200))
def test_no_bytes_are_fatal(content):
    with pytest.raises(EngineError):
        read_graph(content, 'net.onnx')


@given(position=st.integers(0, len(CONTENT) - 1), value=st.integers(0, 255))
def test_no_changed_byte_is_fatal(position, value):
    damaged = CONTENT[:position] + bytes([value]) + CONTENT[position + 1 :]
    with contextlib.suppress(EngineError):
        read_graph(damaged, 'net.onnx')


@given(st.integers(0, len(CONTENT) - 1))
def test_no_truncation_is_fatal(size):
    with contextlib.suppress(EngineError):
        read_graph(CONTENT[:size], 'net.onnx')
