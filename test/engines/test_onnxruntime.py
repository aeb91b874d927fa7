"""The ONNX Runtime engine: what it reports, what it refuses, and that it copies nothing."""

from __future__ import annotations

import hashlib
import re
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from networks import artifact_entry, bright_cells, bundle_document, make_bundle

from kd_perception import engines
from kd_perception.bundles.bundle import Artifact, write_bundle
from kd_perception.engines import onnxruntime
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import BundleError, DeviceMemoryError, EngineError


def test_info_says_what_runs(tmp_path):
    bundle = make_bundle(tmp_path)
    info = engines.load(bundle, bundle.artifacts[0], EngineOptions(threads=1)).info
    assert (info.engine, info.precision, info.device, info.threads) == ('onnxruntime', 'fp32', 'cpu', 1)
    assert info.provider == 'CPUExecutionProvider'
    assert set(info.versions) == {'onnxruntime', 'numpy'}


def test_it_says_which_provider_runs_how_many_nodes(tmp_path):
    bundle = make_bundle(tmp_path)
    engine = engines.load(bundle, bundle.artifacts[0])
    assert set(engine.info.nodes) == {'CPUExecutionProvider'}
    assert engine.info.nodes['CPUExecutionProvider'] >= 5
    assert engine.info.warnings == ()


class Session:
    """What a session tells of its providers, as on a machine with a GPU."""

    def __init__(self, started, nodes):
        self.started, self.nodes = started, nodes

    def get_providers(self):
        return self.started

    def get_provider_graph_assignment_info(self):
        parts = []
        for provider, kinds in self.nodes.items():
            nodes = [SimpleNamespace(op_type=kind) for kind in kinds]
            parts.append(SimpleNamespace(ep_name=provider, get_nodes=lambda nodes=nodes: nodes))
        return parts


CPU, CUDA, TRT = 'CPUExecutionProvider', 'CUDAExecutionProvider', 'TensorrtExecutionProvider'


@pytest.mark.parametrize(
    ('wanted', 'started', 'nodes', 'says'),
    [
        ([CPU], [CPU], {CPU: ['Conv']}, []),
        ([CUDA], [CUDA, CPU], {CUDA: ['Conv', 'Mul']}, []),
        (
            [CUDA],
            [CPU],
            {CPU: ['Conv']},
            ['CUDA.* could not be started, CPU.* runs in its place. It needs onnxruntime-gpu'],
        ),
        (
            [CUDA],
            [CUDA, CPU],
            {CUDA: ['Conv'], CPU: ['NonZero', 'TopK']},
            [r'2 nodes run on the CPU \(NonZero, TopK\)'],
        ),
        ([TRT, CUDA], [TRT, CUDA, CPU], {CUDA: ['Conv']}, ['Tensorrt.* runs none of the nodes; CUDA.* run them all']),
        ([CUDA, CPU], [CPU], {CPU: ['Conv']}, ['CUDA.* could not be started']),
    ],
    ids=['cpu', 'gpu', 'no driver', 'part', 'nothing for TensorRT', 'cpu in reserve'],
)
def test_what_fell_back_is_told_with_the_cure(wanted, started, nodes, says):
    session = Session(started, nodes)
    warnings = onnxruntime._fallbacks(wanted, started, onnxruntime._operations(session))
    assert len(warnings) == len(says)
    for warning, pattern in zip(warnings, says, strict=True):
        assert re.search(pattern, warning)


@pytest.mark.parametrize(
    ('provider', 'precision', 'version', 'expected'),
    [
        (CPU, 'fp32', '1.31.1', {}),
        (CUDA, 'fp32', '1.31.1', {'device_id': '1', 'cudnn_conv_algo_search': 'HEURISTIC', 'use_tf32': '0'}),
        (CUDA, 'fp32', '1.17.0', {'device_id': '1', 'cudnn_conv_algo_search': 'HEURISTIC'}),
        (TRT, 'int8', '1.31.1', {'device_id': '1', 'trt_int8_enable': '1', 'trt_engine_cache_enable': '1'}),
    ],
)
def test_options_of_the_providers(tmp_path, monkeypatch, provider, precision, version, expected):
    monkeypatch.setenv('KD_PERCEPTION_CACHE', str(tmp_path / 'cache'))
    artifact = Artifact('onnxruntime', precision, 'n.onnx', '0' * 64)
    chosen = onnxruntime._provider_options(provider, artifact, EngineOptions(device_id=1), version)
    assert {key: value for key, value in chosen.items() if not key.startswith('trt_') or key in expected} == expected
    if provider == TRT:
        assert chosen['trt_engine_cache_path'] == str(tmp_path / 'cache' / 'onnxruntime')


