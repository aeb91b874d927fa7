"""Files of Ultralytics' own exporter become bundles that detect what the network in torch detects."""

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from tiny_detectors import SPARE, architecture

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

from kd_perception import engines  # noqa: E402
from kd_perception.bundles.bundle import load_bundle  # noqa: E402
from kd_perception.cli.main import main  # noqa: E402
from kd_perception.detection.detector import Detector  # noqa: E402
from kd_perception.detection.letterbox import Letterbox  # noqa: E402
from kd_perception.detection.thresholds import Thresholds  # noqa: E402

WIDTH, HEIGHT, CLASSES = 128, 96, 3
RTDETR = {
    'scales': {'z': [0.33, 0.25, 256]},
    'backbone': SPARE['backbone'],
    'head': [[[3, 4, 5], 1, 'RTDETRDecoder', ['nc', 32, 20, 2, 4, 2, 64]]],
}
EXPORTS = {
    'YOLOv5u': (architecture('v5'), {}, 'yolo'),
    'YOLOv8': (architecture('v8'), {}, 'yolo'),
    'YOLOv8, any size': (architecture('v8'), {'dynamic': True}, 'yolo'),
    'YOLO11': (architecture('11'), {}, 'yolo'),
    'YOLO26 end to end': (architecture('26'), {'end2end': True}, 'end2end'),
    'YOLO26 without its end': (architecture('26'), {'end2end': False}, 'yolo'),
    'RT-DETR': (RTDETR, {}, 'end2end'),
}


def lively(network):
    """Scores all over the range, as random weights do not give them."""
    draw = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if ('cv3' in name and '.2.' in name) or 'score_head' in name:
            parameter.data = (1 if name.endswith('bias') else 0.3) * torch.randn(parameter.shape, generator=draw)
    return network


@pytest.fixture(scope='module')
def export(tmp_path_factory):
    """Family → its file, exported once, and the network in torch."""
    made = {}

    def of(family):
        if family not in made:
            import ultralytics

            content, options, _ = EXPORTS[family]
            folder = tmp_path_factory.mktemp('export')
            config = folder / ('rtdetr-z.yaml' if family == 'RT-DETR' else 'yolov8z.yaml')
            config.write_text(yaml.safe_dump({**content, 'nc': CLASSES, 'scale': next(iter(content['scales']))}))
            torch.manual_seed(0)
            model = (ultralytics.RTDETR if family == 'RT-DETR' else ultralytics.YOLO)(str(config))
            lively(model.model)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)  # where the exporter leaves the file
                size = [HEIGHT, WIDTH]
                file = model.export(
                    format='onnx', imgsz=size, device='cpu', opset=17, simplify=False, verbose=False, **options
                )
            network = model.model.eval()
            if 'end2end' in options:
                network.end2end = options['end2end']
            made[family] = folder / file, network
        return made[family]

    return of


@pytest.fixture
def photograph():
    return np.random.default_rng(3).integers(0, 256, (2 * HEIGHT, 2 * HEIGHT, 3), dtype=np.uint8)


def best_of_torch(network, pixels, family):
    """The surest candidate: corners in pixels of the input, score, class."""
    with torch.no_grad():
        output = network(torch.from_numpy(pixels))
    output = output[0] if isinstance(output, (tuple, list)) else output
    if output.shape[-1] == 6:
        row = output[0, output[0, :, 4].argmax()].numpy()
        box, score, number = row[:4], row[4], row[5]
        if family == 'RT-DETR':
            box = np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2]) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
        return box, score, number
    scores = output[0, 4:]
    place = int(scores.max(0).values.argmax())
    x, y, width, height = output[0, :4, place].numpy()
    box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    return box, float(scores[:, place].max()), int(scores[:, place].argmax())


@pytest.mark.parametrize('family', EXPORTS)
def test_the_bundle_detects_what_torch_detects(tmp_path, export, photograph, capsys, family):
    file, network = export(family)
    assert main(['bundle', 'create', str(file), '--out', str(tmp_path / 'made')]) == 0, capsys.readouterr().err
    bundle = load_bundle(tmp_path / 'made')
    assert bundle.output.layout == EXPORTS[family][2]
    spec = bundle.input
    assert (spec.width, spec.height, spec.color) == (WIDTH, HEIGHT, 'rgb')
    assert spec.resize == ('stretch' if family == 'RT-DETR' else 'letterbox')
    canvas = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    geometry = Letterbox((photograph.shape[1], photograph.shape[0]), (WIDTH, HEIGHT), spec.resize, spec.pad)
    geometry.apply(photograph, canvas)
    pixels = canvas[None, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
    box, score, number = best_of_torch(network, np.ascontiguousarray(pixels), family)
    detector = Detector(bundle, engines.load(bundle, bundle.artifacts[0]), Thresholds(0.01, 0.6))
    found, _ = detector.detect(photograph)
    detector.close()
    assert (found.scores[0], found.class_ids[0]) == (pytest.approx(score, abs=1e-3), number)
    assert found.boxes[0] == pytest.approx(geometry.to_source(box[None])[0], abs=0.1)


@pytest.mark.parametrize('family', ['YOLOv8', 'YOLO26 end to end', 'RT-DETR'])
def test_half_precision_weights_and_ports(tmp_path, export, photograph, family):
    """As converters leave them: every weight, input and output in half precision."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    file, _ = export(family)
    onnx.save(convert_float_to_float16(onnx.load(file), keep_io_types=False), tmp_path / 'half.onnx')
    for name, source in (('whole', file), ('half', tmp_path / 'half.onnx')):
        assert main(['bundle', 'create', str(source), '--out', str(tmp_path / name)]) == 0
    found = []
    for name in ('whole', 'half'):
        bundle = load_bundle(tmp_path / name)
        detector = Detector(bundle, engines.load(bundle, bundle.artifacts[0]), Thresholds(0.01, 0.6))
        found.append(detector.detect(photograph)[0])
        detector.close()
    assert bundle.artifacts[0].precision == 'fp16'
    assert found[1].scores[0] == pytest.approx(found[0].scores[0], abs=0.02)


def test_transposed_by_the_user(tmp_path, export, photograph):
    """(1, N, 4 + C) detects what (1, 4 + C, N) does."""
    file, _ = export('YOLOv8')
    model = onnx.load(file)
    (output,) = model.graph.output
    model.graph.node.append(helper.make_node('Transpose', [output.name], ['swapped'], perm=[0, 2, 1]))
    shape = [d.dim_value for d in output.type.tensor_type.shape.dim]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info('swapped', TensorProto.FLOAT, [1, *shape[:0:-1]]))
    onnx.save(model, tmp_path / 'swapped.onnx')
    found = []
    for name, source in (('plain', file), ('other', tmp_path / 'swapped.onnx')):
        assert main(['bundle', 'create', str(source), '--out', str(tmp_path / name)]) == 0
        bundle = load_bundle(tmp_path / name)
        detector = Detector(bundle, engines.load(bundle, bundle.artifacts[0]), Thresholds(0.01, 0.6))
        found.append(detector.detect(photograph)[0])
        detector.close()
    assert len(found[0])
    np.testing.assert_allclose(found[0].boxes, found[1].boxes, atol=1e-3)
    np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-6)
