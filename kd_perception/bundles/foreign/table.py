"""One table of candidates, a row of it or a column each: YOLOv8 and its kin, YOLOv5 to v7 with objectness, RT-DETR's export.

| columns | of |
|---|---|
| box, C classes | YOLOv5u, v8, v9, v11, v12, v26 without its end; RT-DETR as Ultralytics exports it, in shares |
| box, objectness, C classes | YOLOv5, v6, v7, YOLOX with decoding in the graph |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd_perception.bundles.foreign.family import (
    BGR_PLAIN,
    Array,
    Outputs,
    Proposal,
    Scores,
    Seen,
    activated,
    as_float,
    boxes_scores,
    in_pixels,
    scores_of,
)
from kd_perception.bundles.foreign.values import CXCYWH, BoxForm, box_form, filled, is_share, largest
from kd_perception.bundles.foreign.yolox import LARGEST_RAW, pyramids
from kd_perception.bundles.onnx_edit import GraphEditor

_CERTAIN_OF_CLASS = 0.05
"""Where there is objectness, classes say what it is if it is something; without, they are near zero nearly everywhere."""


@dataclass(frozen=True)
class _Table:
    """An output of which one axis is candidates and the other what is said of each."""

    name: str
    columns: int
    upright: bool  # (1, columns, N), as YOLOv8 has it
    rows: Array

    @property
    def order(self) -> str:
        return f'(1, {self.columns}, N)' if self.upright else f'(1, N, {self.columns})'


def propose(seen: Seen) -> Iterator[Proposal]:
    """The readings as one table."""
    for name in seen.outputs:
        for classes in seen.class_counts:
            for before in (4, 5):
                for table in _tables(seen, name, before + classes):
                    yield _read(seen, table, classes, objectness=before == 5)


def _tables(seen: Seen, name: str, columns: int) -> Iterator[_Table]:
    shape = seen.shape(name)
    others_are_small = all(len(seen.shape(other)) > 3 for other in seen.outputs if other != name)
    if len(shape) != 3 or shape[0] != 1 or not others_are_small:
        return
    if shape[1] == columns:
        arrays = [np.asarray(array, np.float32)[0].T for array in seen.outputs[name]]
        yield _Table(name, columns, True, np.concatenate(arrays))
    if shape[2] == columns:
        yield _Table(name, columns, False, seen.rows(name, (-1, columns)))


def _read(seen: Seen, table: _Table, classes: int, *, objectness: bool) -> Proposal:
    rows = filled(table.rows)
    by_ultralytics = seen.stated.exporter == 'Ultralytics' and not objectness
    form = box_form(
        rows[:, :4],
        seen.size,
        format=seen.options.box_format,
        normalized=seen.options.normalized,
        convention=CXCYWH,
    )
    scores = scores_of(rows[:, 4:], seen.options)
    faults = [text for text in (form if isinstance(form, str) else '', scores.fault) if text]
    if objectness and not faults and len(rows) and _may_be_raw(seen, table, rows):
        faults.append(f'its boxes are not decoded: all of them lie in the first {LARGEST_RAW:g} pixels')
    if objectness and len(rows) and not rows[:, 5:].any():
        faults.append('all of its class scores are 0')
    if objectness and table.upright and len(rows) and np.median(rows[:, 5:].max(axis=1)) < _CERTAIN_OF_CLASS:
        faults.append('its classes are as rarely certain as its objectness: it may be another class without a name')
    if isinstance(form, str):
        form = BoxForm(CXCYWH, False, form)
    best = f', up to {rows[:, 4:].max():.3f}' if len(rows) else ''
    return Proposal(
        layout='objectness' if objectness else 'yolo',
        what=f'a table {table.order} of box{", objectness" if objectness else ""} and {classes} classes',
        classes=classes,
        output=_output(table, form, objectness, scores),
        faults=faults,
        found=(f'boxes: {form}', f'scores: {scores}{best}'),
        input=_usual_input(seen, table, rows) if objectness else {},
        build=None
        if _fits(seen, table, form, objectness, scores)
        else _builder(seen, table, classes, form, scores, objectness),
        evidence=0 if not len(rows) else 2 if _cells(seen, table) in _grids(seen) else 1,
        stated=by_ultralytics and not seen.stated.end2end,
    )


def _may_be_raw(seen: Seen, table: _Table, rows: Array) -> bool:
    """Whether they are rather offsets in cells, as YOLOX leaves them, than boxes in pixels or shares."""
    reach = largest(rows[:, :4])
    if seen.options.normalized or reach >= LARGEST_RAW:
        return False
    return not is_share(reach) or _cells(seen, table) in pyramids(seen.size)


def _fits(seen: Seen, table: _Table, form: BoxForm, objectness: bool, scores: Scores) -> bool:
    """Whether it is the layout `yolo` as it stands."""
    alone = len(seen.outputs) == 1 and table.name not in seen.half
    return alone and table.upright and not objectness and not form.normalized and scores.activation == 'none'


def _output(table: _Table, form: BoxForm, objectness: bool, scores: Scores) -> Mapping[str, Any]:
    plain = table.upright and not objectness and not form.normalized and scores.activation == 'none'
    return {'layout': 'yolo' if plain else 'boxes_scores', 'box_format': form.format}


def _builder(seen: Seen, table: _Table, classes: int, form: BoxForm, scores: Scores, objectness: bool) -> Any:
    def build(editor: GraphEditor) -> Outputs:
        value = as_float(editor, seen, table.name)
        count = seen.shape(table.name)[2 if table.upright else 1] if seen.fixed(table.name) else None
        if _output(table, form, objectness, scores)['layout'] == 'yolo':
            return {'detections': (value, (1, table.columns, count))}
        if table.upright:
            value = editor.add('Transpose', [value], perm=[0, 2, 1])
        boxes = in_pixels(editor, editor.columns(value, 0, 4), form, seen.size)
        found = activated(editor, editor.columns(value, table.columns - classes, table.columns), scores.activation)
        if objectness:
            certainty = activated(editor, editor.columns(value, 4, 5), scores.activation)
            found = editor.add('Mul', [found, certainty])
        return boxes_scores(boxes, found, count, classes)

    return build


def _usual_input(seen: Seen, table: _Table, rows: Array) -> Mapping[str, Any]:
    """YOLOX has one candidate a cell, YOLOv5 and v7 have three, YOLOv6 one whose objectness is 1."""
    constant = len(rows) > 0 and bool((rows[:, 4] == 1).all())
    return BGR_PLAIN if _cells(seen, table) in pyramids(seen.size) and not constant else {}


def _cells(seen: Seen, table: _Table) -> int:
    """Candidates in one picture."""
    return len(table.rows) // len(seen.outputs[table.name])


def _grids(seen: Seen) -> set[int]:
    """How many candidates grids of one or three a cell have."""
    return {anchors * cells for cells in pyramids(seen.size) for anchors in (1, 3)}