def test_without_a_cache_folder_tensorrt_builds_at_every_start(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('KD_PERCEPTION_CACHE', str(tmp_path / 'file'))
    said = []
    artifact = Artifact('onnxruntime', 'fp32', 'n.onnx', '0' * 64)
    chosen = onnxruntime._provider_options(TRT, artifact, EngineOptions(report=said.append), '1.31.1')
    assert chosen == {'device_id': '0'}
    assert 'built again at the next start' in said[0]


def test_want_of_memory_is_an_error_of_its_own(tmp_path, monkeypatch):
    bundle = make_bundle(tmp_path)
    engine = engines.load(bundle, bundle.artifacts[0])

    def fail(binding):
        raise RuntimeError('CUDNN_FE failure 11: Failed to allocate memory for requested buffer of size 67108864')

    monkeypatch.setattr(engine, '_session', SimpleNamespace(run_with_iobinding=fail))
    with pytest.raises(DeviceMemoryError, match='out of memory. Stop other programs .* choose a lower precision'):
        engine.infer(np.zeros((1, 64, 64, 3), np.uint8))


def test_input_and_outputs_are_bound_not_copied(tmp_path):
    bundle = make_bundle(tmp_path)
    engine = engines.load(bundle, bundle.artifacts[0])
    batch = np.zeros((1, 64, 64, 3), np.uint8)
    first = engine.infer(batch)
    batch[...] = 255  # the same buffer with new content must be seen without another binding
    second = engine.infer(batch)
    assert second['scores'] is first['scores']
    assert second['scores'][0, :, 0].tolist() == pytest.approx([1.0] * 16)


def test_another_buffer_is_bound_anew(tmp_path):
    bundle = make_bundle(tmp_path)
    engine = engines.load(bundle, bundle.artifacts[0])
    engine.infer(np.zeros((1, 64, 64, 3), np.uint8))
    assert engine.infer(np.full((1, 64, 64, 3), 255, np.uint8))['scores'].max() == pytest.approx(1.0)


@pytest.mark.parametrize(
    'batch',
    [
        np.zeros((1, 32, 64, 3), np.uint8),
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((1, 64, 64, 6), np.uint8)[..., ::2],
    ],
    ids=['shape', 'dtype', 'strides'],
)
def test_a_batch_that_does_not_fit_is_refused(tmp_path, batch):
    bundle = make_bundle(tmp_path)
    with pytest.raises(EngineError, match=r'\(1, 64, 64, 3\)'):
        engines.load(bundle, bundle.artifacts[0]).infer(batch)


def test_symbolic_outputs_are_read_too(tmp_path):
    model = bright_cells()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = 'boxes'
    onnx.save(model, tmp_path / 'dynamic.onnx')
    bundle = write_bundle(tmp_path, bundle_document(artifacts=[artifact_entry(tmp_path, 'dynamic.onnx')]))
    outputs = engines.load(bundle, bundle.artifacts[0]).infer(np.full((1, 64, 64, 3), 255, np.uint8))
    assert outputs['boxes'].shape == (1, 16, 4)
    assert outputs['scores'].max() == pytest.approx(1.0)


@pytest.mark.parametrize('content', [b'', b'not a network', b'\x08\x09' * 500])
def test_a_file_that_is_no_network_is_refused(tmp_path, content):
    (tmp_path / 'broken.onnx').write_bytes(content)
    bundle = write_bundle(tmp_path, bundle_document(artifacts=[artifact_entry(tmp_path, 'broken.onnx')]))
    with pytest.raises(EngineError, match='cannot load broken.onnx'):
        engines.load(bundle, bundle.artifacts[0])


def test_weights_in_other_files_are_not_followed(tmp_path):
    """An ONNX file may name any file of the machine as its weights; from bytes, none is opened."""
    model = bright_cells()
    onnx.save(model, tmp_path / 'model.onnx', save_as_external_data=True, location='weights.bin', size_threshold=0)
    bundle = write_bundle(tmp_path, bundle_document(artifacts=[artifact_entry(tmp_path, 'model.onnx')]))
    with pytest.raises(EngineError, match='cannot load'):
        engines.load(bundle, bundle.artifacts[0])


def test_an_input_that_contradicts_the_bundle_is_refused(tmp_path):
    onnx.save(bright_cells(), tmp_path / 'n.onnx')
    spec = bundle_document()['input'] | {'width': 128}
    bundle = write_bundle(tmp_path, bundle_document(input=spec, artifacts=[artifact_entry(tmp_path, 'n.onnx')]))
    with pytest.raises(EngineError, match='correct its input section'):
        engines.load(bundle, bundle.artifacts[0])


def test_providers_are_in_order_of_preference(tmp_path):
    """As the Jetsons' profiles name them: what this build lacks gives way to the next, with a warning that names the cure."""
    bundle = make_bundle(tmp_path)
    engine = engines.load(bundle, bundle.artifacts[0], EngineOptions(providers=(CUDA, CPU)))
    assert engine.info.provider == CPU
    (warning,) = engine.info.warnings
    assert re.search(f'{CUDA} could not be started, {CPU} runs in its place.*pip install onnxruntime-gpu', warning)
    with pytest.raises(EngineError, match=f'no provider {CUDA}'):
        engines.check_options('onnxruntime', EngineOptions(providers=(CUDA,)))


def test_missing_provider_and_unknown_engine_say_what_there_is(tmp_path):
    bundle = make_bundle(tmp_path)
    with pytest.raises(EngineError, match='it has .*CPUExecutionProvider'):
        engines.load(bundle, bundle.artifacts[0], EngineOptions(providers=('TpuExecutionProvider',)))
    with pytest.raises(EngineError, match='pip install onnxruntime-gpu'):
        engines.load(bundle, bundle.artifacts[0], EngineOptions(providers=(CUDA,)))
    digest = hashlib.sha256((tmp_path / 'bright_cells.onnx').read_bytes()).hexdigest()
    entry = {'engine': 'warp', 'precision': 'fp32', 'file': 'bright_cells.onnx', 'sha256': digest}
    other = write_bundle(tmp_path, bundle_document(artifacts=[entry]))
    with pytest.raises(EngineError, match='choose one of .*onnxruntime'):
        engines.load(other, other.artifacts[0])


def test_an_altered_file_never_reaches_the_library(tmp_path):
    bundle = make_bundle(tmp_path)
    path = tmp_path / 'bright_cells.onnx'
    path.write_bytes(path.read_bytes() + b'\0')
    with pytest.raises(BundleError, match='truncated or altered'):
        engines.load(bundle, bundle.artifacts[0])


def test_close_frees_and_may_be_called_twice(tmp_path):
    bundle = make_bundle(tmp_path)
    engine = engines.load(bundle, bundle.artifacts[0])
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match='closed'):
        engine.infer(np.zeros((1, 64, 64, 3), np.uint8))
