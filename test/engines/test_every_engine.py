"""Every engine that this machine can run sees the same: golden frames, tolerances beside them, and one form of error for all."""

from __future__ import annotations

import importlib.util

import cv2
import numpy as np
import onnx
import pytest
from networks import artifact_entry, bright_cells, bundle_document, image_with_cells, make_bundle
from onnx import TensorProto, helper, numpy_helper

from kd_perception import engines
from kd_perception.benchmark.parity import compare
from kd_perception.bundles.bundle import load_bundle, write_bundle
from kd_perception.detection.detector import Detector
from kd_perception.doctor.self_test import TOLERANCES
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import EngineError
from kd_perception.scene import Scene

HERE = ('onnxruntime', 'openvino', 'ncnn')
ONE_THREAD = EngineOptions(threads=1)


def load(bundle, engine, precision='', artifact=0):
    return engines.load(bundle, bundle.artifacts[artifact], EngineOptions(threads=1, precision=precision), engine)


@pytest.fixture(scope='module')
def aerial(repository):
    return load_bundle(repository / 'models' / 'aerial_traffic')


@pytest.fixture(scope='module')
def photographs(shared_data):
    """A real photograph and a frame of the synthetic flight."""
    files = sorted((shared_data / 'aerial_traffic' / 'images' / 'val').iterdir())
    return [cv2.imread(str(files[-1])), Scene(0, 960, 544).frame(0).image]


@pytest.fixture(scope='module')
def golden(aerial, photographs):
    """What ONNX Runtime sees in FP32."""
    detector = Detector(aerial, engines.load(aerial, aerial.artifact('onnxruntime', 'fp32'), ONE_THREAD))
    return [detector.detect(image)[0] for image in photographs]


@pytest.mark.parametrize(
    ('engine', 'artifact', 'precision'),
    [
        ('onnxruntime', 'int8', 'int8'),
        ('openvino', 'fp32', 'fp32'),
        ('openvino', 'fp32', 'bf16'),
        ('openvino', 'int8', 'int8'),
        ('ncnn', 'fp32', 'fp32'),
        ('ncnn', 'fp32', 'bf16'),
    ],
)
def test_the_shipped_bundle(aerial, photographs, golden, engine, artifact, precision):
    try:
        loaded = engines.load(
            aerial,
            aerial.artifact('onnxruntime', artifact),
            EngineOptions(threads=1, precision=precision),
            engine,
        )
    except EngineError as error:
        if precision == 'bf16' and 'cannot compute in bf16' in str(error):
            pytest.skip(str(error))
        raise
    detector = Detector(aerial, loaded)
    parity = compare(golden, [detector.detect(image)[0] for image in photographs])
    assert parity.reference > 40
    assert TOLERANCES[precision].holds(parity), parity
    assert loaded.info.precision == precision
    assert loaded.info.warnings == ()


@pytest.mark.parametrize('engine', HERE)
def test_a_synthetic_network(tmp_path, engine):
    bundle = make_bundle(tmp_path)
    detector = Detector(bundle, load(bundle, engine))
    found = detector.detect(image_with_cells(3, 9, width=320, height=320))[0]
    assert sorted(found.boxes.tolist()) == [[80, 160, 160, 240], [240, 0, 320, 80]]
    assert found.scores.tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


@pytest.mark.parametrize('engine', HERE)
def test_a_buffer_with_new_content_and_another_buffer_are_both_seen(tmp_path, engine):
    loaded = load(make_bundle(tmp_path), engine)
    batch = np.zeros((1, 64, 64, 3), np.uint8)
    assert loaded.infer(batch)['scores'].max() == 0
    batch[...] = 255
    assert loaded.infer(batch)['scores'].max() == pytest.approx(1.0, abs=1e-5)
    assert loaded.infer(np.zeros((1, 64, 64, 3), np.uint8))['scores'].max() == 0


@pytest.mark.parametrize('engine', HERE)
@pytest.mark.parametrize('batch', [np.zeros((1, 32, 64, 3), np.uint8), np.zeros((1, 64, 64, 3), np.float32)])
def test_a_batch_that_does_not_fit_is_refused(tmp_path, engine, batch):
    with pytest.raises(EngineError, match=r'takes a contiguous uint8 array of shape \(1, 64, 64, 3\)'):
        load(make_bundle(tmp_path), engine).infer(batch)


@pytest.mark.parametrize('engine', HERE)
def test_a_closed_engine_says_so(tmp_path, engine):
    loaded = load(make_bundle(tmp_path), engine)
    loaded.close()
    loaded.close()
    with pytest.raises(EngineError, match='closed'):
        loaded.infer(np.zeros((1, 64, 64, 3), np.uint8))


