"""Float networks whose weights are stored in float16: half the bytes of a bundle, all computation in float32 as before.

Behind each large weight stands a Cast, which every engine does once when it loads the network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.errors import ExportError

LEAST_VALUES = 256
"""Smaller weights (biases, scales) stay as they are."""
LARGEST = float(np.finfo(np.float16).max)
HALF = '_float16'


def store_in_half(source: Path, target: Path) -> None:
    """Write a float network with its large weights in float16.

    Raises:
        ExportError: a weight that float16 does not hold.
    """
    model = onnx.load(source)
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < LEAST_VALUES:
            continue
        if not np.isfinite(values).all() or np.abs(values).max() > LARGEST:
            raise ExportError(f'{source}: {tensor.name} holds values that float16 does not: leave half_weights out')
        casts.append(helper.make_node('Cast', [tensor.name + HALF], [tensor.name], to=TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name + HALF))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, target)
