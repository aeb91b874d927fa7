"""A quantized ONNX graph computed by torch, with gradients that pass the rounding straight through.

The operators are those of detectors up to their last convolutions. ONNX to torch converters have none for QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import torch
from onnx import helper, numpy_helper
from torch.nn import functional

from training.errors import QuantizationError
from training.quantize.network import constants, nodes_behind

Tensor = torch.Tensor
Operator = Callable[[Sequence[Any], dict[str, Any]], Any]


class TorchGraph:
    """The part of a graph that computes some tensors.

    Args:
        model: a float graph, or one with QuantizeLinear and DequantizeLinear.
        outputs: names of the tensors that are computed.

    Raises:
        QuantizationError: it has an operator that is not known here.
    """

    def __init__(self, model: onnx.ModelProto, outputs: Sequence[str]) -> None:
        self._outputs = list(outputs)
        nodes = nodes_behind(model.graph, outputs)
        unknown = sorted({node.op_type for node in nodes} - set(OPERATORS))
        if unknown:
            raise QuantizationError(f'no trainable network: torch has no {", ".join(unknown)} here')
        self._nodes = [(node, _attributes(node)) for node in nodes]
        self._input = next(value.name for value in model.graph.input)
        known = constants(model.graph)
        read = {name for node in nodes for name in node.input}
        self._constants = {
            name: torch.from_numpy(numpy_helper.to_array(known[name]).copy()) for name in read if name in known
        }

    def __call__(self, picture: Tensor, replaced: Mapping[str, Tensor] | None = None) -> list[Tensor]:
        """The outputs for a picture as the graph takes it.

        Args:
            picture: with the axis of the batch.
            replaced: by a tensor's name values that stand in for it, weights for example.
        """
        values: dict[str, Any] = {'': None, self._input: picture, **self._constants, **(replaced or {})}
        for node, attributes in self._nodes:
            if replaced and node.output[0] in replaced:
                continue
            found = OPERATORS[node.op_type]([values[name] for name in node.input], attributes)
            several = isinstance(found, (tuple, list))
            values.update(zip(node.output, found if several else [found], strict=True))
        return [values[name] for name in self._outputs]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def _numbers(value: Tensor) -> list[int]:
    return [int(number) for number in value.reshape(-1).tolist()]


def _padded(value: Tensor, attributes: dict[str, Any], filler: float = 0.0) -> Tensor:
    top, left, bottom, right = attributes.get('pads', [0, 0, 0, 0])
    return functional.pad(value, (left, right, top, bottom), value=filler) if top + left + bottom + right else value


def _convolution(values: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
    _refuse(attributes.get('auto_pad', b'NOTSET') not in (b'NOTSET', b'VALID'), 'padding by name')
    bias = values[2] if len(values) > 2 else None
    options = {name: attributes.get(key, 1) for name, key in (('stride', 'strides'), ('dilation', 'dilations'))}
    return functional.conv2d(
        _padded(values[0], attributes), values[1], bias, **options, groups=attributes.get('group', 1)
    )


def _max_pool(values: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
    padded = _padded(values[0], attributes, -torch.inf)
    return functional.max_pool2d(
        padded,
        attributes['kernel_shape'],
        attributes.get('strides', 1),
        dilation=attributes.get('dilations', 1),
        ceil_mode=bool(attributes.get('ceil_mode', 0)),
    )


def _average_pool(values: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
    pads = attributes.get('pads', [0, 0, 0, 0])
    _refuse(pads[:2] != pads[2:], 'an uneven padding of averages')
    return functional.avg_pool2d(
        values[0],
        attributes['kernel_shape'],
        attributes.get('strides', 1),
        pads[:2],
        bool(attributes.get('ceil_mode', 0)),
        bool(attributes.get('count_include_pad', 0)),
    )


def _resize(values: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
    _refuse(attributes.get('mode', b'nearest') != b'nearest', 'smooth enlargement')
    value = values[0]
    sizes = values[3] if len(values) > 3 and values[3] is not None else None
    if sizes is None:
        factors = [float(factor) for factor in values[2].tolist()]
        size = [round(side * factor) for side, factor in zip(value.shape[2:], factors[2:], strict=True)]
    else:
        size = _numbers(sizes)[2:]
    _refuse(any(new % old for new, old in zip(size, value.shape[2:], strict=True)), 'enlargement by a broken number')
    return functional.interpolate(value, size, mode='nearest')


def _slice(values: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
    value, starts, ends = values[0], _numbers(values[1]), _numbers(values[2])
    axes = _numbers(values[3]) if len(values) > 3 and values[3] is not None else list(range(len(starts)))
    steps = _numbers(values[4]) if len(values) > 4 and values[4] is not None else [1] * len(starts)
    _refuse(min(steps) < 1, 'slices from behind')
    index = [slice(None)] * value.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return value[tuple(index)]


def _split(values: Sequence[Any], attributes: dict[str, Any]) -> list[Tensor]:
    axis = attributes.get('axis', 0)
    if len(values) > 1 and values[1] is not None:
        return list(torch.split(values[0], _numbers(values[1]), axis))
    return list(torch.chunk(values[0], attributes.get('num_outputs', 2), axis))


def _reshape(values: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
    value, shape = values[0], _numbers(values[1])
    return value.reshape([value.shape[axis] if side == 0 else side for axis, side in enumerate(shape)])


def _gather(values: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
    axis, index = attributes.get('axis', 0), values[1].long()
    found = values[0].index_select(axis, index.reshape(-1))
    return found.squeeze(axis) if index.ndim == 0 else found


def _quantize(values: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
    """Rounded, and still in float: what DequantizeLinear would give."""
    value, scale, zero = values
    least, most = torch.iinfo(zero.dtype).min, torch.iinfo(zero.dtype).max
    if scale.ndim == 0:
        return torch.fake_quantize_per_tensor_affine(value, scale, zero.int(), least, most)
    axis = attributes.get('axis', 1)
    return torch.fake_quantize_per_channel_affine(value, scale, zero.int(), axis, least, most)


def _dequantize(values: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
    value, scale = values[:2]
    if value.is_floating_point():
        return value
    zero = values[2] if len(values) > 2 and values[2] is not None else torch.zeros_like(scale)
    shape = [-1 if axis == attributes.get('axis', 1) % value.ndim else 1 for axis in range(value.ndim)]
    return (value.float() - zero.float().reshape(shape if zero.ndim else [])) * scale.reshape(
        shape if scale.ndim else []
    )


def _clip(values: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
    low, high = (values[k] if len(values) > k else None for k in (1, 2))
    return torch.clamp(values[0], low, high)


def _cast(values: Sequence[Any], attributes: dict[str, Any]) -> Tensor:
    _refuse(attributes['to'] != onnx.TensorProto.FLOAT, 'numbers of other kinds')
    return values[0].float()


def _refuse(is_unknown: bool, what: str) -> None:
    if is_unknown:
        raise QuantizationError(f'no trainable network: {what} is not computed in torch here')


OPERATORS: dict[str, Operator] = {
    'Add': lambda v, a: v[0] + v[1],
    'AveragePool': _average_pool,
    'Cast': _cast,
    'Clip': _clip,
    'Concat': lambda v, a: torch.cat(list(v), a['axis']),
    'Conv': _convolution,
    'DequantizeLinear': _dequantize,
    'Div': lambda v, a: v[0] / v[1],
    'Gather': _gather,
    'GlobalAveragePool': lambda v, a: v[0].mean((2, 3), keepdim=True),
    'HardSigmoid': lambda v, a: torch.clamp(a.get('alpha', 0.2) * v[0] + a.get('beta', 0.5), 0, 1),
    'HardSwish': lambda v, a: functional.hardswish(v[0]),
    'Identity': lambda v, a: v[0],
    'LeakyRelu': lambda v, a: functional.leaky_relu(v[0], a.get('alpha', 0.01)),
    'MaxPool': _max_pool,
    'Mul': lambda v, a: v[0] * v[1],
    'QuantizeLinear': _quantize,
    'Relu': lambda v, a: torch.relu(v[0]),
    'Reshape': _reshape,
    'Resize': _resize,
    'Sigmoid': lambda v, a: torch.sigmoid(v[0]),
    'Slice': _slice,
    'Split': _split,
    'Sub': lambda v, a: v[0] - v[1],
    'Tanh': lambda v, a: torch.tanh(v[0]),
    'Transpose': lambda v, a: v[0].permute(*a['perm']),
}
