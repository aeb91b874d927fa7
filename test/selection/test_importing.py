"""Networks of other families become bundles that find what is there, or are refused with what they are."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from foreign_networks import (
    CENTERED,
    CORNERS,
    SIDE,
    as_corners,
    candidates,
    constant_network,
    fastestdet,
    logits,
    nanodet,
    noise,
    save,
    yolox_raw,
)
from onnx import TensorProto, helper, numpy_helper

from kd_perception import engines
from kd_perception.bundles.bundle import load_bundle
from kd_perception.cli.main import main
from kd_perception.detection.detector import Detector

SHARES = np.array([SIDE, SIDE, SIDE, SIDE], np.float32)


def end2end(*rows: tuple[float, ...], count: int = 300) -> np.ndarray:
    """(1, count, 6): rows of x1, y1, x2, y2, score, class by falling score."""
    table = np.zeros((count, 6), np.float32)
    others = as_corners(noise(count, 6))
    table[:, :4] = others[:, :4]
    table[:, 4] = np.linspace(0.02, 0.001, count)
    table[:, 5] = np.arange(count) % 2
    table[: len(rows)] = rows
    return table[None]


CAR = (*CORNERS, 0.93, 0.0)
FOUND = end2end(CAR)


def normalized(table: np.ndarray) -> np.ndarray:
    shares = table.copy()
    shares[..., :4] /= SHARES
    return shares


def separate(**names: str) -> dict[str, np.ndarray]:
    """Box, score and label as outputs of their own."""
    return {
        names['boxes']: FOUND[:, :, :4],
        names['scores']: FOUND[:, :, 4],
        names['labels']: FOUND[:, :, 5].astype(np.int64),
    }


V8, V5 = candidates(0.93, 0.02), candidates(0.95, 0.97, 0.02)
ONE_CLASS = {'names': {0: 'car'}}
BOXES, SCORES = V8[None, :, :4], V8[None, :, 4:]
SOFTMAX = np.concatenate([logits(V8)[:, 4:] - 3, np.full((len(V8), 1), 2.0)], axis=1)
SOFTMAX[100] = [2.7, -2, 0]
NANODET, NANODET_SIDES = nanodet((8, 16, 32), 0.5)
PLUS = np.concatenate(nanodet((8, 16, 32, 64), 0.0), axis=1)[None]
LEVELS = np.cumsum([0, 40 * 40, 20 * 20, 10 * 10])

FAMILIES = {
    'YOLOv8': ({'output0': V8.T[None]}, {}, 'yolo'),
    'with swapped axes': ({'output0': V8[None]}, {}, 'boxes_scores'),
    'corners': ({'output0': as_corners(V8).T[None]}, {}, 'yolo'),
    'shares': ({'output0': normalized(V8).T[None]}, {}, 'boxes_scores'),
    'logits': ({'output0': logits(V8).T[None]}, {}, 'boxes_scores'),
    'YOLOv5': ({'output0': V5[None]}, {}, 'boxes_scores'),
    'YOLOv5 of one class': ({'output0': candidates(0.95, 0.97)[None]}, ONE_CLASS, 'boxes_scores'),
    'YOLOv5 in shares': ({'output0': normalized(candidates(0.95, 0.97, 0.02, count=6300))[None]}, {}, 'boxes_scores'),
    'YOLOv5 with its raw heads': (
        {'output0': V5[None], 'a': np.zeros((1, 3, 8, 8, 7)), 'b': np.zeros((1, 3, 4, 4, 7))},
        {},
        'boxes_scores',
    ),
    'end to end': ({'output0': FOUND}, {}, 'end2end'),
    'end to end, stated': ({'output0': end2end(CAR, count=1)}, {'end2end': True}, 'end2end'),
    'end to end, one row': ({'output0': np.vstack([[CAR], np.zeros((299, 6))])[None]}, {}, 'end2end'),
    'end to end of one class, one row': (
        {'output0': np.vstack([[CAR], np.zeros((299, 6))])[None]},
        ONE_CLASS,
        'end2end',
    ),
    'one row with swapped axes': (
        {'output0': np.vstack([[*CENTERED, 0.93, 0.0], np.zeros((2099, 6))])[None]},
        {},
        'boxes_scores',
    ),
    'end to end of one class': ({'output0': FOUND * [1, 1, 1, 1, 1, 0]}, ONE_CLASS, 'end2end'),
    'end to end in shares': ({'output0': normalized(FOUND)}, {}, 'end2end'),
    'YOLOv7 end to end': (
        {'output': np.concatenate([np.zeros((300, 1)), FOUND[0][:, [0, 1, 2, 3, 5, 4]]], axis=1)},
        {},
        'end2end',
    ),
    'PaddleDetection': ({'a': FOUND[0][:, [5, 4, 0, 1, 2, 3]], 'b': np.array([300])}, {}, 'end2end'),
    'SSD of Caffe': (
        {
            'detection_out': np.concatenate([np.zeros((300, 1)), normalized(FOUND)[0][:, [5, 4, 0, 1, 2, 3]]], 1)[
                None, None
            ]
        },
        {},
        'end2end',
    ),
    'RT-DETR with sizes': (
        separate(labels='labels', boxes='boxes', scores='scores'),
        {'sizes': {'orig_target_sizes': (TensorProto.INT64, (1, 2))}},
        'end2end',
    ),
    'boxes, scores, labels without a name or a type': (
        {'a': FOUND[:, :, :4], 'b': np.where(FOUND[:, :, 5] > 0, 2.0, 0.0), 'c': FOUND[:, :, 4]},
        {'names': {0: 'car', 1: 'bus', 2: 'van'}},
        'end2end',
    ),
    'MMDeploy': ({'dets': FOUND[:, :, :5], 'labels': FOUND[:, :, 5].astype(np.int64)}, {}, 'end2end'),
    'torchvision': (
        {'boxes': FOUND[0, :, :4], 'labels': FOUND[0, :, 5].astype(np.int64), 'scores': FOUND[0, :, 4]},
        {},
        'end2end',
    ),
    'RT-DETR of Ultralytics': (
        {'output0': np.concatenate([np.float32([CENTERED]) / SHARES, [[0.93, 0]]], axis=1)[None]},
        {'task': 'detect', 'head': 'RTDETRDecoder', 'author': 'Ultralytics'},
        'end2end',
    ),
    'DETR by sigmoid': ({'logits': logits(V8)[None, :, 4:], 'pred_boxes': normalized(BOXES)}, {}, 'boxes_scores'),
    'DETR by softmax': ({'logits': SOFTMAX[None], 'pred_boxes': normalized(BOXES)}, {}, 'boxes_scores'),
    'YOLO-NAS': ({'a': as_corners(V8)[None, :, :4], 'b': SCORES}, {}, 'boxes_scores'),
    "PyTorch's YOLOv4": ({'boxes': normalized(as_corners(V8))[None, :, None, :4], 'confs': SCORES}, {}, 'boxes_scores'),
    'boxes and scores with swapped axes': (
        {'a': as_corners(V8)[:, :4].T[None], 'b': V8[:, 4:].T[None]},
        {},
        'boxes_scores',
    ),
    'one class without an axis': (
        {'b': as_corners(V8)[None, :, :4], 's': V8[None, :, 4]},
        ONE_CLASS,
        'boxes_scores',
    ),
    'our own layout': ({'boxes': as_corners(V8)[None, :, :4], 'scores': SCORES}, {}, 'boxes_scores'),
    'our names, centers': ({'boxes': BOXES, 'scores': SCORES}, {}, 'boxes_scores'),
    'our names, shares': ({'boxes': normalized(BOXES), 'scores': SCORES}, {}, 'boxes_scores'),
    'YOLOX, one row': ({'output': np.where(yolox_raw()[..., 4:5] > 0.5, yolox_raw(), 0)}, {}, 'boxes_scores'),
    'YOLOX': ({'output': yolox_raw()}, {}, 'boxes_scores'),
    'NanoDet': (
        {
            **{f's{n}': NANODET[None, LEVELS[n] : LEVELS[n + 1]] for n in range(3)},
            **{f'd{n}': NANODET_SIDES[None, LEVELS[n] : LEVELS[n + 1]] for n in range(3)},
        },
        {},
        'boxes_scores',
    ),
    'NanoDet-Plus': ({'output': PLUS}, {}, 'boxes_scores'),
    'FastestDet': ({'758': fastestdet()}, {}, 'boxes_scores'),
    'half precision': ({'output0': V8.T[None]}, {'kind': TensorProto.FLOAT16, 'half': True}, 'yolo'),
    'half precision end to end': ({'output0': FOUND}, {'kind': TensorProto.FLOAT16, 'half': True}, 'end2end'),
    'half precision YOLOX': ({'output': yolox_raw()}, {'kind': TensorProto.FLOAT16, 'half': True}, 'boxes_scores'),
    'double precision input': ({'output0': V8.T[None]}, {'kind': TensorProto.DOUBLE}, 'yolo'),
    'uint8, channels last': (
        {'output0': V8.T[None]},
        {'kind': TensorProto.UINT8, 'image': (1, SIDE, SIDE, 3)},
        'yolo',
    ),
    'any size': (
        {'output0': V8.T[None]},
        {'image': ('batch', 3, 'height', 'width'), 'imgsz': [SIDE, SIDE]},
        'yolo',
    ),
}


@pytest.fixture
def picture(tmp_path):
    """A photograph as large as the input: boxes are then those of the network."""
    path = tmp_path / 'street.png'
    cv2.imwrite(str(path), np.full((SIDE, SIDE, 3), 90, np.uint8))
    return path


def create(tmp_path, outputs, given, *more):
    file = save(constant_network(outputs, **given), tmp_path / 'net.onnx')
    return main(['bundle', 'create', str(file), '--out', str(tmp_path / 'made'), *more])


@pytest.mark.parametrize('family', FAMILIES)
def test_a_family_finds_the_car_without_an_option(tmp_path, picture, capsys, family):
    outputs, given, layout = FAMILIES[family]
    assert create(tmp_path, outputs, given, '--picture', str(picture)) == 0, capsys.readouterr().err
    bundle = load_bundle(tmp_path / 'made')
    assert bundle.output.layout == layout
    with_engine = Detector(bundle, engines.load(bundle, bundle.artifacts[0]))
    found, _ = with_engine.detect(cv2.imread(str(picture)))
    with_engine.close()
    assert len(found) == 1
    assert bundle.classes[found.class_ids[0]] == 'car'
    assert found.boxes[0].tolist() == pytest.approx(CORNERS, abs=0.6 if given.get('half') else 0.05)
    assert found.scores[0] == pytest.approx(0.93, abs=0.03)
    assert '1 car' in capsys.readouterr().out
    assert (tmp_path / 'made' / 'annotated' / 'street.jpg').is_file()


OTHERS = {
    'pose': ({'output0': noise(2100, 5 + 51).T[None]}, ONE_CLASS | {'task': 'pose'}, 'pose network.*task detect'),
    'pose, not stated': ({'output0': noise(2100, 5 + 51).T[None]}, ONE_CLASS, 'pose network'),
    'segmentation, not stated': (
        {'output0': noise(2100, 4 + 2 + 32).T[None], 'output1': np.zeros((1, 32, 80, 80))},
        {},
        'segmentation network',
    ),
    'oriented boxes end to end, not stated': (
        {'output0': np.concatenate([FOUND, np.full((1, 300, 1), 0.3)], axis=2)},
        {},
        'OBB',
    ),
    'boxes of TensorFlow': (
        separate(boxes='detection_boxes', scores='detection_scores', labels='detection_classes'),
        {},
        'y1, x1, y2, x2',
    ),
    'classification without names': ({'output0': np.zeros((1, 1000))}, {'names': ''}, 'classification network'),
    'a map': ({'output': np.zeros((1, 2, SIDE, SIDE))}, {}, 'map of the whole picture'),
    'oriented boxes': ({'output0': noise(2100, 7).T[None]}, {'task': 'obb'}, 'oriented boxes'),
    'oriented boxes, not stated': (
        {'output0': np.concatenate([V8, np.linspace(-0.7, 2.3, len(V8))[:, None]], axis=1).T[None]},
        {},
        'OBB|oriented|no probabilities',
    ),
    'classification': ({'output0': np.zeros((1, 1000))}, {}, 'classification network'),
    'batch of four': ({'output0': np.repeat(V8.T[None], 4, 0)}, {'image': (4, 3, SIDE, SIDE)}, 'batch=1'),
    'gray': ({'output0': V8.T[None]}, {'image': (1, 1, SIDE, SIDE)}, 'gray pictures'),
    'gray, channels last': ({'output0': V8.T[None]}, {'image': (1, SIDE, SIDE, 1)}, 'gray pictures'),
    'four channels': ({'output0': V8.T[None]}, {'image': (1, 4, SIDE, SIDE)}, 'four channels'),
    'any channels, stated': (
        {'output0': V8.T[None]},
        {'image': ('b', 'c', 'h', 'w'), 'channels': 4, 'imgsz': SIDE},
        'four channels',
    ),
    'raw heads': (
        {name: np.zeros((1, 3, side, side, 7)) for name, side in (('a', 40), ('b', 20), ('c', 10))},
        {},
        'raw heads.*--grid',
    ),
    'scores beyond': ({'output0': (V8 * [1, 1, 1, 1, 3, 3]).T[None]}, {}, '--activation sigmoid'),
    'boxes of no kind': ({'output0': (V8 * [1, 1, -1, 1, 1, 1]).T[None]}, {}, 'neither corners nor center and size'),
    'six columns of zeros': ({'output0': np.zeros((1, 300, 6))}, {}, '--layout'),
    'too many names': ({'output0': V8.T[None]}, {'names': ['a', 'b', 'c']}, 'classes complete'),
    'no names': ({'output0': noise(2100, 84).T[None]}, {'names': ''}, '--classes.*coco'),
    'int8 input': ({'output0': V8.T[None]}, {'kind': TensorProto.INT8}, 'float32, float16 or uint8'),
    'two pictures': (
        {'output0': V8.T[None]},
        {'sizes': {'depth': (TensorProto.FLOAT, (1, 1, SIDE, SIDE))}},
        'one picture',
    ),
    'any size': ({'output0': V8.T[None]}, {'image': (1, 3, 'h', 'w')}, '--size WIDTHxHEIGHT'),
}


@pytest.mark.parametrize('what', OTHERS)
def test_what_cannot_be_imported_is_named_with_what_to_do(tmp_path, capsys, what):
    outputs, given, says = OTHERS[what]
    assert create(tmp_path, outputs, given) == 1
    said = capsys.readouterr().err
    assert re.search(says, said), said
    assert said.count('\n') == 1
    assert not (tmp_path / 'made').exists()


def test_names_that_the_file_states_wrongly_are_mended_by_the_option(tmp_path, capsys):
    wrong = {'names': ['a', 'b', 'c', 'd']}
    assert create(tmp_path, {'output0': V8.T[None]}, wrong, '--classes', 'car,bus') == 0
    assert load_bundle(tmp_path / 'made').classes == ('car', 'bus')


def test_one_box_does_not_tell_its_form(tmp_path, capsys):
    """Corners that could be a center and a size: taken as usual where the exporter is known, else asked for."""
    table = np.zeros((1, 6, 2100), np.float32)
    table[0, :, 100] = [*CORNERS, 0.93, 0.02]
    table[0, :2, 100] = [80, 100]
    assert create(tmp_path, {'output0': table}, {}) == 1
    assert '--box-format' in capsys.readouterr().err
    assert create(tmp_path, {'output0': table}, {}, '--box-format', 'xyxy') == 0
    file = save(constant_network({'output0': table}, author='Ultralytics', task='detect'), tmp_path / 'v8.onnx')
    assert main(['bundle', 'create', str(file), '--out', str(tmp_path / 'usual')]) == 0
    assert load_bundle(tmp_path / 'usual').output.box_format == 'cxcywh'


def test_the_users_word_decides(tmp_path, capsys):
    """One row that could be corners or center and size, and no name that tells."""
    table = np.zeros((1, 50, 4), np.float32)
    table[0, 3] = [100, 100, 110, 110]
    scores = np.zeros((1, 50, 2), np.float32)
    scores[0, 3, 0] = 0.9
    outputs = {'a': table, 'b': scores}
    assert create(tmp_path, outputs, {}) == 1
    assert '--box-format' in capsys.readouterr().err
    assert create(tmp_path, outputs, {}, '--box-format', 'xyxy') == 0
    assert load_bundle(tmp_path / 'made').output.box_format == 'xyxy'


def test_a_layout_that_does_not_fit(tmp_path, capsys):
    assert create(tmp_path, {'output0': V8.T[None]}, {}, '--layout', 'nanodet') == 1
    assert '--layout nanodet does not fit' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'mean', 'std', 'color'),
    [
        ([], (0.0,) * 3, (255.0,) * 3, 'rgb'),
        (['--color', 'bgr', '--scale', '1'], (0.0,) * 3, (1.0,) * 3, 'bgr'),
        (['--mean', '123.7,116.3,103.5', '--std', '58.4,57.1,57.4'], (123.7, 116.3, 103.5), (58.4, 57.1, 57.4), 'rgb'),
        (['--mean', '127.5', '--std', '127.5'], (127.5,) * 3, (127.5,) * 3, 'rgb'),
    ],
)
def test_how_it_was_trained(tmp_path, options, mean, std, color):
    assert create(tmp_path, {'output0': V8.T[None]}, {}, *options) == 0
    spec = load_bundle(tmp_path / 'made').input
    assert (spec.mean, spec.std, spec.color) == (mean, std, color)


@pytest.mark.parametrize(
    ('name', 'says'),
    [
        ('net.pt', 'checkpoint of PyTorch.*export it as ONNX'),
        ('net.engine', 'engine of TensorRT'),
        ('net.weights', 'give the .cfg'),
        ('net.tflite', 'export the network as ONNX'),
        ('net.onnx', 'not an ONNX network'),
        ('none.onnx', 'cannot be read'),
        ('.', 'not a regular file'),
    ],
)
def test_files_that_are_no_onnx(tmp_path, capsys, name, says):
    if name.startswith('net'):
        (tmp_path / name).write_bytes(b'PK\x03\x04')
    assert main(['bundle', 'create', str(tmp_path / name), '--out', str(tmp_path / 'made')]) == 1
    said = capsys.readouterr().err
    assert re.search(says, said), said
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize(
    ('place', 'says'),
    [('a bundle', 'letters, digits'), ('net.onnx', 'exists already'), ('net.onnx/made', 'cannot be made')],
)
def test_a_place_where_no_bundle_can_be(tmp_path, capsys, place, says):
    file = save(constant_network({'output0': V8.T[None]}), tmp_path / 'net.onnx')
    assert main(['bundle', 'create', str(file), '--out', str(tmp_path / place)]) == 1
    assert says in capsys.readouterr().err
    assert file.is_file()


def test_other_colors_are_proposed_where_these_find_nothing(tmp_path, capsys):
    """A network that scores by blue in BGR 0 … 255, taken for RGB divided by 255."""
    box = np.zeros((1, 5, 100), np.float32)
    box[0, :4] = np.random.default_rng(0).uniform(20, 60, (4, 100)) + 100
    box[0, :4, 7] = CENTERED
    model = constant_network({'output0': box}, names={0: 'car'})
    (add,) = (node for node in model.graph.node if node.output[0] == 'output0_float')
    add.op_type, add.input[1] = 'Max', 'lit'
    places = np.zeros((1, 5, 100), np.float32)
    places[0, 4, 7] = 1 / 255
    model.graph.initializer.append(numpy_helper.from_array(places, 'place'))
    model.graph.node.insert(list(model.graph.node).index(add), helper.make_node('Mul', ['mean', 'place'], ['lit']))
    file = save(model, tmp_path / 'net.onnx')
    cv2.imwrite(str(tmp_path / 'bright.png'), np.full((SIDE, SIDE, 3), 240, np.uint8))
    command = ['bundle', 'create', str(file), '--picture', str(tmp_path / 'bright.png')]
    assert main([*command, '--out', str(tmp_path / 'made')]) == 0
    assert 'note: with --scale 1 it finds more' in capsys.readouterr().out
    assert main([*command, '--out', str(tmp_path / 'right'), '--scale', '1']) == 0
    assert 'note:' not in capsys.readouterr().out
