"""A float network whose weights are stored in float16: smaller, and on every engine the detector that it was."""

import numpy as np
import onnx
import pytest
import yaml
from networks import artifact_entry, bundle_document
from onnx import numpy_helper

torch = pytest.importorskip('torch')
pytest.importorskip('ultralytics')
pytestmark = pytest.mark.filterwarnings('ignore')

from tiny_detectors import CLASSES, SIDE, detector  # noqa: E402

from kd_perception import engines  # noqa: E402
from kd_perception.bundles.bundle import load_bundle, write_bundle  # noqa: E402
from kd_perception.engines.options import EngineOptions  # noqa: E402
from training.errors import ExportError  # noqa: E402
from training.export.half_weights import store_in_half  # noqa: E402
from training.export.onnx_export import export  # noqa: E402
from training.models.bundle_weights import network_of_bundle  # noqa: E402
from training.quantize.network import read_network  # noqa: E402


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A float network, and the same with half weights."""
    folder = tmp_path_factory.mktemp('half')
    export(detector(), SIDE, SIDE, folder / 'full.onnx')
    store_in_half(folder / 'full.onnx', folder / 'half.onnx')
    return folder / 'full.onnx', folder / 'half.onnx'


def bundle_of(file, folder):
    """A bundle with that file."""
    folder.mkdir()
    (folder / file.name).write_bytes(file.read_bytes())
    size = {**bundle_document()['input'], 'width': SIDE, 'height': SIDE}
    entry = artifact_entry(folder, file.name)
    write_bundle(folder, bundle_document(classes=list(CLASSES), input=size, artifacts=[entry]))
    return load_bundle(folder)


def outputs(bundle, engine):
    image = np.random.default_rng(1).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)
    loaded = engines.load(bundle, bundle.artifacts[0], EngineOptions(threads=1), engine)
    found = {name: value.copy() for name, value in loaded.infer(image).items()}
    loaded.close()
    return found


def test_it_is_about_half_as_large_and_only_weights_that_are_multiplied_are_rounded(files):
    full, half = (onnx.load(file) for file in files)
    assert files[1].stat().st_size < 0.65 * files[0].stat().st_size  # of a tiny network, much is no weight
    onnx.checker.check_model(half)
    stored = {tensor.name: tensor for tensor in half.graph.initializer}
    for tensor in full.graph.initializer:
        if tensor.name in stored:
            assert stored[tensor.name] == tensor
        else:
            values, rounded = (numpy_helper.to_array(one) for one in (tensor, stored[f'{tensor.name}_float16']))
            assert rounded.dtype == np.float16
            np.testing.assert_allclose(rounded, values, rtol=5e-4, atol=1e-7)
    assert 'head.centers' in stored


@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino', 'ncnn'])
def test_every_engine_computes_nearly_what_it_did(files, tmp_path, engine):
    pytest.importorskip(engine)
    full, half = (outputs(bundle_of(file, tmp_path / file.stem), engine) for file in files)
    np.testing.assert_allclose(half['scores'], full['scores'], atol=5e-3)
    np.testing.assert_allclose(half['boxes'], full['boxes'], atol=0.25)  # pixels; a fresh network's boxes are vague
    assert not np.array_equal(half['scores'], full['scores'])


def test_a_training_and_a_quantization_begin_with_it(files, tmp_path):
    bundle = bundle_of(files[1], tmp_path / 'b')
    (tmp_path / 'architecture.yaml').write_text(yaml.safe_dump(dict(detector().yaml)))
    network = network_of_bundle(bundle.folder, str(tmp_path / 'architecture.yaml'), CLASSES)
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(network(image)[0], detector()(image)[0], rtol=2e-2, atol=0.25)
    graph = read_network(files[1]).graph
    weights = {tensor.name for tensor in graph.initializer}
    assert all(node.input[1] in weights for node in graph.node if node.op_type == 'Conv')


def test_what_float16_does_not_hold_is_refused(files, tmp_path):
    model = onnx.load(files[0])
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4 and tensor.dims[0] > 16)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e9), weight.name))
    onnx.save(model, tmp_path / 'large.onnx')
    with pytest.raises(ExportError, match='leave half_weights out'):
        store_in_half(tmp_path / 'large.onnx', tmp_path / 'half.onnx')
    assert not (tmp_path / 'half.onnx').exists()
