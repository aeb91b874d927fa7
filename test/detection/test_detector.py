"""The detector end to end on a real ONNX network, for every way in which an input can be stated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from networks import SIZE, artifact_entry, bright_cells, bundle_document, doubles, image_with_cells, make_bundle
from onnx import TensorProto, helper, numpy_helper

from kd_perception import engines
from kd_perception.bundles.bundle import write_bundle
from kd_perception.detection.detections import Detections
from kd_perception.detection.detector import MAX_PLANS, Detector, InputBuffer
from kd_perception.detection.network import InputSpec
from kd_perception.detection.thresholds import Thresholds
from kd_perception.detection.tiles import parse
from kd_perception.errors import EngineError


def detector(bundle) -> Detector:
    return Detector(bundle, engines.load(bundle, bundle.artifacts[0]))


@pytest.mark.parametrize(
    ('width', 'height', 'cells'), [(64, 64, 16), (640, 640, 16), (129, 65, 8), (640, 320, 8), (320, 640, 8)]
)
def test_boxes_come_back_in_source_pixels(tmp_path, width, height, cells):
    """The cells that a white image fills tile exactly that image, whatever its size."""
    found, _ = detector(make_bundle(tmp_path)).detect(np.full((height, width, 3), 255, np.uint8))
    assert len(found) == cells
    assert found.boxes.min(axis=0)[:2].tolist() == [0, 0]
    assert found.boxes.max(axis=0)[2:].tolist() == [width, height]
    areas = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
    assert areas.sum() == pytest.approx(width * height, rel=0.01)


def test_scores_fall_and_thresholds_are_live(tmp_path):
    bright = detector(make_bundle(tmp_path))
    image = image_with_cells(5)
    image[:16, :16] = 180
    found, times = bright.detect(image)
    assert found.scores.tolist() == pytest.approx([1.0, 180 / 255], abs=1e-3)
    assert times.infer > 0
    assert times.preprocess > 0
    assert times.postprocess > 0
    assert times.age == 0
    bright.thresholds = Thresholds(score=0.9, iou=0.5)
    assert len(bright.detect(image)[0]) == 1
    bright.thresholds, bright.max_detections = Thresholds(0.1, 0.5), 1
    assert len(bright.detect(image)[0]) == 1


@pytest.mark.parametrize(
    ('thresholds', 'class_ids'),
    [
        ({}, [0, 1]),
        ({'suppression': 'per_class'}, [0, 1]),
        ({'suppression': 'all_classes'}, [0]),
        ({'class_scores': {'blue': 0.81}}, [0]),
        ({'score': 0.9, 'class_scores': {'blue': 0.79}}, [0, 1]),
        ({'class_scores': {'bright': 1.0, 'blue': 0.9}}, [0]),
        ({'suppression': 'all_classes', 'class_scores': {'blue': 0.1}}, [0]),
    ],
)
def test_one_object_as_two_classes(tmp_path, thresholds, class_ids):
    stated = {'score': 0.5, 'iou': 0.5, **thresholds}
    found, _ = detector(make_bundle(tmp_path, network=doubles(), thresholds=stated)).detect(image_with_cells(5))
    assert found.class_ids.tolist() == class_ids


def test_what_is_suppressed_first_and_then_too_weak_for_its_class_is_gone(tmp_path):
    """So the score alone says what is published, however low a tracker or an evaluation looks."""
    stated = {'score': 0.5, 'iou': 0.5, 'suppression': 'all_classes', 'class_scores': {'bright': 0.9}}
    image = (0.85 * image_with_cells(5)).astype(np.uint8)
    assert len(detector(make_bundle(tmp_path, network=doubles(), thresholds=stated)).detect(image)[0]) == 0


def test_the_most_detections_are_counted_after_the_scores_of_the_classes(tmp_path):
    stated = {'score': 0.5, 'iou': 0.5, 'class_scores': {'bright': 1.0}}
    bright = detector(make_bundle(tmp_path, network=doubles(), thresholds=stated))
    bright.max_detections = 1
    assert bright.detect((0.99 * image_with_cells(5)).astype(np.uint8))[0].class_ids.tolist() == [1]


@pytest.mark.parametrize(('suppression', 'class_ids'), [('per_class', [0, 1, 0]), ('all_classes', [0, 0])])
def test_networks_with_a_selection_of_their_own_report_doubles_too(tmp_path, suppression, class_ids):
    rows = [[[0, 0, 20, 20, 0.9, 0], [1, 0, 20, 20, 0.8, 1], [40, 40, 60, 60, 0.7, 0]]]
    graph = helper.make_graph(
        [helper.make_node('Constant', [], ['rows'], value=numpy_helper.from_array(np.array(rows, np.float32)))],
        'three_rows',
        [helper.make_tensor_value_info('image', TensorProto.UINT8, [1, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info('rows', TensorProto.FLOAT, [1, 3, 6])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)])
    model.ir_version = 9
    thresholds = {'score': 0.5, 'iou': 0.5, 'suppression': suppression}
    bundle = make_bundle(tmp_path, network=model, output={'layout': 'end2end'}, thresholds=thresholds)
    assert detector(bundle).detect(image_with_cells())[0].class_ids.tolist() == class_ids


def test_a_black_frame_gives_nothing(tmp_path):
    assert detector(make_bundle(tmp_path)).detect(image_with_cells())[0] == Detections.empty()


def float_input_network() -> onnx.ModelProto:
    """`bright_cells` behind a float NCHW RGB input already scaled to 0 … 1, as Ultralytics exports have it."""
    model = bright_cells()
    graph = model.graph
    graph.input[0].CopyFrom(helper.make_tensor_value_info('image', TensorProto.FLOAT, [1, 3, SIZE, SIZE]))
    order = numpy_helper.from_array(np.array([2, 1, 0]), 'to_bgr')
    graph.initializer.extend([order, numpy_helper.from_array(np.array(255, np.float32), 'full')])
    first = [
        helper.make_node('Gather', ['image', 'to_bgr'], ['bgr'], axis=1),
        helper.make_node('Mul', ['bgr', 'full'], ['nchw']),
    ]
    rest = list(graph.node)[2:]
    del graph.node[:]
    graph.node.extend(first + rest)
    onnx.checker.check_model(model)
    return model


def test_a_float_rgb_network_finds_the_same(tmp_path):
    image = image_with_cells(2)
    image[48:, 48:] = (255, 0, 0)  # blue, which only the right channel order can see
    expected, _ = detector(make_bundle(tmp_path / 'uint8')).detect(image)
    assert set(expected.class_ids.tolist()) == {0, 1}

    folder = tmp_path / 'float'
    folder.mkdir()
    onnx.save(float_input_network(), folder / 'network.onnx')
    spec = bundle_document()['input'] | {'dtype': 'float32', 'layout': 'nchw', 'color': 'rgb', 'std': [255, 255, 255]}
    document = bundle_document(input=spec, artifacts=[artifact_entry(folder, 'network.onnx')])
    found, _ = detector(write_bundle(folder, document)).detect(image)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize('color', ['bgr', 'rgb'])
@pytest.mark.parametrize('layout', ['nhwc', 'nchw'])
@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
def test_the_input_is_what_the_bundle_states(color, layout, dtype):
    image = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
    mean, std = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
    spec = InputSpec(32, 16, color, dtype, layout, mean=mean, std=std)
    buffer = InputBuffer(spec)
    buffer.fill(image)
    expected = image[..., ::-1] if color == 'rgb' else image
    if dtype == 'float32':
        expected = (expected.astype(np.float32) - mean) / std
    if layout == 'nchw':
        expected = expected.transpose(2, 0, 1)
    assert buffer.batch.dtype == dtype
    assert buffer.batch.shape == spec.shape
    np.testing.assert_allclose(buffer.batch[0], expected, rtol=1e-6)


def test_the_border_is_clean_after_the_size_changes(tmp_path):
    buffer = InputBuffer(InputSpec(64, 64, pad=7))
    wide, tall = np.full((32, 64, 3), 200, np.uint8), np.full((64, 32, 3), 100, np.uint8)
    for image in (wide, tall, wide):
        buffer.fill(image)
        assert set(np.unique(buffer.batch)) == {7, image[0, 0, 0]}
        assert (buffer.batch == 7).sum() == buffer.batch.size // 2


def test_an_engine_that_fails_on_a_frame_works_on_the_next(tmp_path):
    poisoned = detector(make_bundle(tmp_path, poison=250))
    with pytest.raises(EngineError, match='out of data bounds'):
        poisoned.detect(image_with_cells(0))
    assert len(poisoned.detect(image_with_cells(1))[0]) == 1


def tiled(bundle, text: str, **settings) -> tuple[Detector, list[str]]:
    lines: list[str] = []
    tiling = parse(text, **settings)
    assert tiling is not None
    reporting = replace(tiling, report=lines.append)
    return Detector(bundle, engines.load(bundle, bundle.artifacts[0]), tiling=reporting), lines


def test_tiles_show_what_the_whole_frame_is_too_coarse_for(tmp_path):
    """One cell's worth of white in a frame of 2 × 2 inputs: seen as a whole it is a quarter of a cell."""
    bundle = make_bundle(tmp_path)
    frame = np.zeros((128, 128, 3), np.uint8)
    frame[80:96, 32:48] = 255
    assert len(detector(bundle).detect(frame)[0]) == 0
    fine, lines = tiled(bundle, '2x2', overlap=0.0)
    found, times = fine.detect(frame)
    assert found.boxes.tolist() == [[32, 80, 48, 96]]
    assert found.scores.tolist() == pytest.approx([1.0])
    assert min(times.preprocess, times.infer, times.postprocess) > 0
    assert fine.plan is not None
    assert lines == ['tiles: 2x2 of 128x128 at scale 1.00, 4 passes']
    fine.detect(frame)
    assert len(lines) == 1, 'the plan is told once for each size'


def test_frames_of_ever_new_sizes_cost_neither_memory_nor_log(tmp_path):
    fine, lines = tiled(make_bundle(tmp_path), '2x2', overlap=0.0)
    for width in range(128, 128 + 2 * MAX_PLANS):
        fine.detect(np.zeros((128, width, 3), np.uint8))
    assert len(fine._plans) == len(lines) == MAX_PLANS


def test_a_frame_that_fits_the_network_is_seen_as_ever(tmp_path):
    bundle = make_bundle(tmp_path)
    image = image_with_cells(2, 7)
    found, _ = tiled(bundle, '3x3+whole')[0].detect(image)
    assert found == detector(bundle).detect(image)[0]


@pytest.mark.parametrize(('budget_ms', 'passes'), [(1e-3, 1), (60000.0, 5)])
def test_auto_learns_the_time_of_a_pass_when_it_is_warmed_up(tmp_path, budget_ms, passes):
    auto, lines = tiled(make_bundle(tmp_path), 'auto', overlap=0.0, budget_ms=budget_ms)
    assert auto.warm_up() > 0
    auto.detect(np.zeros((128, 128, 3), np.uint8))
    assert auto.plan is not None
    assert len(auto.plan.passes) == passes
    assert 'of the budget' in lines[0]
