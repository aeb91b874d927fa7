"""Network outputs → candidate detections in input pixels, for the three output layouts.

| layout | outputs | NMS |
|---|---|---|
| `boxes_scores` | `boxes` (1, N, 4) and `scores` (1, N, C) | needed |
| `yolo` | one of (1, 4 + C, N): 4 box rows, then one row a class | needed |
| `end2end` | one of (1, N, 6): x1, y1, x2, y2, score, class | done by the network |

What runs here runs once a frame, when the inference has left nothing of it in the processor's caches: then a numpy function
that is written in Python costs ten times what it costs in a loop, so there are none.

A candidate is a box whose best class reaches the threshold; it keeps that class alone. NaN is no score, and boxes
that are not finite or have no area are dropped: half precision makes such things, and nobody downstream can use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_perception.detection.detections import Detections, FloatArray
from kd_perception.errors import OutputLayoutError

LAYOUTS = ('boxes_scores', 'yolo', 'end2end')
BOX_FORMATS = ('xyxy', 'cxcywh')

_Array = npt.NDArray[Any]

_HIGHEST_SCORE = 1.001
"""Probabilities end at 1; the rest is room for quantized and half-precision outputs."""


def decode_output(
    layout: str,
    outputs: Mapping[str, _Array],
    *,
    score_threshold: float,
    max_candidates: int = 3000,
    box_format: str = 'xyxy',
    class_count: int | None = None,
) -> Detections:
    """Pick the candidates out of one image's outputs. The big tensors are read once and never copied.

    Args:
        layout: one of `LAYOUTS`.
        outputs: output name → array with a batch of one.
        score_threshold: the lowest score of a candidate, 0 … 1.
        max_candidates: at most so many are kept, the highest scores first; bounds the time of NMS.
        box_format: `xyxy` corners or `cxcywh` center and size, in input pixels; `end2end` is always `xyxy`.
        class_count: number of classes of the bundle, checked against the outputs where given.

    Returns:
        Candidates with boxes x1, y1, x2, y2 in input pixels, by descending score, equal scores in the network's order.

    Raises:
        OutputLayoutError: the outputs are not what the layout says; the message tells what was expected and what came.
    """
    if box_format not in BOX_FORMATS:
        raise OutputLayoutError(f'box format {box_format!r} is not one of {", ".join(BOX_FORMATS)}')
    if layout == 'boxes_scores':
        candidates = _boxes_scores(outputs, score_threshold, box_format, class_count)
    elif layout == 'yolo':
        candidates = _yolo(outputs, score_threshold, box_format, class_count)
    elif layout == 'end2end':
        candidates = _end2end(outputs, score_threshold, class_count)
    else:
        raise OutputLayoutError(f'output layout {layout!r} is not one of {", ".join(LAYOUTS)}')
    return _strongest(candidates, max_candidates)


def _boxes_scores(
    outputs: Mapping[str, _Array], threshold: float, box_format: str, class_count: int | None
) -> Detections:
    if not {'boxes', 'scores'} <= outputs.keys():
        raise OutputLayoutError(
            f"layout boxes_scores expects the outputs 'boxes' and 'scores'; the network gives {_shapes(outputs)}"
        )
    boxes, scores = outputs['boxes'], outputs['scores']
    fits = boxes.ndim == scores.ndim == 3 and boxes.shape[::2] == (1, 4) and scores.shape[:2] == boxes.shape[:2]
    if not fits or scores.shape[2] != (class_count or scores.shape[2]) or scores.shape[2] == 0:
        raise OutputLayoutError(
            f'layout boxes_scores expects boxes (1, N, 4) and scores (1, N, {class_count or "C"}); '
            f'the network gives {_shapes(outputs)}'
        )
    # One comparison over the flat tensor is many times quicker than a maximum over its short last axis.
    rows = (scores.reshape(-1) >= threshold).nonzero()[0] // scores.shape[2]
    is_new = np.ones(len(rows), np.bool_)  # each once; they are in order
    np.not_equal(rows[1:], rows[:-1], out=is_new[1:])
    rows = rows[is_new]
    return _candidates(boxes[0, rows], scores[0, rows], box_format)


def _yolo(outputs: Mapping[str, _Array], threshold: float, box_format: str, class_count: int | None) -> Detections:
    output = _only(outputs, 'yolo')
    channels = f'4 + {class_count}' if class_count else '4 + C'
    fits = output.ndim == 3 and output.shape[0] == 1 and output.shape[1] > 4
    if not fits or output.shape[1] != 4 + (class_count or output.shape[1] - 4):
        hint = ''
        if class_count and output.ndim == 3 and output.shape[2] == 4 + class_count:
            hint = '. Its last two axes are swapped'
        elif class_count and output.ndim == 3 and output.shape[2] == 6:
            hint = '. That looks like the end2end layout'
        raise OutputLayoutError(f'layout yolo expects (1, {channels}, N); the network gives {_shapes(outputs)}{hint}')
    columns = np.flatnonzero((output[0, 4:] >= threshold).any(axis=0))
    return _candidates(output[0, :4, columns], output[0, 4:, columns], box_format)


def _end2end(outputs: Mapping[str, _Array], threshold: float, class_count: int | None) -> Detections:
    output = _only(outputs, 'end2end')
    if output.ndim != 3 or output.shape[0] != 1 or output.shape[2] != 6:
        raise OutputLayoutError(f'layout end2end expects (1, N, 6); the network gives {_shapes(outputs)}')
    rows = output[0, output[0, :, 4] >= threshold]
    _check_probabilities(rows[:, 4])
    rows = rows[_usable(rows[:, :4])]
    class_ids = rows[:, 5]
    if len(rows) and not (np.all(class_ids >= 0) and np.all(class_ids < (class_count or np.inf))):
        raise OutputLayoutError(
            f'layout end2end expects classes 0 to {(class_count or 0) - 1} in its last column; the network gives '
            f'{class_ids.min():g} to {class_ids.max():g}'
        )
    return Detections(rows[:, :4], rows[:, 4], class_ids.astype(np.int32))


def _candidates(boxes: _Array, scores: _Array, box_format: str) -> Detections:
    """Detections of the rows that passed the threshold: boxes (n, 4), scores (n, C)."""
    _check_probabilities(scores)
    scores[scores != scores] = -1  # NaN; picking the rows has made a copy
    class_ids, best = scores.argmax(axis=1), scores.max(axis=1)
    boxes = boxes.astype(np.float32)
    if box_format == 'cxcywh':
        half = boxes[:, 2:] / 2
        boxes = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    usable = _usable(boxes)
    return Detections(boxes[usable], best[usable], class_ids[usable])


def _usable(boxes: FloatArray) -> npt.NDArray[np.bool_]:
    """Which boxes are finite and have an area: their sides are then positive, and neither NaN nor infinite."""
    with np.errstate(invalid='ignore'):
        sides = boxes[:, 2:] - boxes[:, :2]
    usable = (sides > 0) & (sides < np.inf)
    return np.logical_and(usable[:, 0], usable[:, 1])


def _strongest(candidates: Detections, limit: int) -> Detections:
    """The `limit` highest scores in descending order; a stable sort keeps equal scores in their order."""
    return candidates.select((-candidates.scores).argsort(kind='stable')[:limit])


def _check_probabilities(scores: _Array) -> None:
    if (scores > _HIGHEST_SCORE).any():
        raise OutputLayoutError(
            f'scores must be probabilities from 0 to 1; the network gives {np.nanmax(scores):g}. '
            'Export it with its sigmoid, and check that the bundle names the right output layout'
        )


def _only(outputs: Mapping[str, _Array], layout: str) -> _Array:
    if len(outputs) != 1:
        raise OutputLayoutError(f'layout {layout} expects one output; the network gives {_shapes(outputs)}')
    return next(iter(outputs.values()))


def _shapes(outputs: Mapping[str, _Array]) -> str:
    return ', '.join(f'{name} {output.shape}' for name, output in outputs.items()) or 'none'
