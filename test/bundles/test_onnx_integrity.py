"""An ONNX file that other files take part in, or that two readers read differently, is refused by every engine."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import artifact_entry, bright_cells, bundle_document
from onnx import TensorProto, helper, numpy_helper

from kd_perception import engines
from kd_perception.bundles import onnx_integrity
from kd_perception.bundles.bundle import write_bundle
from kd_perception.bundles.onnx_integrity import check_integrity
from kd_perception.bundles.onnx_wire import field
from kd_perception.errors import EngineError

WHOLE = bright_cells().SerializeToString()


def external(location: str = 'weights.data') -> onnx.TensorProto:
    tensor = TensorProto(name='w', data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key='location', value=location)
    return tensor


def nested(depth: int) -> onnx.NodeProto:
    """A node with an external tensor `depth` graphs below it."""
    node = helper.make_node('Constant', [], ['w'], value=external())
    for _ in range(depth):
        node = helper.make_node('If', ['x'], ['y'], then_branch=helper.make_graph([node], 'g', [], []))
    return node


def in_initializer(model):
    model.graph.initializer.append(external())


def in_node(model):
    model.graph.node.append(nested(0))


def in_subgraph(model):
    model.graph.node.append(nested(3))


def in_list_of_tensors(model):
    attribute = onnx.AttributeProto(name='a', type=onnx.AttributeProto.TENSORS, tensors=[external()])
    model.graph.node.append(onnx.NodeProto(op_type='Relu', attribute=[attribute]))


def in_sparse_initializer(model):
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=external()))


def in_function(model):
    model.functions.append(onnx.FunctionProto(name='f', node=[nested(1)]))


def in_training_part(model):
    model.training_info.append(onnx.TrainingInfoProto(initialization=onnx.GraphProto(initializer=[external()])))


def entries_without_the_mark(model):
    tensor = external()
    tensor.ClearField('data_location')
    model.graph.initializer.append(tensor)


@pytest.mark.parametrize(
    'change',
    [
        *(in_initializer, in_node, in_subgraph, in_list_of_tensors, in_sparse_initializer),
        *(in_function, in_training_part, entries_without_the_mark),
    ],
)
def test_external_data_is_refused_at_any_depth(change):
    model = bright_cells()
    change(model)
    with pytest.raises(EngineError, match=r'net\.onnx: .*another file.*one file'):
        check_integrity(model.SerializeToString(), 'net.onnx')


def again(content: bytes, number: int, value: int | bytes) -> bytes:
    return content + field(number, value)


def in_graph(part: bytes) -> bytes:
    """The file with something appended to its graph."""
    graph = bright_cells().graph.SerializeToString() + part
    model = bright_cells()
    model.ClearField('graph')
    return model.SerializeToString() + field(7, graph)


TENSOR = numpy_helper.from_array(np.float32([1]), 't').SerializeToString()
NODE = helper.make_node('Relu', ['x'], ['y'], name='n').SerializeToString()
ATTRIBUTE = helper.make_attribute('a', 1).SerializeToString()


@pytest.mark.parametrize(
    'content',
    [
        again(WHOLE, 7, bright_cells().graph.SerializeToString()),
        again(WHOLE, 1, 9),
        in_graph(field(2, 'again')),
        in_graph(field(5, again(TENSOR, 9, bytes(4)))),
        in_graph(field(5, again(TENSOR, 2, 7))),
        in_graph(field(1, again(NODE, 4, b'Sigmoid'))),
        in_graph(field(1, again(NODE, 5, again(ATTRIBUTE, 3, 2)))),
    ],
    ids=['graph', 'version', 'name', 'raw data', 'data type', 'operation', 'attribute'],
)
def test_a_field_that_stands_twice_is_refused(content):
    with pytest.raises(EngineError, match='stands twice'):
        check_integrity(content, 'net.onnx')


@pytest.mark.parametrize(
    ('content', 'says'),
    [
        (b'', 'not an ONNX network'),
        (b'GIF89a', 'not an ONNX network'),
        (bytes(4) + b'ORTM' + bytes(100), 'format ORT'),
        (in_graph(field(1, field(4, b'EPContext'))), 'another file'),
        (onnx.ModelProto(ir_version=9).SerializeToString(), 'not an ONNX network'),
        (in_graph(field(1, nested(25).SerializeToString())), 'nested'),
    ],
    ids=['empty', 'picture', 'ort', 'compiled', 'no graph', 'deep'],
)
def test_what_is_no_network_of_its_own(content, says):
    with pytest.raises(EngineError, match=says):
        check_integrity(content, 'net.onnx')


def test_the_work_is_bounded(monkeypatch):
    monkeypatch.setattr(onnx_integrity, 'MAX_FIELDS', 1000)
    with pytest.raises(EngineError, match='more than 1000 fields'):
        check_integrity(in_graph(field(5, TENSOR + field(4, np.float32(1).tobytes()) * 1000)), 'net.onnx')


def test_whole_networks_pass(repository):
    check_integrity(WHOLE, 'net.onnx')
    for file in repository.glob('models/*/*.onnx'):
        check_integrity(file.read_bytes(), file.name)


@pytest.mark.parametrize('engine', sorted(set(engines.ENGINES) - {'tensorrt'}))
def test_every_engine_refuses_at_load(tmp_path, engine):
    if not engines.availability(engine):
        pytest.skip(f'{engine} is not installed')
    model = bright_cells()
    onnx.save(model, tmp_path / 'net.onnx', save_as_external_data=True, location='w.data', size_threshold=0)
    bundle = write_bundle(tmp_path, bundle_document(artifacts=[artifact_entry(tmp_path, 'net.onnx')]))
    with pytest.raises(EngineError, match='another file'):
        engines.load(bundle, bundle.artifacts[0], engine=engine)


@given(st.binary(max_size=300))
def test_no_bytes_are_fatal(content):
    with pytest.raises(EngineError):
        check_integrity(content, 'net.onnx')


@given(position=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
def test_no_changed_byte_is_fatal(position, value):
    with contextlib.suppress(EngineError):
        check_integrity(WHOLE[:position] + bytes([value]) + WHOLE[position + 1 :], 'net.onnx')
