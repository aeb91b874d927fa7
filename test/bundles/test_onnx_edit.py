"""Operations added without the library `onnx` are what it reads, and what ONNX Runtime runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_networks import constant_network
from hypothesis import given
from hypothesis import strategies as st
from networks import bright_cells
from onnx import TensorProto, helper, numpy_helper

from kd_perception.bundles.onnx_edit import GraphEditor, new_file, with_cast_weights
from kd_perception.bundles.onnx_integrity import check_integrity
from kd_perception.bundles.onnx_outline import read_outline
from kd_perception.bundles.onnx_wire import field, read_fields, signed, varint, varints
from kd_perception.errors import EngineError


def run(content: bytes, **inputs: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(onnx.load_from_string(content))
    check_integrity(content, 'net.onnx')
    return onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider']).run(None, inputs)


def empty(opset: int, size: int = 6) -> GraphEditor:
    return GraphEditor(new_file('x', (1, 2, size), opset, author='a test'), opset)


X = np.arange(12, dtype=np.float32).reshape(1, 2, 6)


@pytest.mark.parametrize('opset', [9, 10, 11, 13, 17, 21])
def test_the_operations_of_surgeons_are_the_same_in_every_opset(opset):
    editor = empty(opset)
    part = editor.columns('x', 2, 5)
    value = editor.add('Mul', [editor.add('Exp', [part]), editor.constant([1.0, 2.0, 3.0])])
    value = editor.reshape(editor.add('Transpose', [value], perm=[0, 2, 1]), (1, -1, 2))
    value = editor.add('Softmax', [editor.add('Concat', [value, value], axis=1)], axis=2)
    (found,) = run(editor.finish({'y': (value, (1, 6, 2))}), x=X)
    wanted = (np.exp(X[..., 2:5]) * np.float32([1, 2, 3])).transpose(0, 2, 1)
    wanted = np.exp(wanted - wanted.max(2, keepdims=True))
    wanted = np.concatenate([wanted / wanted.sum(2, keepdims=True)] * 2, axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_what_was_there_stays_and_names_that_are_taken_move_aside():
    model = bright_cells()
    content = model.SerializeToString()
    editor = GraphEditor(content, 17)
    half = editor.add('Mul', ['boxes', editor.constant([0.5])])
    changed = editor.finish({'boxes': (half, (1, 16, 4)), 'scores': ('scores', (1, 16, 2))})
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    before, after = run(content, image=image), run(changed, image=image)
    np.testing.assert_array_equal(after[0], before[0] / 2)
    np.testing.assert_array_equal(after[1], before[1])
    assert [o.name for o in onnx.load_from_string(changed).graph.output] == ['boxes', 'scores']


def test_names_move_aside_in_subgraphs_too():
    inner = helper.make_graph(
        [helper.make_node('Mul', ['boxes', 'two'], ['r'])], 'g', [], [helper.make_tensor_value_info('r', 1, [1, 2, 6])]
    )
    other = helper.make_graph(
        [helper.make_node('Identity', ['boxes'], ['s'])], 'h', [], [helper.make_tensor_value_info('s', 1, [1, 2, 6])]
    )
    nodes = [
        helper.make_node('Identity', ['x'], ['boxes']),
        helper.make_node('If', ['yes'], ['out'], then_branch=inner, else_branch=other),
    ]
    weights = [numpy_helper.from_array(np.array(True), 'yes'), numpy_helper.from_array(np.float32(2), 'two')]
    graph = helper.make_graph(
        nodes,
        'n',
        [helper.make_tensor_value_info('x', 1, [1, 2, 6])],
        [helper.make_tensor_value_info('out', 1, [1, 2, 6])],
        weights,
        value_info=[helper.make_tensor_value_info('boxes', 1, [1, 2, 6])],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=9).SerializeToString()
    editor = GraphEditor(content, 17)
    (found,) = run(editor.finish({'boxes': ('out', (1, 2, 6))}), x=X)
    np.testing.assert_array_equal(found, 2 * X)


@pytest.mark.parametrize(('kind', 'dtype'), [(TensorProto.FLOAT16, np.float16), (TensorProto.DOUBLE, np.float64)])
def test_an_input_takes_another_type(kind, dtype):
    content = constant_network({'output0': np.ones((1, 5, 3))}, kind=kind).SerializeToString()
    outline = read_outline(content, 'net.onnx')
    editor = GraphEditor(content, outline.opset)
    editor.replace_input(outline.inputs[0], np.float32)
    changed = editor.finish()
    (port,) = read_outline(changed, 'net.onnx').inputs
    assert (port.kind, port.shape) == (TensorProto.FLOAT, outline.inputs[0].shape)
    (found,) = run(changed, **{port.name: np.zeros(port.shape, np.float32)})
    np.testing.assert_array_equal(found, np.ones((1, 5, 3)))


def test_an_input_becomes_a_constant():
    sizes = {'orig_target_sizes': (TensorProto.INT64, (1, 2))}
    content = constant_network({'y': np.ones((1, 2))}, sizes=sizes).SerializeToString()
    editor = GraphEditor(content, 17)
    editor.fix_input('orig_target_sizes', np.array([[640, 480]]))
    changed = editor.finish()
    assert [port.name for port in read_outline(changed, 'n').inputs] == ['images']
    run(changed, images=np.zeros((1, 3, 320, 320), np.float32))


def test_a_type_that_onnx_does_not_have():
    with pytest.raises(EngineError, match='complex128'):
        empty(13).constant(1j, np.complex128)


@given(st.integers(-(2**63), 2**63 - 1))
def test_whole_numbers_come_back(value):
    assert list(varints([memoryview(varint(value))])) == [value]
    (found,) = read_fields(memoryview(field(3, value)))[3]
    assert signed(found) == value


@given(st.floats(width=32, allow_nan=False), st.text(max_size=40), st.binary(max_size=40))
def test_fields_come_back(number, text, content):
    fields = read_fields(memoryview(field(1, number) + field(2, text) + field(16, content)))
    assert np.frombuffer(fields[1][0], '<f4')[0] == np.float32(number)
    assert str(fields[2][0], 'utf-8') == text
    assert bytes(fields[16][0]) == content


def test_the_outline_says_what_the_library_says(repository):
    file = repository / 'models' / 'aerial_traffic' / 'aerial_traffic_int8.onnx'
    outline, model = read_outline(file.read_bytes(), file.name), onnx.load(file)
    assert outline.precision == 'int8'
    assert [port.name for port in outline.inputs] == [value.name for value in model.graph.input]
    assert sum(outline.operations.values()) == len(model.graph.node)
    float_file = repository / 'models' / 'aerial_traffic' / 'aerial_traffic_fp32.onnx'
    assert read_outline(float_file.read_bytes(), file.name).precision == 'fp32'


@given(st.binary(max_size=200))
def test_no_bytes_are_fatal(content):
    with pytest.raises(EngineError):
        read_outline(content, 'net.onnx')


def cast_weights(casts=1):
    """y = x + a weight of float16 and an integer of a Constant, each behind a Cast; `casts` casts of a large weight beside."""
    nodes = [
        helper.make_node('Constant', [], ['three'], value=numpy_helper.from_array(np.array(3))),
        helper.make_node('Cast', ['half'], ['weight'], to=TensorProto.FLOAT),
        helper.make_node('Cast', ['three'], ['shift'], to=TensorProto.FLOAT),
        helper.make_node('Add', ['x', 'weight'], ['sum']),
        helper.make_node('Add', ['sum', 'shift'], ['y']),
        *(helper.make_node('Cast', ['large'], [f'wide{n}'], to=TensorProto.DOUBLE) for n in range(casts)),
    ]
    weights = [np.arange(6, dtype=np.float16) / 8, np.zeros(4000, np.float16)]
    named = [numpy_helper.from_array(value, name) for value, name in zip(weights, ('half', 'large'), strict=True)]
    places = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 6]) for name in ('x', 'y')]
    graph = helper.make_graph(nodes, 'casts', places[:1], places[1:], named)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)])
    model.ir_version = 8
    return model.SerializeToString()


def test_weights_behind_a_cast_become_weights():
    content = cast_weights()
    changed = with_cast_weights(content, 'net.onnx')
    np.testing.assert_array_equal(run(changed, x=X)[0], run(content, x=X)[0])
    graph = onnx.load_from_string(changed).graph
    assert [node.op_type for node in graph.node] == ['Constant', 'Add', 'Add']
    assert {t.name: t.data_type for t in graph.initializer}['weight'] == TensorProto.FLOAT
    assert with_cast_weights(changed, 'net.onnx') == changed


def test_a_file_whose_weights_would_fill_the_memory_is_refused():
    with pytest.raises(EngineError, match='grow to many times'):
        with_cast_weights(cast_weights(100), 'net.onnx')
