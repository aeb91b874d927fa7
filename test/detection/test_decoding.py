"""The three output layouts give the same candidates, and whatever does not fit a layout is told in shapes."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kd_perception.detection.decoding import decode_output
from kd_perception.detection.detections import Detections
from kd_perception.errors import OutputLayoutError

BOXES = np.array([[10, 20, 30, 60], [0, 0, 8, 8], [100, 100, 140, 120], [5, 5, 6, 6]], np.float32)
SCORES = np.array([[0.1, 0.8, 0.2], [0.2, 0.1, 0.05], [0.3, 0.0, 0.9], [0.0, 0.0, 0.3]], np.float32)
# Above 0.25, by score: the third as class 2, the first as class 1, the fourth as class 2.
EXPECTED = Detections(BOXES[[2, 0, 3]], [0.9, 0.8, 0.3], [2, 1, 2])


def as_centers(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], axis=-1)


def boxes_scores(boxes: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    return {'boxes': boxes[None], 'scores': scores[None]}


def yolo(boxes: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    return {'output0': np.concatenate([boxes, scores], axis=1).T[None]}


def end2end(boxes: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    return {'output0': np.column_stack([boxes, scores.max(axis=1), scores.argmax(axis=1)])[None]}


@pytest.mark.parametrize(
    ('layout', 'box_format', 'outputs'),
    [
        ('boxes_scores', 'xyxy', boxes_scores(BOXES, SCORES)),
        ('boxes_scores', 'cxcywh', boxes_scores(as_centers(BOXES), SCORES)),
        ('yolo', 'cxcywh', yolo(as_centers(BOXES), SCORES)),
        ('yolo', 'xyxy', yolo(BOXES, SCORES)),
        ('end2end', 'xyxy', end2end(BOXES, SCORES)),
    ],
)
def test_layouts_agree(layout: str, box_format: str, outputs: dict[str, np.ndarray]) -> None:
    found = decode_output(layout, outputs, score_threshold=0.25, box_format=box_format, class_count=3)
    assert found == EXPECTED


@pytest.mark.parametrize(('layout', 'pack'), [('boxes_scores', boxes_scores), ('yolo', yolo), ('end2end', end2end)])
def test_nothing_above_the_threshold_is_no_detections(layout: str, pack) -> None:
    assert decode_output(layout, pack(BOXES, SCORES), score_threshold=0.95) == Detections.empty()


@pytest.mark.parametrize(('layout', 'pack'), [('boxes_scores', boxes_scores), ('yolo', yolo), ('end2end', end2end)])
def test_the_highest_scores_stay_when_there_are_too_many(layout: str, pack) -> None:
    found = decode_output(layout, pack(BOXES, SCORES), score_threshold=0.0, max_candidates=2)
    assert found == EXPECTED.select(slice(0, 2))


def test_equal_scores_keep_the_order_of_the_network() -> None:
    boxes = np.arange(40, dtype=np.float32).reshape(10, 4)
    found = decode_output(
        'boxes_scores', boxes_scores(boxes, np.full((10, 1), 0.5)), score_threshold=0.1, max_candidates=4
    )
    assert np.array_equal(found.boxes, boxes[:4])


@pytest.mark.parametrize(('layout', 'pack'), [('boxes_scores', boxes_scores), ('yolo', yolo), ('end2end', end2end)])
def test_boxes_that_nobody_can_use_are_dropped(layout: str, pack) -> None:
    boxes = BOXES.copy()
    boxes[0, 2] = np.nan
    boxes[1] = [0, 0, np.inf, 8]
    boxes[2] = [140, 100, 100, 120]
    found = decode_output(layout, pack(boxes, np.full((4, 1), 0.5, np.float32)), score_threshold=0.25)
    assert np.array_equal(found.boxes, BOXES[3:])


@pytest.mark.parametrize(('layout', 'pack'), [('boxes_scores', boxes_scores), ('yolo', yolo)])
def test_nan_is_no_score(layout: str, pack) -> None:
    scores = SCORES.copy()
    scores[0] = [np.nan, 0.8, np.nan]
    scores[1] = np.nan
    assert decode_output(layout, pack(BOXES, scores), score_threshold=0.25) == EXPECTED


def test_an_end2end_score_of_nan_is_dropped() -> None:
    output = end2end(BOXES, SCORES)['output0']
    output[0, 2, 4] = np.nan
    found = decode_output('end2end', {'output0': output}, score_threshold=0.25)
    assert found == EXPECTED.select(slice(1, None))


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ('layout', 'outputs', 'message'),
    [
        ('boxes_scores', {}, 'gives none'),
        (
            'boxes_scores',
            {'output0': zeros(1, 9, 4)},
            "the outputs 'boxes' and 'scores'; the network gives output0 (1, 9, 4)",
        ),
        ('boxes_scores', {'boxes': zeros(1, 9, 5), 'scores': zeros(1, 9, 3)}, 'boxes (1, 9, 5), scores (1, 9, 3)'),
        ('boxes_scores', {'boxes': zeros(1, 9, 4), 'scores': zeros(1, 8, 3)}, 'scores (1, 8, 3)'),
        ('boxes_scores', {'boxes': zeros(2, 9, 4), 'scores': zeros(2, 9, 3)}, 'boxes (2, 9, 4)'),
        ('boxes_scores', {'boxes': zeros(9, 4), 'scores': zeros(9, 3)}, 'boxes (9, 4)'),
        ('boxes_scores', {'boxes': zeros(1, 9, 4), 'scores': zeros(1, 9, 80)}, 'scores (1, N, 3)'),
        (
            'yolo',
            {'a': zeros(1, 7, 9), 'b': zeros(1, 32, 9)},
            'expects one output; the network gives a (1, 7, 9), b (1, 32, 9)',
        ),
        ('yolo', {'output0': zeros(1, 84, 9)}, 'expects (1, 4 + 3, N); the network gives output0 (1, 84, 9)'),
        ('yolo', {'output0': zeros(1, 9, 7)}, 'axes are swapped'),
        ('yolo', {'output0': zeros(1, 300, 6)}, 'looks like the end2end layout'),
        ('yolo', {'output0': zeros(7, 9)}, 'output0 (7, 9)'),
        ('end2end', {'output0': zeros(1, 7, 9)}, 'expects (1, N, 6); the network gives output0 (1, 7, 9)'),
        (
            'end2end',
            {'output0': np.array([[[0, 0, 9, 9, 0.9, 3]]])},
            'classes 0 to 2 in its last column; the network gives 3 to 3',
        ),
        ('end2end', {'output0': np.array([[[0, 0, 9, 9, 0.9, -1]]])}, 'gives -1 to -1'),
        ('end2end', {'output0': np.array([[[0, 0, 9, 9, 0.9, np.nan]]])}, 'gives nan'),
        (
            'end2end',
            {'output0': np.array([[[0, 0, 9, 9, 12.0, 1]]])},
            'probabilities from 0 to 1; the network gives 12',
        ),
        ('boxes_scores', {'boxes': zeros(1, 1, 4), 'scores': zeros(1, 1, 3) + 5}, 'with its sigmoid'),
        ('yolo', {'output0': zeros(1, 7, 1) + 5}, 'with its sigmoid'),
        ('ssd', {'output0': zeros(1, 7, 1)}, 'boxes_scores, yolo, end2end'),
    ],
)
def test_outputs_that_do_not_fit_the_layout_are_told_in_shapes(layout: str, outputs, message: str) -> None:
    with pytest.raises(OutputLayoutError, match=re.escape(message)):
        decode_output(layout, outputs, score_threshold=0.25, class_count=3)


def test_an_unknown_box_format_is_refused() -> None:
    with pytest.raises(OutputLayoutError, match='xyxy, cxcywh'):
        decode_output('yolo', {'output0': zeros(1, 7, 1)}, score_threshold=0.25, box_format='xywh')


@given(
    scores=hnp.arrays(np.float32, st.tuples(st.integers(0, 30), st.integers(1, 4)), elements=st.floats(0, 1, width=32)),
    threshold=st.floats(0, 1, width=32),
)
def test_a_candidate_is_a_row_whose_best_class_reaches_the_threshold(scores: np.ndarray, threshold: float) -> None:
    boxes = (
        np.tile(np.array([0, 0, 1, 1], np.float32), (len(scores), 1))
        + np.arange(len(scores), dtype=np.float32)[:, None]
    )
    found = decode_output('boxes_scores', boxes_scores(boxes, scores), score_threshold=threshold)
    rows = [i for i in range(len(scores)) if scores[i].max() >= threshold]
    rows.sort(key=lambda i: -scores[i].max())
    assert found.boxes[:, 0].tolist() == rows
    assert found.scores.tolist() == [scores[i].max() for i in rows]
    assert found.class_ids.tolist() == [scores[i].argmax() for i in rows]
    assert found == decode_output('yolo', yolo(boxes, scores), score_threshold=threshold, box_format='xyxy')
