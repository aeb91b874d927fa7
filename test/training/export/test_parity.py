"""Parity on the runtime's path: what is the same detector, and what is refused."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.filterwarnings('ignore')

from kd_perception.detection.detections import Detections  # noqa: E402
from training.errors import ExportError  # noqa: E402
from training.export.heads import BoxesScores  # noqa: E402
from training.export.parity import EXACT, QUANTIZED, check, check_bundle_parity, compare  # noqa: E402

WIDTH, HEIGHT, CELL = 64, 32, 8
CLASSES = ('bright',)
COUNT = (WIDTH // CELL) * (HEIGHT // CELL)


class Mean(torch.nn.Module):
    def forward(self, pixels):
        return torch.nn.functional.avg_pool2d(pixels.mean(1, keepdim=True), CELL)


class Bright(torch.nn.Module):
    """Scores a cell by its brightness."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Conv2d(1, 1, 1, bias=False)
        self.gain.weight.data.fill_(1 / 255)
        y, x = torch.meshgrid(torch.arange(HEIGHT // CELL), torch.arange(WIDTH // CELL), indexing='ij')
        corner = torch.stack([x, y], 2).reshape(1, COUNT, 2) * CELL
        self.register_buffer('cells', torch.cat([corner, corner + CELL], 2).float())

    def forward(self, cells):
        return self.cells + 0 * cells.sum(), self.gain(cells).reshape(1, COUNT, 1)


@pytest.fixture
def module():
    return BoxesScores(Mean(), Bright()).eval()


@pytest.fixture
def files(module, tmp_path):
    """The network in float, and one whose scores are scaled as asked, named int8."""

    def make(factor):
        paths = {name: tmp_path / f'cells_{name}.onnx' for name in ('fp32', 'int8')}
        torch.onnx.export(
            module,
            (torch.zeros(1, HEIGHT, WIDTH, 3, dtype=torch.uint8),),
            str(paths['fp32']),
            dynamo=False,
            opset_version=17,
            input_names=['image'],
            output_names=['boxes', 'scores'],
        )
        model = onnx.load(paths['fp32'])
        weight = next(value for value in model.graph.initializer if list(value.dims) == [1, 1, 1, 1])
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
        onnx.save(model, paths['int8'])
        return paths

    return make


@pytest.fixture
def images():
    """One of twice the network's size: letterboxing is part of the path."""
    image = np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.uint8)
    image[:16, :16] = 255
    image[32:48, 64:80] = 180
    return [image]


def parity(module, networks, images):
    return check_bundle_parity(module, networks, images, classes=CLASSES, width=WIDTH, height=HEIGHT)


def test_torch_float_and_int8_that_agree_are_recorded(module, files, images):
    record = parity(module, files(0.98), images)
    assert record['fp32'] == {
        'compared': True,
        'images': 1,
        'asked': 2,
        'found': 1.0,
        'score': pytest.approx(0, abs=1e-6),
        'worst_score': pytest.approx(0, abs=1e-6),
        'overlap': 1.0,
        'worst_overlap': 1.0,
    }
    assert record['int8']['asked'] == 2
    assert record['int8']['worst_score'] == pytest.approx(0.02, abs=1e-3)


@pytest.mark.parametrize(('factor', 'message'), [(0.8, r'scores 0\.1\d apart'), (0.05, 'finds 0.0 % again')])
def test_an_int8_network_that_lost_its_detections_is_refused(module, files, images, factor, message):
    with pytest.raises(ExportError, match=message):
        parity(module, files(factor), images)


def test_a_float_network_that_is_not_torchs_is_refused(module, files, images):
    networks = files(0.98)
    with pytest.raises(ExportError, match=r'cells_int8\.onnx is not the detector'):
        parity(module, {'fp32': networks['int8']}, images)


def test_parity_needs_the_float_network_and_images(module, files, images):
    networks = files(1)
    with pytest.raises(ExportError, match='needs the float network'):
        parity(module, {'int8': networks['int8']}, images)
    with pytest.raises(ExportError, match='at least one image'):
        parity(module, networks, [])


def detections(boxes, scores, class_ids):
    return Detections(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(class_ids, np.int32))


@pytest.mark.parametrize(
    ('box', 'score', 'class_id', 'found'),
    [
        ((0, 0, 10, 10), 0.9, 0, 1.0),
        ((0, 0, 10, 8), 0.4, 0, 1.0),
        ((0, 0, 10, 4), 0.9, 0, 0.0),
        ((0, 0, 10, 10), 0.9, 1, 0.0),
    ],
    ids=['same', 'moved and less sure', 'elsewhere', 'another class'],
)
def test_a_detection_is_found_again_by_class_and_place(box, score, class_id, found):
    wanted = detections([(0, 0, 10, 10), (50, 50, 60, 60)], [0.9, 0.3], [0, 0])
    result = compare([wanted], [detections([box], [score], [class_id])], 0.5)
    assert (result.asked, result.found) == (1, found)


def test_where_nothing_is_asked_nothing_is_compared_and_record_and_command_say_so(tmp_path, capsys):
    nothing = Detections.empty()
    parity = check(tmp_path / 'x.onnx', [nothing], [nothing], EXACT)
    assert (parity.compared, parity.to_json()['compared']) == (False, False)
    assert 'x.onnx was not compared' in capsys.readouterr().err
    one = detections([(0, 0, 10, 10)], [0.9], [0])
    assert check(tmp_path / 'x.onnx', [one], [one], EXACT).to_json()['compared'] is True
    assert not capsys.readouterr().err
    assert QUANTIZED.found < EXACT.found
