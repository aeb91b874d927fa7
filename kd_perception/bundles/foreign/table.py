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
    Table,
    activated,
    as_float,
    boxes_of,
    boxes_scores,
    in_pixels,
    scores_of,
)
from kd_perception.bundles.foreign.values import CXCYWH, BoxForm, filled, is_share, largest
from kd_perception.bundles.foreign.yolox import LARGEST_RAW, pyramids
from kd_perception.bundles.onnx_edit import GraphEditor

_CERTAIN_OF_CLASS = 0.05
"""Where there is objectness, classes say what it is if it is something; without, they are near zero nearly everywhere."""


def propose(seen: Seen) -> Iterator[Proposal]:
    """The readings as one table."""
    for name in seen.outputs:
        for classes in seen.class_counts:
            for before in (4, 5):
                for table in _tables(seen, name, before + classes):
                    yield _read(seen, table, classes, objectness=before == 5)


def _tables(seen: Seen, name: str, columns: int) -> Iterator[Table]:
    shape = seen.shape(name)
    others_are_small = all(len(seen.shape(other)) > 3 for other in seen.outputs if other != name)
    if len(shape) != 3 or shape[0] != 1 or not others_are_small:
        return
    if shape[1] == columns:
        yield Table(name, columns, shape[2], True)
    if shape[2] == columns:
        yield Table(name, columns, shape[1], False)


@dataclass(frozen=True)
class _Reading:
    """A table and what its columns are."""

    seen: Seen
    table: Table
    classes: int
    objectness: bool
    form: BoxForm
    scores: Scores

    @property
    def plain(self) -> bool:
        """Whether it is the layout `yolo` as it stands."""
        needs_nothing = not self.objectness and not self.form.normalized and self.scores.activation == 'none'
        return self.table.upright and needs_nothing

    def build(self, editor: GraphEditor) -> Outputs:
        """Add what decodes it."""
        table = self.table
        count = table.count if self.seen.fixed(table.name) else None
        if self.plain:
            return {'detections': (as_float(editor, self.seen, table.name), (1, table.columns, count))}
        value = table.lay(editor, self.seen)
        boxes = in_pixels(editor, editor.columns(value, 0, 4), self.form, self.seen.size)
        names = editor.columns(value, table.columns - self.classes, table.columns)
        found = activated(editor, names, self.scores.activation)
        if self.objectness:
            certainty = activated(editor, editor.columns(value, 4, 5), self.scores.activation)
            found = editor.add('Mul', [found, certainty])
        return boxes_scores(boxes, found, count, self.classes)


def _read(seen: Seen, table: Table, classes: int, *, objectness: bool) -> Proposal:
    rows = filled(table.rows(seen))
    by_ultralytics = seen.stated.exporter == 'Ultralytics'
    form, faults = boxes_of(rows[:, :4], seen, CXCYWH if by_ultralytics else '')
    scores = scores_of(rows[:, 4:], seen.options)
    faults += [scores.fault] if scores.fault else []
    if (objectness or not table.upright) and any(_are_ids(column) for column in rows[:, 4:].T):
        faults.append('a column of its scores holds whole numbers only, as class ids do')
    if objectness and len(rows):
        faults += _faults_of_objectness(seen, table, rows, bool(scores.fault))
    reading = _Reading(seen, table, classes, objectness, form, scores)
    untouched = reading.plain and len(seen.outputs) == 1 and table.name not in seen.half
    best = f', up to {rows[:, 4:].max():.3f}' if len(rows) else ''
    return Proposal(
        layout='objectness' if objectness else 'yolo',
        what=f'a table {table.order} of box{", objectness" if objectness else ""} and {classes} classes',
        classes=classes,
        output={'layout': 'yolo' if reading.plain else 'boxes_scores', 'box_format': form.format},
        faults=faults,
        found=(f'boxes: {form}', f'scores: {scores}{best}'),
        input=_usual_input(seen, table, rows) if objectness else {},
        build=None if untouched else reading.build,
        evidence=0 if not len(rows) else 2 if table.count in _grids(seen) else 1,
        stated=by_ultralytics and not objectness and not seen.stated.end2end,
    )


def _are_ids(column: Array) -> bool:
    """Zeros and ones, both of them: probabilities are something between nearly everywhere."""
    return bool(np.all(column == np.round(column))) and bool(np.ptp(column) if len(column) else 0)


def _faults_of_objectness(seen: Seen, table: Table, rows: Array, no_scores: bool) -> Iterator[str]:
    if _may_be_raw(seen, table, rows):
        yield f'its boxes are not decoded: all of them lie in the first {LARGEST_RAW:g} pixels'
    if not rows[:, 5:].any():
        yield 'all of its class scores are 0'
    if table.upright and no_scores:
        yield 'the last row may be the angle of oriented boxes (OBB), which are not decoded here'
    elif table.upright and np.median(rows[:, 5:].max(axis=1)) < _CERTAIN_OF_CLASS:
        yield 'its classes are as rarely certain as its objectness: it may be another class without a name'


def _may_be_raw(seen: Seen, table: Table, rows: Array) -> bool:
    """Whether they are rather offsets in cells, as YOLOX leaves them, than boxes in pixels or shares."""
    reach = largest(rows[:, :4])
    if seen.options.normalized or reach >= LARGEST_RAW:
        return False
    return not is_share(reach) or table.count in pyramids(seen.size)


def _usual_input(seen: Seen, table: Table, rows: Array) -> Mapping[str, Any]:
    """YOLOX has one candidate a cell, YOLOv5 and v7 have three, YOLOv6 one whose objectness is 1."""
    constant = len(rows) > 0 and bool((rows[:, 4] == 1).all())
    return BGR_PLAIN if table.count in pyramids(seen.size) and not constant else {}


def _grids(seen: Seen) -> set[int]:
    """How many candidates grids of one or three a cell have."""
    return {anchors * cells for cells in pyramids(seen.size) for anchors in (1, 3)}
