"""YOLOX without decoding: (1, N, 5 + C) of offsets in cells, logarithms of sides in cells, objectness and classes.

N is all cells of strides 8, 16, 32 (and 64), as `tools/export_onnx.py` leaves it. Trained on BGR pixels 0 … 255.
"""

from __future__ import annotations

from collections.abc import Iterator

from kd_perception.bundles.foreign.family import (
    BGR_PLAIN,
    Outputs,
    Proposal,
    Seen,
    activated,
    as_float,
    boxes_scores,
    cells_in_pixels,
    grid_cells,
    scores_of,
)
from kd_perception.bundles.foreign.values import filled, largest
from kd_perception.bundles.onnx_edit import GraphEditor

_PYRAMIDS = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
LARGEST_RAW = 16.0
"""Offsets are a few cells, logarithms of sides below 6; boxes in pixels reach over the picture."""


def pyramids(size: tuple[int, int]) -> dict[int, tuple[int, ...]]:
    """Numbers of candidates that one a cell gives → the strides."""
    return {grid_cells(size, strides): strides for strides in _PYRAMIDS}


def propose(seen: Seen) -> Iterator[Proposal]:
    """The reading as raw heads."""
    for name in seen.outputs:
        shape = seen.shape(name)
        for classes in seen.class_counts:
            if len(shape) == 3 and shape[0] == 1 and shape[2] == 5 + classes:
                strides = pyramids(seen.size).get(shape[1])
                if strides:
                    yield _read(seen, name, classes, strides)


def _read(seen: Seen, name: str, classes: int, strides: tuple[int, ...]) -> Proposal:
    rows = filled(seen.rows(name, (-1, 5 + classes)))
    scores = scores_of(rows[:, 4:], seen.options)
    faults = [scores.fault] if scores.fault else []
    reach = largest(rows[:, :4])
    if reach >= LARGEST_RAW:
        faults.append(f'its boxes are decoded already: they reach to {reach:.0f}')
    elif len(rows) and rows[:, :4].min() >= 0 and reach <= 1:
        faults.append('its boxes may as well be shares of the input')

    def build(editor: GraphEditor) -> Outputs:
        value = as_float(editor, seen, name)
        places, steps = cells_in_pixels(seen.size, strides)
        offsets = editor.add('Mul', [editor.columns(value, 0, 2), editor.constant(steps[None])])
        centers = editor.add('Add', [offsets, editor.constant(places[None])])
        sides = editor.add('Mul', [editor.add('Exp', [editor.columns(value, 2, 4)]), editor.constant(steps[None])])
        boxes = editor.add('Concat', [centers, sides], axis=2)
        certainty = activated(editor, editor.columns(value, 4, 5), scores.activation)
        found = activated(editor, editor.columns(value, 5, 5 + classes), scores.activation)
        return boxes_scores(boxes, editor.add('Mul', [found, certainty]), len(places), classes)

    forced = seen.options.layout == 'yolox'
    return Proposal(
        layout='yolox',
        what=f'YOLOX, raw heads of strides {", ".join(map(str, strides))} and {classes} classes',
        classes=classes,
        output={'layout': 'boxes_scores', 'box_format': 'cxcywh'},
        faults=[] if forced and not scores.fault else faults,
        found=(
            f'boxes: offsets and logarithms up to {reach:.1f}, decoded by the grid',
            f'scores: {scores}, times objectness',
        ),
        input=BGR_PLAIN,
        build=build,
        evidence=2 if len(rows) else 0,
    )
