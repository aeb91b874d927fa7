"""The walk over an ONNX graph: which values there are, as blobs or constants, and the layers made so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_perception.bundles.onnx_graph import Graph, Node
from kd_perception.engines.ncnn_conversion.network import INPUT, Blob, Layer, Params, extent
from kd_perception.errors import EngineError

ON_LISTS = ('Reshape', 'InnerProduct')
"""Layers that take a list of rows; the axes of all others are counted with the batch's."""


class Walk:
    """What the translations of the operations read and add to.

    Attributes:
        graph: what is translated.
        layers: made so far, in order.
        values: ONNX value → its blob.
        channels_last: the ONNX input is (H, W, 3).
        planar: its transposition to planes was met, and is left to the caller.
        sigmoid_of: ONNX value that is the sigmoid of another, and only gates it → that other one.
    """

    def __init__(self, graph: Graph, shape: tuple[int, ...]) -> None:
        self.graph = graph
        self.layers: list[Layer] = []
        self.values: dict[str, Blob] = {graph.inputs[0].name: Blob(INPUT, shape[1:])}
        self.channels_last = shape[-1] == 3 and shape[1] != 3
        self.planar = False
        self.sigmoid_of: dict[str, str] = {}
        self._count = 0

    def constant(self, name: str, what: str) -> npt.NDArray[Any]:
        """A constant by its name; refused, as what `what` says, where it is none."""
        if name not in self.graph.constants:
            raise EngineError(f'ncnn: {what} is not a constant; simplify the network (onnxslim) with fixed sizes')
        return self.graph.constants[name]

    def is_constant(self, name: str) -> bool:
        """Whether a value is one."""
        return name in self.graph.constants

    def blob(self, name: str, rank: int) -> Blob:
        """The blob of an ONNX value of `rank` axes; a constant becomes a layer of its own."""
        if name in self.values:
            blob = self.values[name]
            if self.channels_last and blob.name == INPUT and not self.planar:
                raise EngineError('ncnn: the network uses its image before it is transposed to planes')
            return blob
        constant = self.constant(name, f'value {name}').astype(np.float32)
        shape = (1,) * (rank - constant.ndim) + constant.shape
        if len(shape) != rank or shape[0] != 1:
            raise EngineError(f'ncnn: a constant of shape {constant.shape} does not fit an image at a time')
        return self.emit('MemoryData', [], shape[1:], extent(shape[1:], (0, 1, 11, 2)), [constant.tobytes()])

    def emit(
        self,
        kind: str,
        inputs: Sequence[Blob],
        shape: tuple[int, ...],
        params: Params,
        weights: list[bytes] | None = None,
    ) -> Blob:
        """Add a layer with one output, and give that."""
        if kind not in ON_LISTS:
            self.refuse_lists(kind, inputs)
        blob = self.new_blob(shape)
        self.layers.append(Layer(kind, [b.name for b in inputs], [blob.name], params, weights or []))
        return blob

    def refuse_lists(self, kind: str, inputs: Sequence[Blob]) -> None:
        """Refuse an operation whose axes are counted with the batch's on values that have none."""
        if any(blob.listed for blob in inputs):
            raise EngineError(f'ncnn: {kind} of a list without a batch axis')

    def new_blob(self, shape: tuple[int, ...]) -> Blob:
        """A blob of a name that no other has."""
        self._count += 1
        return Blob(f'b{self._count}', shape)

    def axis(self, axis: int, shape: tuple[int, ...]) -> int:
        """An ONNX axis, counted with the batch, as one of `shape` without it."""
        axis = axis + len(shape) + 1 if axis < 0 else axis
        if axis == 0:
            raise EngineError('ncnn: an operation over the batch axis')
        return axis - 1


Translation = Callable[[Walk, Node], None]
"""Adds the layers of one operation."""