@pytest.mark.parametrize('engine', HERE)
@pytest.mark.parametrize('content', [b'', b'not a network', b'\x08\x09' * 500, b'\x3a\xff\xff\xff\xff\x0f'])
def test_a_file_that_is_no_network_is_refused(tmp_path, engine, content):
    (tmp_path / 'broken.onnx').write_bytes(content)
    bundle = write_bundle(tmp_path, bundle_document(artifacts=[artifact_entry(tmp_path, 'broken.onnx')]))
    with pytest.raises(EngineError, match='cannot load broken.onnx'):
        load(bundle, engine)


@pytest.mark.parametrize('engine', HERE)
def test_weights_in_other_files_are_not_followed(tmp_path, monkeypatch, engine):
    model = bright_cells()
    onnx.save(model, tmp_path / 'model.onnx', save_as_external_data=True, location='weights.bin', size_threshold=0)
    bundle = write_bundle(tmp_path, bundle_document(artifacts=[artifact_entry(tmp_path, 'model.onnx')]))
    monkeypatch.chdir(tmp_path)  # where a loader that follows them would find them
    with pytest.raises(EngineError, match='cannot load model.onnx'):
        load(bundle, engine)


@pytest.mark.parametrize('engine', HERE)
def test_an_input_that_contradicts_the_bundle_is_refused(tmp_path, engine):
    onnx.save(bright_cells(), tmp_path / 'n.onnx')
    spec = bundle_document()['input'] | {'width': 128}
    bundle = write_bundle(tmp_path, bundle_document(input=spec, artifacts=[artifact_entry(tmp_path, 'n.onnx')]))
    with pytest.raises(EngineError, match='correct its input section'):
        load(bundle, engine)


@pytest.mark.parametrize(('engine', 'package'), [(name, name) for name in HERE] + [('tensorrt', 'python3-libnvinfer')])
def test_an_absent_library_is_one_line_that_names_the_package(tmp_path, monkeypatch, engine, package):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(EngineError, match=f'needs the library .*install .*{package}') as caught:
        load(make_bundle(tmp_path), engine)
    assert '\n' not in str(caught.value)
    assert package in engines.available()[engine].reason


def test_a_library_that_cannot_be_imported_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'openvino', None)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: True)
    with pytest.raises(EngineError, match='openvino is installed and cannot be imported'):
        load(make_bundle(tmp_path), 'openvino')


def test_what_is_installed_has_a_version():
    assert {name for name, state in engines.available().items() if state.version} >= set(HERE)


@pytest.mark.parametrize(
    ('engine', 'made_for', 'precision', 'asked', 'reason'),
    [
        ('ncnn', 'onnxruntime', 'fp32', 'bf16', ''),
        ('ncnn', 'onnxruntime', 'int8', '', 'quantizes otherwise'),
        ('tensorrt', 'onnxruntime', 'int8', '', 'symmetric INT8 only'),
        ('tensorrt', 'tensorrt', 'int8', '', ''),
        ('onnxruntime', 'onnxruntime', 'fp32', 'fp16', 'in fp32 here, not in fp16'),
    ],
)
def test_which_engine_takes_which_artifact(tmp_path, engine, made_for, precision, asked, reason):
    make_bundle(tmp_path)
    entry = artifact_entry(tmp_path, 'bright_cells.onnx', precision) | {'engine': made_for}
    bundle = write_bundle(tmp_path, bundle_document(artifacts=[entry]))
    found = engines.obstacle(engine, bundle.artifacts[0], asked)
    assert (reason in found) if reason else found == ''
    assert engines.can_run(engine, bundle.artifacts[0], asked) == (not reason)


@pytest.mark.parametrize(('machine', 'expected'), [('x86_64', ('fp32', 'bf16')), ('aarch64', ('fp32', 'fp16', 'bf16'))])
def test_half_precision_of_ncnn_is_for_arm(tmp_path, monkeypatch, machine, expected):
    monkeypatch.setattr('platform.machine', lambda: machine)
    assert engines.precisions('ncnn', make_bundle(tmp_path).artifacts[0]) == expected


# One operation at a time, in the forms that detectors use, between a picture and two outputs of our layout.
W = np.random.default_rng(0).normal(0, 0.2, (8, 3, 3, 3)).astype(np.float32)


def operation_network(nodes, constants, shape):
    """float (1, 3, 16, 20) → `result`, twice: as boxes and scores."""
    result = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ('boxes', 'scores')]
    nodes = [*nodes, helper.make_node('Neg', ['result'], ['boxes']), helper.make_node('Relu', ['result'], ['scores'])]
    image = helper.make_tensor_value_info('image', TensorProto.FLOAT, [1, 3, 16, 20])
    model = helper.make_model(
        helper.make_graph(nodes, 'one', [image], result, constants), opset_imports=[helper.make_opsetid('', 17)]
    )
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model


