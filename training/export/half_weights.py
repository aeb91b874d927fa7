"""Float networks whose weights are stored in float16: half the bytes of a bundle, all computation in float32 as before.

Behind each such weight stands a Cast: ONNX Runtime and OpenVINO do it once when they load the network, for ncnn and TensorRT
`kd_perception.bundles.onnx_edit.with_cast_weights` does it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.errors import ExportError

LEAST_VALUES = 256
"""Smaller weights stay as they are."""
MULTIPLIED = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')
"""Whose second input is stored in float16; biases, and the head's places in pixels, are not rounded."""
LARGEST = float(np.finfo(np.float16).max)
HALF = '_float16'


def store_in_half(source: Path, target: Path) -> None:
    """Write a float network with the weights of its convolutions and matrices in float16.

    Raises:
        ExportError: a weight that float16 does not hold.
    """
    model = onnx.load(source)
    graph = model.graph
    weights = {node.input[1] for node in graph.node if node.op_type in MULTIPLIED}
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name not in weights or tensor.data_type != TensorProto.FLOAT or values.size < LEAST_VALUES:
            continue
        if not np.isfinite(values).all() or np.abs(values).max() > LARGEST:
            raise ExportError(f'{source}: {tensor.name} holds values that float16 does not: leave half_weights out')
        casts.append(helper.make_node('Cast', [tensor.name + HALF], [tensor.name], to=TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name + HALF))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, target)
