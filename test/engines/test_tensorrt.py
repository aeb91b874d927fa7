"""TensorRT, against a stand-in with the interface of each version: what is asked of it, what is kept, and what it says."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from networks import artifact_entry, bright_cells, bundle_document, image_with_cells, make_bundle
from tensorrt_stand_in import CudaRuntime, tensorrt

from kd_perception import engines
from kd_perception.bundles.bundle import write_bundle
from kd_perception.detection.detector import Detector
from kd_perception.engines import tensorrt_versions
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import DeviceMemoryError, EngineError

VERSIONS = ('8.5.2', '8.6.2', '10.3.0', '11.0.0')


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Puts a version of TensorRT and a GPU in the place of the real ones, and the cache into a folder of its own."""
    monkeypatch.setenv('KD_PERCEPTION_CACHE', str(tmp_path / 'cache'))

    def choose(version='10.3.0', cuda=None, **more):
        trt, cuda = tensorrt(version, **more), cuda or CudaRuntime()
        monkeypatch.setitem(sys.modules, 'tensorrt', trt)
        monkeypatch.setattr('importlib.util.find_spec', lambda name: True)
        monkeypatch.setattr('kd_perception.engines.tensorrt.load_runtime', lambda: cuda)
        return trt, cuda

    return choose


def load(bundle, precision='', said=None, artifact=0):
    options = EngineOptions(precision=precision, report=(said if said is not None else []).append)
    return engines.load(bundle, bundle.artifacts[artifact], options, engine='tensorrt')


def quantized(folder, zero_point: int, kind=np.int8):
    """`bright_cells` with its input through QDQ, as a bundle's int8 artifact made for TensorRT."""
    model = bright_cells()
    graph = model.graph
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(2.0, np.float32), 'scale'))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(zero_point, kind), 'zero'))
    graph.node[1].input[0] = 'restored'
    graph.node.insert(1, onnx.helper.make_node('QuantizeLinear', ['float', 'scale', 'zero'], ['small']))
    graph.node.insert(2, onnx.helper.make_node('DequantizeLinear', ['small', 'scale', 'zero'], ['restored']))
    onnx.save(model, folder / 'int8.onnx')
    entry = artifact_entry(folder, 'int8.onnx', 'int8') | {'engine': 'tensorrt'}
    return write_bundle(folder, bundle_document(artifacts=[entry]))


@pytest.mark.parametrize('version', VERSIONS)
def test_detections_are_those_of_onnxruntime(tmp_path, use, version):
    trt, cuda = use(version)
    bundle = make_bundle(tmp_path)
    detector = Detector(bundle, load(bundle))
    reference = Detector(bundle, engines.load(bundle, bundle.artifacts[0]))
    image = image_with_cells(3, 9, width=320, height=320)
    found, expected = detector.detect(image)[0], reference.detect(image)[0]
    assert len(found) == 2
    assert found.boxes.tolist() == expected.boxes.tolist()
    info = detector.engine.info
    assert (info.engine, info.precision, info.device, info.versions['tensorrt']) == (
        'tensorrt',
        'fp32',
        'cuda',
        version,
    )
    assert 'Orin (8.7)' in info.provider
    detector.close()
    detector.close()
    assert (cuda.buffers, cuda.streams) == ({}, 0)
    assert trt.builds[0]['tf32'] is False, 'FP32 convolutions would be rounded to 10 bits'


@pytest.mark.parametrize(
    ('version', 'precision', 'flags', 'typed'),
    [
        ('8.5.2', 'fp32', set(), False),
        ('8.6.2', 'fp16', {'FP16'}, False),
        ('10.3.0', 'fp32', set(), False),
        ('10.3.0', 'fp16', {'FP16'}, False),
        ('11.0.0', 'fp32', set(), False),
    ],
)
def test_flags_of_each_version(tmp_path, use, version, precision, flags, typed):
    trt, _ = use(version)
    load(make_bundle(tmp_path), precision)
    assert (trt.builds[0]['flags'], trt.builds[0]['typed']) == (flags, typed)


@pytest.mark.parametrize(
    ('version', 'flags', 'typed'), [('8.6.2', {'INT8'}, False), ('10.3.0', set(), True), ('11.0.0', set(), False)]
)
def test_symmetric_qdq_becomes_int8(tmp_path, use, version, flags, typed):
    trt, _ = use(version)
    assert load(quantized(tmp_path, 0)).info.precision == 'int8'
    assert (trt.builds[0]['flags'], trt.builds[0]['typed']) == (flags, typed)


@pytest.mark.parametrize(('zero_point', 'kind'), [(3, np.int8), (0, np.uint8)])
def test_qdq_with_zero_points_is_refused(tmp_path, use, zero_point, kind):
    use()
    with pytest.raises(EngineError, match='symmetric int8 only'):
        load(quantized(tmp_path, zero_point, kind))


def test_fp16_of_an_fp32_file_on_11_names_the_way_out(tmp_path, use):
    use('11.0.0')
    with pytest.raises(EngineError, match='add an artifact of fp16'):
        load(make_bundle(tmp_path), 'fp16')