def one(op, *inputs, outputs=('result',), **attributes):
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


PICTURE = [1, 3, 16, 20]
CONV = [1, 8, 8, 10]
OPERATIONS = {
    'conv': ([one('Conv', 'image', 'w', 'b', strides=[2, 2], pads=[1, 1, 1, 1])], CONV),
    'conv uneven': ([one('Conv', 'image', 'w', pads=[0, 0, 2, 1], kernel_shape=[3, 3])], [1, 8, 16, 19]),
    'conv dilated': ([one('Conv', 'image', 'w', pads=[2, 2, 2, 2], dilations=[2, 2])], [1, 8, 16, 20]),
    'conv depthwise': ([one('Conv', 'image', 'dw', group=3, pads=[1, 1, 1, 1])], PICTURE),
    'swish': ([one('Sigmoid', 'image', outputs=['s']), one('Mul', 'image', 's')], PICTURE),
    'sigmoid twice': ([one('Sigmoid', 'image', outputs=['s']), one('Mul', 's', 's')], PICTURE),
    'hard swish': ([one('HardSwish', 'image')], PICTURE),
    'hard sigmoid': ([one('HardSigmoid', 'image', alpha=0.3, beta=0.4)], PICTURE),
    'leaky': ([one('LeakyRelu', 'image', alpha=0.1)], PICTURE),
    'clip': ([one('Clip', 'image', 'low', 'high')], PICTURE),
    'mish': (
        [
            one('Softplus', 'image', outputs=['p']),
            one('Tanh', 'p', outputs=['t']),
            one('Mul', 'image', 't'),
        ],
        PICTURE,
    ),
    'gelu': (
        [
            one('Div', 'image', 'root', outputs=['d']),
            one('Erf', 'd', outputs=['e']),
            one('Add', 'e', 'unit', outputs=['a']),
            one('Mul', 'image', 'a', outputs=['m']),
            one('Mul', 'm', 'half'),
        ],
        PICTURE,
    ),
    'scalar on the left': ([one('Sub', 'unit', 'image')], PICTURE),
    'per channel': ([one('Mul', 'image', 'channels')], PICTURE),
    'per place': ([one('Add', 'row', 'image')], PICTURE),
    'batch norm': ([one('BatchNormalization', 'image', 'c1', 'c2', 'c3', 'c4')], PICTURE),
    'max pool': ([one('MaxPool', 'image', kernel_shape=[5, 5], pads=[2, 2, 2, 2], strides=[1, 1])], PICTURE),
    'average pool': ([one('AveragePool', 'image', kernel_shape=[2, 2], strides=[2, 2])], [1, 3, 8, 10]),
    'global pool': (
        [one('GlobalAveragePool', 'image', outputs=['g']), one('Mul', 'image', 'g')],
        PICTURE,
    ),
    'upsample': (
        [one('Resize', 'image', '', 'twice', mode='nearest', coordinate_transformation_mode='asymmetric')],
        [1, 3, 32, 40],
    ),
    'bilinear': ([one('Resize', 'image', '', 'twice', mode='linear')], [1, 3, 32, 40]),
    'concat': ([one('Concat', 'image', 'image', axis=1)], [1, 6, 16, 20]),
    'slice': ([one('Slice', 'image', 'starts', 'ends', 'axes')], [1, 2, 16, 19]),
    'split': (
        [one('Split', 'image', 'parts', outputs=['x', 'y'], axis=2), one('Concat', 'y', 'x', axis=2)],
        PICTURE,
    ),
    'space to depth': (
        [one('Reshape', 'image', 'flat', outputs=['f']), one('Transpose', 'f', perm=[0, 2, 1])],
        [1, 320, 3],
    ),
    'products over a list of cells': (
        [
            one('Transpose', 'image', perm=[0, 2, 3, 1], outputs=['t']),
            one('Reshape', 't', 'cells', outputs=['c']),
            one('Gemm', 'c', 'kernel', 'b', transB=1, outputs=['p']),
            one('Reshape', 'p', 'anchors'),
        ],
        [1, 640, 4],
    ),
    'transposed': ([one('Transpose', 'image', perm=[0, 3, 1, 2])], [1, 20, 3, 16]),
    'softmax': ([one('Softmax', 'image', axis=2)], PICTURE),
    'sum': ([one('ReduceSum', 'image', 'axis', keepdims=0)], [1, 3, 20]),
    'mean': ([one('ReduceMean', 'image', axes=[2, 3], keepdims=1)], [1, 3, 1, 1]),
    'squeezed': (
        [one('Unsqueeze', 'image', 'axis', outputs=['u']), one('Squeeze', 'u', 'axis')],
        PICTURE,
    ),
    'exp': ([one('Exp', 'image', outputs=['e']), one('Sqrt', 'e')], PICTURE),
    'pow': ([one('Abs', 'image', outputs=['a']), one('Pow', 'a', 'high')], PICTURE),
}
CONSTANTS = {
    'w': W,
    'b': np.linspace(-1, 1, 8, dtype=np.float32),
    'dw': W[:3, :1],
    'low': np.array(-0.5, np.float32),
    'high': np.array(0.7, np.float32),
    'root': np.array(np.sqrt(2), np.float32),
    'unit': np.array(1, np.float32),
    'half': np.array(0.5, np.float32),
    'channels': np.array([1, 2, 3], np.float32).reshape(1, 3, 1, 1),
    'row': np.linspace(0, 1, 20, dtype=np.float32),
    **{f'c{i}': np.array([0.5, 1.0, 1.5], np.float32) * i for i in range(1, 5)},
    'twice': np.array([1, 1, 2, 2], np.float32),
    'starts': np.array([1, 0]),
    'ends': np.array([9999, -1]),
    'axes': np.array([1, 3]),
    'parts': np.array([6, 10]),
    'flat': np.array([0, 3, -1]),
    'axis': np.array([2]),
    'cells': np.array([320, 3]),
    'kernel': W[:, :, 0, 0],
    'anchors': np.array([1, -1, 4]),
}


