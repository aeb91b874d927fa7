"""What every family is given, and what it proposes: a reading of the outputs, its faults, and how they are decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_perception.bundles.foreign.metadata import Stated
from kd_perception.bundles.foreign.options import ImportOptions
from kd_perception.bundles.foreign.values import LOGITS, NEITHER, XYXY, BoxForm, box_form, kind_of_scores
from kd_perception.bundles.onnx_edit import FLOAT, GraphEditor

Array = npt.NDArray[Any]
Outputs = Mapping[str, tuple[str, Sequence[int | None]]]
"""Name of each output → the tensor that it gives, and its shape; see `GraphEditor.finish`."""

BGR_PLAIN: Mapping[str, Any] = {'color': 'bgr', 'std': (1.0, 1.0, 1.0)}
"""Pixels as they are, 0 … 255."""


@dataclass(frozen=True)
class Seen:
    """What a network gave on the pictures, and what is known of it.

    Attributes:
        outputs: name → one array a picture, as the network gives them.
        half: names of those that the graph gives in half precision.
        size: width and height of the input.
        stated: what the file's metadata says.
        options: what the user says.
    """

    outputs: Mapping[str, Sequence[Array]]
    size: tuple[int, int]
    stated: Stated = field(default_factory=Stated)
    options: ImportOptions = field(default_factory=ImportOptions)
    half: frozenset[str] = frozenset()

    @property
    def class_counts(self) -> tuple[int, ...]:
        """How many classes there may be; empty where nobody says."""
        given = len(self.options.classes)
        return (given,) if given else self.stated.class_counts

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an output on the first picture."""
        return tuple(self.outputs[name][0].shape)

    def fixed(self, name: str) -> bool:
        """Whether an output has one shape on all pictures."""
        return len({array.shape for array in self.outputs[name]}) == 1

    def rows(self, name: str, shape: tuple[int, ...]) -> Array:
        """An output of all pictures as rows; `shape` is that of one picture, such as (-1, 4)."""
        return np.concatenate([np.asarray(array, np.float32).reshape(shape) for array in self.outputs[name]])

    def described(self) -> str:
        """The outputs in words."""
        return ', '.join(f'{name} {self.shape(name)}' for name in self.outputs)


@dataclass(frozen=True)
class Proposal:
    """One reading of the outputs.

    Attributes:
        layout: how `--layout` calls it.
        what: the family or form, for people.
        classes: number of classes.
        faults: what in the values contradicts it; empty where they agree.
        found: what the values show, one line each.
        input: entries of the bundle's input section that this family is usually trained with.
        output: the bundle's output section.
        build: adds what decodes the outputs; None leaves the file as it is.
        evidence: how much the values speak for it: 0 where the network gave nothing but padding, 1 where they fit, 2 where they
            would hardly fit by chance.
        stated: the file's metadata says that it is this.
    """

    layout: str
    what: str
    classes: int
    output: Mapping[str, Any]
    faults: Sequence[str] = ()
    found: Sequence[str] = ()
    input: Mapping[str, Any] = field(default_factory=dict)
    build: Callable[[GraphEditor], Outputs] | None = None
    evidence: int = 1
    stated: bool = False


@dataclass(frozen=True)
class Scores:
    """How a tensor becomes probabilities: `none`, `sigmoid` or `softmax`, and what is wrong with its values."""

    activation: str
    fault: str = ''

    def __str__(self) -> str:
        return {
            'none': 'probabilities',
            'sigmoid': 'logits, through a sigmoid',
            'softmax': 'logits, through a softmax',
        }[self.activation]


def boxes_of(rows: Array, seen: Seen, convention: str) -> tuple[BoxForm, list[str]]:
    """How boxes (N, 4) are written, by what the user says, by their values, or as is usual; and what is wrong with them."""
    options = seen.options
    form = box_form(rows, seen.size, format=options.box_format, normalized=options.normalized, convention=convention)
    if isinstance(form, str):
        return BoxForm(convention or XYXY, False, form), [f'its boxes are {form}']
    return form, []


def scores_of(values: Array, options: ImportOptions) -> Scores:
    """What the scores are, by what the user says or by their values."""
    if options.activation:
        return Scores(options.activation)
    kind = kind_of_scores(values)
    if kind == NEITHER:
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        return Scores(
            'none',
            f'its scores run from {low:.3g} to {high:.3g}: no probabilities. If they are logits, pass --activation sigmoid',
        )
    return Scores('sigmoid' if kind == LOGITS else 'none')


def grid_cells(size: tuple[int, int], strides: Sequence[int]) -> int:
    """Cells of a pyramid's levels, each as many as cover the input."""
    return sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in strides)


def grid(size: tuple[int, int], strides: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Level by level its stride, and column and row (cells, 2) of each cell, row by row."""
    for stride in strides:
        columns, rows = -(-size[0] // stride), -(-size[1] // stride)
        y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing='ij')
        yield stride, np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def cells_in_pixels(size: tuple[int, int], strides: Sequence[int], middle: float = 0.0) -> tuple[Array, Array]:
    """Places (N, 2) and strides (N, 1) of all cells in pixels; `middle` 0.5 places a cell at its center, 0 at its corner."""
    cells = list(grid(size, strides))
    places = np.concatenate([stride * (place + middle) for stride, place in cells])
    return places, np.concatenate([np.full((len(place), 1), stride, np.float32) for stride, place in cells])


def as_float(editor: GraphEditor, seen: Seen, name: str) -> str:
    """An output in float32."""
    return editor.add('Cast', [name], to=FLOAT) if name in seen.half else name


def activated(editor: GraphEditor, scores: str, activation: str) -> str:
    """Probabilities of scores (1, N, C)."""
    if activation == 'sigmoid':
        return editor.add('Sigmoid', [scores])
    return editor.add('Softmax', [scores], axis=2) if activation == 'softmax' else scores


def in_pixels(editor: GraphEditor, boxes: str, form: BoxForm, size: tuple[int, int]) -> str:
    """Boxes (1, N, 4) in pixels of the input."""
    return editor.add('Mul', [boxes, editor.constant([*size, *size])]) if form.normalized else boxes


def boxes_scores(boxes: str, scores: str, rows: int | None, classes: int) -> Outputs:
    """The outputs of the layout `boxes_scores`."""
    return {'boxes': (boxes, (1, rows, 4)), 'scores': (scores, (1, rows, classes))}


@dataclass(frozen=True)
class Table:
    """An output as a table of candidates.

    Attributes:
        name: of the output.
        columns: of the table.
        count: of candidates.
        upright: (1, columns, N), as YOLOv8 has it, not (1, N, columns).
    """

    name: str
    columns: int
    count: int
    upright: bool

    @property
    def order(self) -> str:
        """Its shape in words."""
        return f'(1, {self.columns}, N)' if self.upright else f'(1, N, {self.columns})'

    def rows(self, seen: Seen) -> Array:
        """Those of all pictures."""
        if not self.upright:
            return seen.rows(self.name, (-1, self.columns))
        return np.concatenate([np.asarray(array, np.float32)[0].T for array in seen.outputs[self.name]])

    def lay(self, editor: GraphEditor, seen: Seen) -> str:
        """The tensor (1, N, columns)."""
        value = as_float(editor, seen, self.name)
        if self.upright:
            return editor.add('Transpose', [value], perm=[0, 2, 1])
        plain = len(seen.shape(self.name)) == 3
        return value if plain else editor.reshape(value, (1, -1, self.columns))