@pytest.mark.parametrize(('version', 'says'), [('8.4.1', 'too old'), ('10.2.0', 'known to build wrong')])
def test_versions_that_cannot_serve(version, says):
    with pytest.raises(EngineError, match=says):
        tensorrt_versions.plan(version, 'fp32', 'fp32')


def test_an_engine_is_built_once_and_says_how_far_it_is(tmp_path, use):
    trt, _ = use()
    bundle, said = make_bundle(tmp_path), []
    load(bundle, said=said).close()
    assert 'takes minutes' in said[0]
    assert [line for line in said if '%' in line][-1] == 'TensorRT: Building Engine: 100 %'
    said.clear()
    load(bundle, said=said).close()
    assert (len(trt.builds), said) == (1, [])


def test_without_a_progress_monitor_it_is_built_all_the_same(tmp_path, use):
    use('8.5.2')
    said = []
    load(make_bundle(tmp_path), said=said)
    assert not any('%' in line for line in said)
    assert 'built' in said[-1]


def another_version(use, tmp_path):
    return use('10.7.0')[0], make_bundle(tmp_path), ''


def another_gpu(use, tmp_path):
    return use(cuda=CudaRuntime(name='Thor', capability=(11, 0)))[0], make_bundle(tmp_path), ''


def another_capability(use, tmp_path):
    return use(cuda=CudaRuntime(capability=(8, 6)))[0], make_bundle(tmp_path), ''


def another_precision(use, tmp_path):
    return use()[0], make_bundle(tmp_path), 'fp16'


def another_model(use, tmp_path):
    return use()[0], make_bundle(tmp_path / 'other', poison=255), ''


@pytest.mark.parametrize('change', [another_version, another_gpu, another_capability, another_precision, another_model])
def test_an_engine_is_built_again_when_what_it_depends_on_changes(tmp_path, use, change):
    use()
    load(make_bundle(tmp_path)).close()
    trt, bundle, precision = change(use, tmp_path)
    load(bundle, precision).close()
    assert len(trt.builds) == 1


def test_sizes_that_the_file_leaves_open_become_the_bundles(tmp_path, use):
    trt, _ = use()
    model = bright_cells()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = 'batch'
    onnx.save(model, tmp_path / 'open.onnx')
    bundle = write_bundle(tmp_path, bundle_document(artifacts=[artifact_entry(tmp_path, 'open.onnx')]))
    load(bundle)
    (profile,) = trt.builds[0]['config'].profiles
    assert profile.shapes == {'image': ((1, 64, 64, 3),) * 3}


@pytest.mark.parametrize(
    ('refuses', 'error', 'says'),
    [
        ('parse', EngineError, 'cannot read bright_cells.onnx fp32: In node 0: Unsupported operator Warp'),
        ('build', DeviceMemoryError, 'cannot build .* out of memory. Stop other programs'),
        ('deserialize', EngineError, 'cannot load the engine: .*version mismatch'),
    ],
)
def test_what_tensorrt_refuses_is_said_and_nothing_is_held(tmp_path, use, refuses, error, says):
    _, cuda = use(refuses=[refuses])
    with pytest.raises(error, match=says):
        load(make_bundle(tmp_path))
    assert (cuda.buffers, cuda.streams) == ({}, 0)


def test_a_gpu_without_memory_is_an_error_of_its_own(tmp_path, use):
    _, cuda = use(cuda=CudaRuntime(memory=1000))
    with pytest.raises(DeviceMemoryError, match='out of memory .cudaMalloc.: stop other programs'):
        load(make_bundle(tmp_path))
    assert (cuda.buffers, cuda.streams, cuda.free) == ({}, 0, 1000)


def test_a_gpu_that_is_not_there(tmp_path, use):
    use()
    bundle = make_bundle(tmp_path)
    with pytest.raises(EngineError, match='invalid device ordinal'):
        engines.load(bundle, bundle.artifacts[0], EngineOptions(device_id=4), engine='tensorrt')


def test_without_the_cuda_library_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorrt', tensorrt('10.3.0'))
    monkeypatch.setattr('importlib.util.find_spec', lambda name: True)
    monkeypatch.setattr('kd_perception.engines.cuda_memory._LIBRARIES', ('libcudart.so.none',))
    with pytest.raises(EngineError, match='nvidia-jetpack'):
        load(make_bundle(tmp_path))


def test_weights_of_float16_behind_a_cast_are_given_as_weights(tmp_path, use, monkeypatch):
    trt, _ = use()
    given, parse = [], trt.OnnxParser.parse
    monkeypatch.setattr(trt.OnnxParser, 'parse', lambda self, content: given.append(content) or parse(self, content))
    model = bright_cells()
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == 'weights')
    half = onnx.numpy_helper.to_array(weights).astype(np.float16)
    weights.CopyFrom(onnx.numpy_helper.from_array(half, 'half'))
    model.graph.node.insert(0, onnx.helper.make_node('Cast', ['half'], ['weights'], to=onnx.TensorProto.FLOAT))
    load(make_bundle(tmp_path, network=model)).close()
    graph = onnx.load_from_string(given[0]).graph
    assert [node.input[0] for node in graph.node if node.op_type == 'Cast'] == ['image']
    assert next(tensor for tensor in graph.initializer if tensor.name == 'weights').data_type == onnx.TensorProto.FLOAT