@pytest.mark.parametrize('name', OPERATIONS)
@pytest.mark.parametrize('engine', ['openvino', 'ncnn'])
def test_an_operation(tmp_path, engine, name):
    nodes, shape = OPERATIONS[name]
    used = {value for node in nodes for value in node.input}
    model = operation_network(nodes, [numpy_helper.from_array(v, k) for k, v in CONSTANTS.items() if k in used], shape)
    onnx.save(model, tmp_path / 'one.onnx')
    spec = {'width': 20, 'height': 16, 'color': 'rgb', 'dtype': 'float32', 'layout': 'nchw', 'resize': 'stretch'}
    bundle = write_bundle(tmp_path, bundle_document(input=spec, artifacts=[artifact_entry(tmp_path, 'one.onnx')]))
    batch = np.random.default_rng(1).normal(0, 1, (1, 3, 16, 20)).astype(np.float32)
    expected, found = load(bundle, 'onnxruntime').infer(batch), load(bundle, engine).infer(batch)
    assert expected['boxes'].shape == tuple(shape)
    for output in ('boxes', 'scores'):
        np.testing.assert_allclose(found[output], expected[output], rtol=1e-4, atol=2e-5)


def test_an_operation_that_is_not_translated_is_named(tmp_path):
    onnx.save(operation_network([one('Celu', 'image')], [], PICTURE), tmp_path / 'one.onnx')
    spec = {'width': 20, 'height': 16, 'color': 'rgb', 'dtype': 'float32', 'layout': 'nchw', 'resize': 'stretch'}
    bundle = write_bundle(tmp_path, bundle_document(input=spec, artifacts=[artifact_entry(tmp_path, 'one.onnx')]))
    with pytest.raises(EngineError, match='Celu .*not translated.* onnxruntime'):
        load(bundle, 'ncnn')


def test_a_list_without_a_batch_axis_is_for_products_only(tmp_path):
    nodes = [one('Reshape', 'image', 'cells', outputs=['c']), one('Softmax', 'c', axis=1)]
    cells = numpy_helper.from_array(CONSTANTS['cells'], 'cells')
    onnx.save(operation_network(nodes, [cells], [320, 3]), tmp_path / 'one.onnx')
    spec = {'width': 20, 'height': 16, 'color': 'rgb', 'dtype': 'float32', 'layout': 'nchw', 'resize': 'stretch'}
    bundle = write_bundle(tmp_path, bundle_document(input=spec, artifacts=[artifact_entry(tmp_path, 'one.onnx')]))
    with pytest.raises(EngineError, match='Softmax of a list without a batch axis'):
        load(bundle, 'ncnn')


@pytest.mark.parametrize('engine', HERE)
def test_a_network_that_contradicts_itself_is_an_error_of_ours(tmp_path, engine):
    model = bright_cells()
    model.graph.node[3].input[1] = 'no such weights'
    (tmp_path / 'odd.onnx').write_bytes(model.SerializeToString())
    bundle = write_bundle(tmp_path, bundle_document(artifacts=[artifact_entry(tmp_path, 'odd.onnx')]))
    with pytest.raises(EngineError):
        load(bundle, engine).infer(np.zeros((1, 64, 64, 3), np.uint8))
