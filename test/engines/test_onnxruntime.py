"""The ONNX Runtime engine: what it reports, what it refuses, and that it copies nothing."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from networks import artifact_entry, bright_cells, bundle_document, make_bundle

from kd_perception import engines
from kd_perception.core.bundle import write_bundle
from kd_perception.core.engine import EngineOptions
from kd_perception.core.errors import BundleError, EngineError


def test_info_says_what_runs(tmp_path):
    bundle = make_bundle(tmp_path)
    info = engines.load(bundle, bundle.artifacts[0], EngineOptions(threads=1)).info
    assert (info.engine, info.precision, info.device, info.threads) == ('onnxruntime', 'fp32', 'cpu', 1)
    assert info.provider == 'CPUExecutionProvider'
    assert set(info.versions) == {'onnxruntime', 'numpy'}


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


def test_missing_provider_and_unknown_engine_say_what_there_is(tmp_path):
    bundle = make_bundle(tmp_path)
    with pytest.raises(EngineError, match='it has .*CPUExecutionProvider'):
        engines.load(bundle, bundle.artifacts[0], EngineOptions(providers=('TpuExecutionProvider',)))
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
