"""An ONNX file from elsewhere becomes a bundle that runs, or the error says what to pass."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from networks import bright_cells, image_with_cells
from onnx import TensorProto, helper

from kd_perception import engines
from kd_perception.bundles.bundle import load_bundle
from kd_perception.cli.main import main
from kd_perception.detection.detector import Detector


def yolo_like(width: int | str = 64, names: str | None = "{0: 'car', 1: 'bus'}") -> onnx.ModelProto:
    """float (1, 3, 64, width) → (1, 4 + 2, 1): one fixed box whose class 0 scores the image's mean."""
    box = helper.make_tensor('box', TensorProto.FLOAT, [1, 5, 1], [32, 32, 16, 8, 0])
    nodes = [
        helper.make_node('ReduceMean', ['images'], ['mean'], axes=[1, 2, 3], keepdims=0),
        helper.make_node('Reshape', ['mean', 'column'], ['score']),
        helper.make_node('Split', ['box', 'parts'], ['geometry', 'nothing'], axis=1),
        helper.make_node('Concat', ['geometry', 'score', 'nothing'], ['output0'], axis=1),
    ]
    column = helper.make_tensor('column', TensorProto.INT64, [3], [1, 1, 1])
    parts = helper.make_tensor('parts', TensorProto.INT64, [2], [4, 1])
    graph = helper.make_graph(
        nodes,
        'yolo_like',
        [helper.make_tensor_value_info('images', TensorProto.FLOAT, [1, 3, 64, width])],
        [helper.make_tensor_value_info('output0', TensorProto.FLOAT, [1, 6, 1])],
        [box, column, parts],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)])
    model.ir_version = 8
    if names is not None:
        helper.set_model_props(model, {'names': names, 'license': 'AGPL-3.0'})
    return model


def create(tmp_path, model, *more: str) -> int:
    onnx.save(model, tmp_path / 'net.onnx')
    return main(['bundle', 'create', str(tmp_path / 'net.onnx'), '--out', str(tmp_path / 'made'), *more])


def test_an_ultralytics_export_needs_no_options(tmp_path, capsys):
    assert create(tmp_path, yolo_like()) == 0
    bundle = load_bundle(tmp_path / 'made')
    assert (bundle.classes, bundle.license) == (('car', 'bus'), 'AGPL-3.0')
    assert (bundle.output.layout, bundle.input.color, bundle.input.std) == ('yolo', 'rgb', (255.0,) * 3)
    detector = Detector(bundle, engines.load(bundle, bundle.artifacts[0]))
    found, _ = detector.detect(np.full((64, 64, 3), 204, np.uint8))
    assert found.boxes.tolist() == [[24, 28, 40, 36]]
    assert found.scores.tolist() == pytest.approx([0.8], abs=1e-5)
    assert main(['bundle', 'show', str(tmp_path / 'made')]) == 0
    assert 'verified' in capsys.readouterr().out


def test_our_own_layout_is_recognised(tmp_path):
    assert create(tmp_path, bright_cells(), '--classes', 'bright,blue', '--colour', 'bgr') == 0
    bundle = load_bundle(tmp_path / 'made')
    detector = Detector(bundle, engines.load(bundle, bundle.artifacts[0]))
    assert len(detector.detect(image_with_cells(3))[0]) == 1


@pytest.mark.parametrize(
    ('model', 'arguments', 'says'),
    [
        (yolo_like(names=None), [], 'pass --classes'),
        (yolo_like(names='__import__("os").system("true")'), [], 'pass --classes'),
        (yolo_like(width='any'), [], 'pass --size'),
        (yolo_like(), ['--classes', 'car'], 'Are the classes complete?'),
    ],
    ids=['no names', 'code for names', 'any size', 'too few classes'],
)
def test_what_is_missing_is_named_and_nothing_is_left(tmp_path, capsys, model, arguments, says):
    assert create(tmp_path, model, *arguments) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / 'made').exists()


def test_any_size_is_cured_by_the_option(tmp_path):
    assert create(tmp_path, yolo_like(width='any'), '--size', '128x64') == 0
    assert load_bundle(tmp_path / 'made').input.width == 128


@pytest.mark.parametrize('content', [b'', b'GIF89a'])
def test_a_file_that_is_no_network(tmp_path, capsys, content):
    (tmp_path / 'net.onnx').write_bytes(content)
    assert main(['bundle', 'create', str(tmp_path / 'net.onnx'), '--out', str(tmp_path / 'made')]) == 1
    assert 'not an ONNX network' in capsys.readouterr().err


def test_an_existing_folder_is_not_overwritten(tmp_path, capsys):
    (tmp_path / 'made').mkdir()
    assert create(tmp_path, yolo_like()) == 1
    assert 'exists already' in capsys.readouterr().err
