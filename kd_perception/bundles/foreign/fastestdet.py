"""FastestDet: one map (1, 5 + C, H / 16, W / 16) of objectness, box and classes; the picture is stretched to the input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kd_perception.bundles.foreign.family import Outputs, Proposal, Seen, as_float, boxes_scores
from kd_perception.bundles.foreign.values import PROBABILITIES, kind_of_scores
from kd_perception.bundles.onnx_edit import GraphEditor

STRIDE = 16
OBJECT_WEIGHT, CLASS_WEIGHT = 0.6, 0.4
"""Score = objectness^0.6 × class^0.4, as upstream weighs them."""


def propose(seen: Seen) -> Iterator[Proposal]:
    """The reading as one map."""
    (name, *more) = seen.outputs
    shape, size = seen.shape(name), (seen.size[1] // STRIDE, seen.size[0] // STRIDE)
    for classes in seen.class_counts:
        if not more and len(shape) == 4 and shape == (1, 5 + classes, *size):
            yield _read(seen, name, classes)


def _read(seen: Seen, name: str, classes: int) -> Proposal:
    maps = np.concatenate([np.asarray(array, np.float32).reshape(5 + classes, -1).T for array in seen.outputs[name]])
    faults = []
    if kind_of_scores(maps[:, [0, *range(5, 5 + classes)]]) != PROBABILITIES:
        faults.append('its first and its last channels are no probabilities: not FastestDet, but another raw head')
    elif not np.allclose(maps[:, 5:].sum(axis=1), 1, atol=0.02):
        faults.append('its classes do not add up to 1, as those of FastestDet do')

    def build(editor: GraphEditor) -> Outputs:
        columns, rows = seen.size[0] // STRIDE, seen.size[1] // STRIDE
        flat = editor.reshape(as_float(editor, seen, name), (1, 5 + classes, columns * rows))
        table = editor.add('Transpose', [flat], perm=[0, 2, 1])
        y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing='ij')
        cells = np.stack([x.ravel(), y.ravel()], axis=1)[None]
        offsets = editor.add('Add', [editor.add('Tanh', [editor.columns(table, 1, 3)]), editor.constant(cells)])
        centers = editor.add('Mul', [offsets, editor.constant([STRIDE])])
        sides = editor.add('Mul', [editor.add('Sigmoid', [editor.columns(table, 3, 5)]), editor.constant(seen.size)])
        certainty = editor.add('Pow', [editor.columns(table, 0, 1), editor.constant([OBJECT_WEIGHT])])
        found = editor.add('Pow', [editor.columns(table, 5, 5 + classes), editor.constant([CLASS_WEIGHT])])
        boxes = editor.add('Concat', [centers, sides], axis=2)
        return boxes_scores(boxes, editor.add('Mul', [found, certainty]), columns * rows, classes)

    return Proposal(
        layout='fastestdet',
        what=f'FastestDet, one map of {classes} classes',
        classes=classes,
        output={'layout': 'boxes_scores', 'box_format': 'cxcywh'},
        faults=faults,
        found=('boxes: offsets and sides, decoded by the grid', 'scores: probabilities, objectness^0.6 × class^0.4'),
        input={'color': 'bgr', 'resize': 'stretch'},
        evidence=2,
        build=build,
    )
