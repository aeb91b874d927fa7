"""Boxes in one output, scores of every class in another: our own layout, YOLO-NAS, DETR and its kin, PyTorch's YOLOv4."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from kd_perception.bundles.foreign.family import (
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
from kd_perception.bundles.foreign.values import XYXY, BoxForm, box_form, filled
from kd_perception.bundles.onnx_edit import GraphEditor


def propose(seen: Seen) -> Iterator[Proposal]:
    """The readings as two outputs; a third is left out, such as masks or queries."""
    for boxes in seen.outputs:
        count = _candidates(seen.shape(boxes), 4)
        for scores in seen.outputs if count else ():
            for classes in seen.class_counts:
                for more in (0, 1):
                    found = _candidates(seen.shape(scores), classes + more)
                    if scores != boxes and found == count:
                        yield _read(seen, boxes, scores, classes, more)


def _candidates(shape: tuple[int, ...], columns: int) -> int:
    """How many rows of so many columns; 0 where it is no such table. PyTorch's YOLOv4 has boxes (1, N, 1, 4)."""
    if len(shape) == 4 and shape[2] == 1:
        shape = (shape[0], shape[1], shape[3])
    return shape[1] if len(shape) == 3 and shape[0] == 1 and shape[2] == columns else 0


def _read(seen: Seen, boxes: str, scores: str, classes: int, more: int) -> Proposal:
    rows, values = seen.rows(boxes, (-1, 4)), seen.rows(scores, (-1, classes + more))
    kept = filled(rows)
    ours = {boxes, scores} == {'boxes', 'scores'}
    form = box_form(
        kept,
        seen.size,
        format=seen.options.box_format,
        normalized=seen.options.normalized,
        convention=XYXY if ours else '',
    )
    kind = scores_of(values, seen.options)
    faults = [text for text in (form if isinstance(form, str) else '', kind.fault) if text]
    if more:
        kind, more_faults = _background(values, kind)
        faults += more_faults
    if isinstance(form, str):
        form = BoxForm(XYXY, False, form)
    plain = ours and not more and not form.normalized and kind.activation == 'none'
    as_it_is = plain and len(seen.outputs) == 2 and not {boxes, scores} & seen.half and len(seen.shape(boxes)) == 3
    return Proposal(
        layout='boxes_scores',
        what=f'boxes in {boxes} {seen.shape(boxes)}, scores of {classes} classes in {scores} {seen.shape(scores)}',
        classes=classes,
        output={'layout': 'boxes_scores', 'box_format': form.format},
        faults=faults,
        found=(f'boxes: {form}', f'scores: {kind}, up to {values.max():.3f}'),
        build=None if as_it_is else _builder(seen, boxes, scores, classes, more, form, kind),
        evidence=min(len(kept), 1),
        stated=ours,
    )


def _background(values: Array, kind: Scores) -> tuple[Scores, list[str]]:
    """One class more than names: DETR's last one stands for nothing, and all of them share one softmax."""
    if kind.activation == 'none':
        whole = bool(np.allclose(values.sum(axis=1), 1, atol=0.01))
        return kind, [] if whole else ['it has a class more than there are names']
    nothing = float((values.argmax(axis=1) == values.shape[1] - 1).mean())
    faults = (
        []
        if nothing > 0.5
        else ['it has a class more than there are names, and the last one does not stand for nothing']
    )
    return Scores('softmax'), faults


def _builder(seen: Seen, boxes: str, scores: str, classes: int, more: int, form: BoxForm, kind: Scores) -> Any:
    def build(editor: GraphEditor) -> Outputs:
        count = seen.shape(boxes)[1] if seen.fixed(boxes) else None
        places, found = as_float(editor, seen, boxes), as_float(editor, seen, scores)
        if len(seen.shape(boxes)) == 4:
            places = editor.reshape(places, (1, -1, 4))
        found = activated(editor, found, kind.activation)
        if more:
            found = editor.columns(found, 0, classes)
        return boxes_scores(in_pixels(editor, places, form, seen.size), found, count, classes)

    return build
