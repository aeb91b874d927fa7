"""What an INT8 graph would be in fewer bits: the same graph with wider steps, to tell how far from its limit INT8 is.

No engine here computes in six bits; values on a grid of six bits are whole numbers of eight as well, so the graph runs where
the INT8 graph runs, no quicker, and finds what one of six bits would find. Values beyond the calibrated range are not cut off
as sharply as they would be.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from training.errors import QuantizationError
from training.ranges import Range

BITS = Range(least=2, most=8)
_LEVELS = 255
_WEIGHT_LEVELS = 127
Array = npt.NDArray[np.generic]


def fewer_bits(file: Path, bits: int) -> None:
    """Let the activations and weights of a QDQ graph lie on a grid of fewer bits; the file is replaced.

    Args:
        file: graph of `quantize` for `onnxruntime`: unsigned activations, symmetric weights.
        bits: 2 … 8, of both; biases stay whole numbers of the product of both steps.

    Raises:
        ValueError: another number of bits.
        QuantizationError: a graph of another form.
    """
    BITS.check(bits=bits)
    model = onnx.load(file)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    wider = {
        'activation': _LEVELS / (2**bits - 1),
        'weight': _WEIGHT_LEVELS / (2 ** (bits - 1) - 1),
    }
    wider['bias'] = wider['activation'] * wider['weight']
    roles: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in ('QuantizeLinear', 'DequantizeLinear'):
            value, scale, zero = node.input
            role = _role(constants.get(value))
            if roles.setdefault(scale, role) != role:
                raise QuantizationError(f'{file.name}: the scale {scale} is of {roles[scale]} and {role}')
            whole = zero if role == 'activation' else value
            if roles.setdefault(whole, role) != role:
                raise QuantizationError(f'{file.name}: {whole} is of {roles[whole]} and {role}')
    for name, role in roles.items():
        tensor = constants.get(name)
        if tensor is None:
            raise QuantizationError(f'{file.name}: {name} is no constant')
        array = numpy_helper.to_array(tensor)
        changed = array * wider[role] if array.dtype.kind == 'f' else np.rint(array / wider[role])
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(changed, array.dtype), name))
    onnx.save(model, file)


def _role(constant: onnx.TensorProto | None) -> str:
    """Of what is quantized: no constant is an activation, one of 32 bits a bias."""
    if constant is None:
        return 'activation'
    return 'bias' if constant.data_type == onnx.TensorProto.INT32 else 'weight'
