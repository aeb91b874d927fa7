"""NanoDet: sides as distributions over 0 … reg_max (generalized focal loss), six outputs (NanoDet) or one table (NanoDet-Plus).

Trained on BGR with ImageNet's mean and deviation. NanoDet's cells have their center in the middle, NanoDet-Plus' in the corner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kd_perception.bundles.foreign.family import (
    Array,
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
from kd_perception.bundles.onnx_edit import GraphEditor

INPUT = {
    'color': 'bgr',
    'mean': (103.53, 116.28, 123.675),
    'std': (57.375, 57.12, 58.395),
    'pad': 0,
}
_PYRAMIDS = ((8, 16, 32), (8, 16, 32, 64))
_MOST_BINS = 33


@dataclass(frozen=True)
class _Heads:
    """Outputs by level, the finest first: each (1, cells, columns)."""

    strides: tuple[int, ...]
    scores: tuple[str, ...]
    sides: tuple[str, ...]
    bins: int


def propose(seen: Seen) -> Iterator[Proposal]:
    """The readings as distributions."""
    for classes in seen.class_counts:
        for strides in _PYRAMIDS:
            yield from _separate(seen, classes, strides)
            yield from _table(seen, classes, strides)


def _separate(seen: Seen, classes: int, strides: tuple[int, ...]) -> Iterator[Proposal]:
    if len(seen.outputs) != 2 * len(strides):
        return
    scores, sides = [], []
    columns = 0
    for stride in strides:
        cells = grid_cells(seen.size, (stride,))
        level = [name for name in seen.outputs if seen.shape(name)[:2] == (1, cells) and len(seen.shape(name)) == 3]
        mine = [name for name in level if seen.shape(name)[2] == classes]
        others = [name for name in level if name not in mine[:1]]
        if len(level) != 2 or not mine or (columns and seen.shape(others[0])[2] != columns):
            return
        columns = seen.shape(others[0])[2]
        scores.append(mine[0])
        sides.append(others[0])
    if columns % 4 == 0 and 2 <= columns // 4 <= _MOST_BINS:
        yield _proposal(seen, _Heads(strides, tuple(scores), tuple(sides), columns // 4), classes, 'NanoDet', 0.5)


def _table(seen: Seen, classes: int, strides: tuple[int, ...]) -> Iterator[Proposal]:
    for name in seen.outputs if len(seen.outputs) == 1 else ():
        shape = seen.shape(name)
        bins, rest = divmod(shape[-1] - classes, 4)
        if (
            len(shape) == 3
            and shape[:2] == (1, grid_cells(seen.size, strides))
            and not rest
            and 4 <= bins <= _MOST_BINS
        ):
            yield _proposal(seen, _Heads(strides, (name,), (), bins), classes, 'NanoDet-Plus', 0.0)


def _proposal(seen: Seen, heads: _Heads, classes: int, what: str, middle: float) -> Proposal:
    values = np.concatenate([seen.rows(name, (-1, seen.shape(name)[2]))[:, :classes] for name in heads.scores])
    scores = scores_of(values, seen.options)

    def build(editor: GraphEditor) -> Outputs:
        if heads.sides:
            found = _joined(editor, seen, heads.scores)
            sides = _joined(editor, seen, heads.sides)
        else:
            value = as_float(editor, seen, heads.scores[0])
            found = editor.columns(value, 0, classes)
            sides = editor.columns(value, classes, classes + 4 * heads.bins)
        centers, steps = cells_in_pixels(seen.size, heads.strides, middle)
        boxes = _corners(editor, sides, heads.bins, centers, steps)
        return boxes_scores(boxes, activated(editor, found, scores.activation), len(centers), classes)

    return Proposal(
        layout='nanodet',
        what=f'{what}, strides {", ".join(map(str, heads.strides))}, sides in {heads.bins} steps, {classes} classes',
        classes=classes,
        output={'layout': 'boxes_scores', 'box_format': 'xyxy'},
        faults=[scores.fault] if scores.fault else [],
        found=('boxes: distances from the cells, decoded by softmax', f'scores: {scores}, up to {values.max():.3f}'),
        input=INPUT,
        evidence=2,
        build=build,
    )


def _joined(editor: GraphEditor, seen: Seen, names: Sequence[str]) -> str:
    return editor.add('Concat', [as_float(editor, seen, name) for name in names], axis=1)


def _corners(editor: GraphEditor, sides: str, bins: int, centers: Array, steps: Array) -> str:
    """(1, N, 4 · bins) → corners: the mean of each distribution is a distance in cells to the left, top, right or bottom."""
    shares = editor.add('Softmax', [editor.reshape(sides, (-1, bins))], axis=1)
    means = editor.reshape(editor.add('MatMul', [shares, editor.constant(np.arange(bins)[:, None])]), (1, -1, 4))
    reach = editor.add('Mul', [means, editor.constant((steps * np.array([-1, -1, 1, 1], np.float32))[None])])
    return editor.add('Add', [reach, editor.constant(np.tile(centers, 2)[None])])
