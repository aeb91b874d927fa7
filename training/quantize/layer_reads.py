"""What the convolutions of a network read, one after the other, while the weights of those before them change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from training.quantize.calibration import Image, session_of
from training.quantize.network import nodes_behind

FloatArray = npt.NDArray[np.float32]


class LayerReads:
    """Runs a network piece by piece, each node once, with the weights that it has by then.

    Of each image only those activations are kept from which later ones are still computed.
    """

    def __init__(self, network: onnx.ModelProto, tensors: Sequence[str], images: Sequence[Image]) -> None:
        """Begin.

        Args:
            network: as it is written for the engine; its weights may change between two calls of `read`.
            tensors: what will be asked for, in the network's order.
            images: as the network takes them.
        """
        self._network = network
        self._tensors = list(dict.fromkeys(tensors))
        self._known: dict[str, list[npt.NDArray[Any]]] = {
            network.graph.input[0].name: [image[None] for image in images]
        }

    def read(self, tensor: str) -> list[FloatArray]:
        """A tensor's value for each image; the tensors before it in the list are asked for before it."""
        if tensor not in self._known:
            self._run_up_to(tensor)
        return self._known[tensor]

    def _run_up_to(self, tensor: str) -> None:
        piece = part(self._network, [tensor], {name: values[0] for name, values in self._known.items()})
        # ONNX Runtime's rewrites do not know the other engines' forms: one scale a channel of an activation, for one.
        session = session_of(piece, as_written=True)
        given = [value.name for value in piece.graph.input]
        count = len(next(iter(self._known.values())))
        self._known[tensor] = [
            session.run(None, {name: self._known[name][number] for name in given})[0] for number in range(count)
        ]
        ahead = self._tensors[self._tensors.index(tensor) + 1 :]
        needed = {name for node in nodes_behind(self._network.graph, ahead, self._known) for name in node.input}
        self._known = {name: values for name, values in self._known.items() if name in {tensor, *needed, *ahead}}


def part(
    network: onnx.ModelProto, tensors: Sequence[str], known: Mapping[str, npt.NDArray[Any]] | None = None
) -> onnx.ModelProto:
    """The part of a network that computes some tensors.

    Args:
        network: whole.
        tensors: become its outputs.
        known: tensors that become its inputs, each with a value of its type and shape; without them those of the network.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(network)
    graph = copy.graph
    kept = nodes_behind(graph, tensors, known or ())
    read = {name for node in kept for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    for field, left in (('node', kept), ('initializer', weights)):
        graph.ClearField(field)
        getattr(graph, field).extend(left)
    if known is not None:
        graph.ClearField('input')
        graph.input.extend(_info(name, value) for name, value in known.items() if name in read)
    graph.ClearField('output')
    graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors)
    return copy


def _info(name: str, value: npt.NDArray[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
