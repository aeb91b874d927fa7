"""Boxes in one output, scores of every class in another: our own layout, YOLO-NAS, DETR and its kin, PyTorch's YOLOv4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kd_perception.bundles.foreign.family import (
    Array,
    Outputs,
    Proposal,
    Scores,
    Seen,
    Table,
    activated,
    boxes_of,
    boxes_scores,
    in_pixels,
    scores_of,
)
from kd_perception.bundles.foreign.values import XYXY, BoxForm, filled
from kd_perception.bundles.onnx_edit import GraphEditor


@dataclass(frozen=True)
class _Reading:
    """Boxes and scores; `more` is 1 where there is a class that stands for nothing."""

    seen: Seen
    boxes: Table
    scores: Table
    classes: int
    more: int
    form: BoxForm
    kind: Scores

    @property
    def untouched(self) -> bool:
        """Whether it is the layout `boxes_scores` as it stands."""
        names = {self.boxes.name, self.scores.name}
        ours = names == {'boxes', 'scores'} == set(self.seen.outputs) and not names & self.seen.half
        shaped = all(len(self.seen.shape(part.name)) == 3 and not part.upright for part in (self.boxes, self.scores))
        return ours and shaped and not self.more and not self.form.normalized and self.kind.activation == 'none'

    def build(self, editor: GraphEditor) -> Outputs:
        """Add what decodes it."""
        count = self.boxes.count if self.seen.fixed(self.boxes.name) else None
        boxes = in_pixels(editor, self.boxes.lay(editor, self.seen), self.form, self.seen.size)
        found = activated(editor, self.scores.lay(editor, self.seen), self.kind.activation)
        if self.more:
            found = editor.columns(found, 0, self.classes)
        return boxes_scores(boxes, found, count, self.classes)


def propose(seen: Seen) -> Iterator[Proposal]:
    """The readings as two outputs; a third is left out, such as masks or queries."""
    for boxes in (part for name in seen.outputs for part in _parts(seen, name, 4)):
        for classes in seen.class_counts:
            for more in (0, 1):
                for scores in (part for name in seen.outputs for part in _parts(seen, name, classes + more)):
                    if scores.name != boxes.name and scores.count == boxes.count:
                        yield _read(seen, boxes, scores, classes, more)


def _parts(seen: Seen, name: str, columns: int) -> Iterator[Table]:
    """An output as a table of so many columns; PyTorch's YOLOv4 has boxes (1, N, 1, 4), one class may have (1, N)."""
    shape = seen.shape(name)
    if len(shape) == 4 and shape[2] == 1:
        shape = (shape[0], shape[1], shape[3])
    if len(shape) == 2 and columns == 1:
        shape = (*shape, 1)
    if len(shape) == 3 and shape[0] == 1 and shape[2] == columns:
        yield Table(name, columns, shape[1], False)
    elif len(seen.shape(name)) == 3 and shape[0] == 1 and shape[1] == columns:
        yield Table(name, columns, shape[2], True)


def _read(seen: Seen, boxes: Table, scores: Table, classes: int, more: int) -> Proposal:
    kept, values = filled(boxes.rows(seen)), scores.rows(seen)
    ours = {boxes.name, scores.name} == {'boxes', 'scores'}
    form, faults = boxes_of(kept, seen, XYXY if ours else '')
    kind = scores_of(values, seen.options)
    faults += [kind.fault] if kind.fault else []
    if more:
        kind, fault = _background(values, kind)
        faults += [fault] if fault else []
    reading = _Reading(seen, boxes, scores, classes, more, form, kind)
    shapes = seen.shape(boxes.name), seen.shape(scores.name)
    return Proposal(
        layout='boxes_scores',
        what=f'boxes in {boxes.name} {shapes[0]}, scores of {classes} classes in {scores.name} {shapes[1]}',
        classes=classes,
        output={'layout': 'boxes_scores', 'box_format': form.format},
        faults=faults,
        found=(f'boxes: {form}', f'scores: {kind}, up to {values.max():.3f}'),
        build=None if reading.untouched else reading.build,
        evidence=min(len(kept), 1),
        stated=ours,
    )


def _background(values: Array, kind: Scores) -> tuple[Scores, str]:
    """One class more than names: DETR's last one stands for nothing, and all of them share one softmax."""
    if kind.activation == 'none':
        whole = bool(np.allclose(values.sum(axis=1), 1, atol=0.01))
        return kind, '' if whole else 'it has a class more than there are names'
    nothing = float((values.argmax(axis=1) == values.shape[1] - 1).mean())
    fault = 'it has a class more than there are names, and the last one does not stand for nothing'
    return Scores('softmax'), '' if nothing > 0.5 else fault
