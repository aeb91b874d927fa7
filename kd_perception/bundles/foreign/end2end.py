"""Finished detections: a row each of box, score and class, in whatever order, or box, score and class as outputs of their own.

| outputs | of |
|---|---|
| (1, N, 6): x1, y1, x2, y2, score, class | YOLOv10, v26, Ultralytics' `nms=True` |
| (1, N, 6): center, size, score, class, in shares | RT-DETR of Ultralytics |
| (N, 7): picture, x1, y1, x2, y2, class, score | YOLOv7's `--end2end` |
| (N, 6): class, score, x1, y1, x2, y2 | PaddleDetection |
| (1, 1, N, 7): picture, class, score, x1, y1, x2, y2, in shares | SSD of Caffe and OpenVINO; class 0 is the background |
| boxes (1, N, 4), scores (1, N), labels (1, N) | RT-DETR, D-FINE, DEIM, torchvision; with a count, NMS of many exporters |
| boxes with scores (1, N, 5), labels (1, N) | MMDeploy |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from kd_perception.bundles.foreign.family import Array, Outputs, Proposal, Seen, as_float, boxes_of
from kd_perception.bundles.foreign.values import (
    CXCYWH,
    PROBABILITIES,
    XYXY,
    BoxForm,
    are_classes,
    are_sorted,
    filled,
    kind_of_scores,
)
from kd_perception.bundles.onnx_edit import FLOAT, GraphEditor

_ORDERS: Mapping[tuple[int, ...], str] = {
    (0, 1, 2, 3, 4, 5): 'box, score, class',
    (0, 1, 2, 3, 5, 4): 'box, class, score',
    (2, 3, 4, 5, 1, 0): 'class, score, box',
    (1, 2, 3, 4, 6, 5): 'picture, box, class, score',
    (1, 2, 3, 4, 5, 6): 'picture, box, score, class',
    (3, 4, 5, 6, 2, 1): 'picture, class, score, box',
}
"""Where box, score and class stand."""
_LAYOUT = 'end2end'
_MOST_FINISHED = 1000
"""Networks that select by themselves give at most so many; a grid of candidates has thousands."""
_RTDETR = 'RTDETRDecoder'
"""Ultralytics' RT-DETR: centers and sizes as shares, of pictures that were stretched."""
_OUTPUT = {'layout': _LAYOUT, 'box_format': XYXY}

_NO_PICTURE = (
    'its first column is not the number of the picture; 7 columns may also be oriented boxes (OBB), with an angle'
)
_TENSORFLOW = 'detection_boxes'
"""TensorFlow's object detection: y1, x1, y2, x2, and classes from 1 on; no value tells it from x1, y1, x2, y2."""

Builder = Callable[[GraphEditor], str]


def propose(seen: Seen) -> Iterator[Proposal]:
    """The readings as finished detections."""
    for name in seen.outputs:
        shape = seen.shape(name)
        if len(shape) in (2, 3, 4) and shape[-1] in (6, 7) and set(shape[:-2]) <= {1} and _alone(seen, name):
            yield from _orders(seen, name, shape)
    yield from _separate(seen)


def _alone(seen: Seen, name: str) -> bool:
    """Whether what else there is can only be a count of detections."""
    return all(array.size <= 1 for other in seen.outputs if other != name for array in seen.outputs[other])


def _orders(seen: Seen, name: str, shape: tuple[int, ...]) -> Iterator[Proposal]:
    rows = seen.rows(name, (-1, shape[-1]))
    for order, words in _ORDERS.items():
        if len(order) == 6 and max(order) == shape[-1] - 1:
            table = rows[:, list(order)]
            faults = [] if shape[-1] == 6 or not rows[:, 0].any() else [_NO_PICTURE]
            yield _proposal(
                seen,
                table,
                f'finished detections {shape}: {words}',
                _columns(seen, name, shape, order),
                faults,
                plain=order == (0, 1, 2, 3, 4, 5)
                and len(shape) == 3
                and name not in seen.half
                and len(seen.outputs) == 1,
            )


def _columns(seen: Seen, name: str, shape: tuple[int, ...], order: tuple[int, ...]) -> Builder:
    def build(editor: GraphEditor) -> str:
        value = as_float(editor, seen, name)
        if order != tuple(range(shape[-1])):
            value = editor.add('Gather', [value, editor.constant(order, np.int64)], axis=len(shape) - 1)
        return value if len(shape) == 3 else editor.reshape(value, (1, -1, 6))

    return build


def _separate(seen: Seen) -> Iterator[Proposal]:
    """Outputs of their own for box, score and class; scores may be the boxes' fifth column."""
    lists = [name for name in seen.outputs if _is_list(seen.shape(name))]
    for name in seen.outputs:
        shape = seen.shape(name)
        if len(shape) not in (2, 3) or shape[-1] not in (4, 5) or (len(shape) == 3 and shape[0] != 1):
            continue
        same = [other for other in lists if _length(seen.shape(other)) == shape[-2]]
        labels = [other for other in same if _are_labels(seen, other)]
        if shape[-1] == 5 and len(labels) == 1:
            yield _from_parts(seen, name, '', labels[0])
        scores = [other for other in same if other not in labels]
        if shape[-1] == 4 and len(labels) == 1 and len(scores) == 1:
            yield _from_parts(seen, name, scores[0], labels[0])


def _is_list(shape: tuple[int, ...]) -> bool:
    """(N,), (1, N) or (1, N, 1)."""
    return len(shape) == 1 or (len(shape) == 2 and shape[0] == 1) or (len(shape) == 3 and shape[::2] == (1, 1))


def _length(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 1 else shape[1]


def _are_labels(seen: Seen, name: str) -> bool:
    """Whole numbers by their type; or by their values, where some are above 1 or the name says so."""
    if np.issubdtype(seen.outputs[name][0].dtype, np.integer):
        return True
    values = seen.rows(name, (-1,))
    whole = bool(np.all(values == np.round(values)))
    named = any(word in name.lower() for word in ('label', 'class', 'cls'))
    return whole and (named or bool((values > 1).any()))


def _from_parts(seen: Seen, boxes: str, scores: str, labels: str) -> Proposal:
    width = 4 if scores else 5
    parts = [
        seen.rows(boxes, (-1, width)),
        *([seen.rows(scores, (-1, 1))] if scores else []),
        seen.rows(labels, (-1, 1)),
    ]
    named = ', '.join(filter(None, (boxes, scores, labels)))

    def build(editor: GraphEditor) -> str:
        values = [as_float(editor, seen, boxes), *([as_float(editor, seen, scores)] if scores else [])]
        values.append(editor.add('Cast', [labels], to=FLOAT))
        widths = [width, *([1] if scores else []), 1]
        shaped = [editor.reshape(value, (1, -1, w)) for value, w in zip(values, widths, strict=True)]
        return editor.add('Concat', shaped, axis=2)

    faults = ["its boxes are TensorFlow's, y1, x1, y2, x2: convert them before"] if boxes == _TENSORFLOW else []
    return _proposal(seen, np.concatenate(parts, axis=1), f'finished detections in the outputs {named}', build, faults)


def _proposal(
    seen: Seen, table: Array, what: str, values: Builder, faults: Sequence[str], *, plain: bool = False
) -> Proposal:
    """A reading of `table` (N, 6): x1, y1, x2, y2, score, class."""
    rows = filled(table)
    rows = rows[rows[:, 4] > 0] if kind_of_scores(table[:, 4]) == PROBABILITIES else rows
    faults = [*faults, *_faults(seen, table, rows)]
    form, more_faults = boxes_of(rows[:, :4], seen, CXCYWH if seen.stated.head == _RTDETR else XYXY)
    faults += more_faults
    counts = seen.class_counts
    classes = min(
        (count for count in counts if not len(rows) or rows[:, 5].max() < count), default=max(counts, default=0)
    )
    pictures = len(next(iter(seen.outputs.values())))
    ranked = len(table) % pictures == 0 and all(are_sorted(part[:, 4]) for part in np.split(table, pictures))
    return Proposal(
        layout=_LAYOUT,
        what=what,
        classes=classes,
        output=_OUTPUT,
        faults=faults,
        found=(
            f'boxes: {form}',
            f'scores: probabilities, {"falling" if ranked else "in no order"}',
            f'classes: {_ids(rows)}',
        ),
        build=None if plain and form == BoxForm(XYXY, False, form.why) else _finish(seen, values, form),
        evidence=0 if not len(rows) else 2 if len(rows) > pictures or len(table) <= _MOST_FINISHED * pictures else 1,
        input={'resize': 'stretch'} if seen.stated.head == _RTDETR else {},
        stated=seen.stated.end2end is True or seen.stated.head == _RTDETR,
    )


def _faults(seen: Seen, table: Array, rows: Array) -> list[str]:
    found = []
    if kind_of_scores(table[:, 4]) != PROBABILITIES:
        found.append('the column of scores holds no probabilities')
    if not are_classes(rows[:, 5], seen.class_counts):
        found.append(f'the column of classes holds {_ids(rows)}, which are no class ids')
    return found


def _ids(rows: Array) -> str:
    if not len(rows):
        return 'nothing'
    ids = np.unique(rows[:, 5])
    shown = ', '.join(f'{value:g}' for value in ids[:6])
    return f'{shown}{" …" if len(ids) > 6 else ""}'


def _finish(seen: Seen, values: Builder, form: BoxForm) -> Callable[[GraphEditor], Outputs]:
    def build(editor: GraphEditor) -> Outputs:
        table = values(editor)
        if form.normalized:
            table = editor.add('Mul', [table, editor.constant([*seen.size, *seen.size, 1, 1])])
        if form.format != XYXY:
            table = _with_corners(editor, table)
        return {'detections': (table, (1, None, 6))}

    return build


def _with_corners(editor: GraphEditor, table: str) -> str:
    centers, sides, rest = editor.columns(table, 0, 2), editor.columns(table, 2, 4), editor.columns(table, 4, 6)
    halves = editor.add('Mul', [sides, editor.constant([0.5])])
    corners = [editor.add('Sub', [centers, halves]), editor.add('Add', [centers, halves])]
    return editor.add('Concat', [*corners, rest], axis=2)
