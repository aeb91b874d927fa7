"""PyTorch as the reference: the bundle's ONNX graph, operation by operation, in plain float32 functions.

It needs no file of its own and no pickle, which `torch.export.load` uses under the hood: an exported program from elsewhere could
run code. Slow, and the only module of this package that imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from kd_perception.bundles.bundle import Artifact, Bundle
from kd_perception.bundles.onnx_graph import DTYPES, Graph, Node, check_input, read_graph
from kd_perception.bundles.onnx_integrity import read_network
from kd_perception.detection.engine import Array, EngineInfo
from kd_perception.engines.batch import check_batch, engine_error
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import EngineError
from kd_perception.machine.cores import physical_cores

Tensor = torch.Tensor


class TorchEngine:
    """One graph, interpreted. Not thread-safe: one frame at a time."""

    def __init__(self, graph: Graph, bundle: Bundle, device: str, info: EngineInfo) -> None:
        self.info = info
        self._device = device
        self._shape = bundle.input.shape
        self._dtype = np.dtype(bundle.input.dtype)
        self._graph: Graph | None = graph
        self._constants = {name: torch.tensor(value).to(device) for name, value in graph.constants.items()}
        self._last_use = _last_uses(graph)

    def infer(self, batch: Array) -> dict[str, Array]:
        """See `kd_perception.detection.engine.Engine.infer`."""
        if self._graph is None:
            raise EngineError('the engine was closed')
        check_batch(batch, self._shape, self._dtype)
        try:
            with torch.inference_mode():
                return self._run(self._graph, torch.from_numpy(batch).to(self._device))
        except EngineError:
            raise
        except (RuntimeError, ArithmeticError, ValueError, LookupError, TypeError) as error:
            raise engine_error('PyTorch failed during inference', error) from error

    def _run(self, graph: Graph, image: Tensor) -> dict[str, Array]:
        values: dict[str, Tensor] = {**self._constants, graph.inputs[0].name: image}
        for step, node in enumerate(graph.nodes):
            inputs: list[Any] = [values[name] if name else None for name in node.inputs]
            results = OPERATIONS[node.op](node, inputs)
            outputs = results if isinstance(results, tuple) else (results,)
            values.update(zip(node.outputs, outputs, strict=True))
            for name in self._last_use.get(step, ()):
                del values[name]
        return {output.name: values[output.name].cpu().numpy() for output in graph.outputs}

    def close(self) -> None:
        """Free the weights."""
        self._graph = None
        self._constants = {}


def load(bundle: Bundle, artifact: Artifact, options: EngineOptions) -> TorchEngine:
    """Read an ONNX artifact; quantized networks are computed in float with the roundings of QDQ.

    The number of threads is torch's own and holds for the whole process.

    Raises:
        BundleError: the file is missing or altered.
        EngineError: the network holds an operation that is not translated.
    """
    graph = read_graph(read_network(bundle, artifact), artifact.file)
    check_input(graph, bundle)
    unknown = sorted({node.op for node in graph.nodes} - set(OPERATIONS))
    if unknown:
        raise EngineError(f'torch: {", ".join(unknown)} not translated; run this network on onnxruntime')
    device = options.providers[0] if options.providers else 'cpu'
    threads = options.threads or physical_cores()
    torch.set_num_threads(threads)
    info = EngineInfo(
        engine='torch',
        precision=artifact.precision,
        device=device.partition(':')[0],
        provider=f'torch {device}',
        threads=threads if device == 'cpu' else 0,
        versions={'torch': torch.__version__, 'numpy': np.__version__},
    )
    try:
        return TorchEngine(graph, bundle, device, info)
    except RuntimeError as error:
        raise engine_error(f'PyTorch cannot load {artifact.file}', error) from error


def _last_uses(graph: Graph) -> dict[int, tuple[str, ...]]:
    """Step → values that no later step reads: their memory is given back there."""
    kept = {output.name for output in graph.outputs} | set(graph.constants)
    last: dict[str, int] = {}
    for step, node in enumerate(graph.nodes):
        for name in (*node.inputs, *node.outputs):
            if name and name not in kept:
                last[name] = step
    steps: dict[int, tuple[str, ...]] = {}
    for name, step in last.items():
        steps[step] = (*steps.get(step, ()), name)
    return steps


Inputs = list[Tensor]
"""A node's input tensors in ONNX's order; for optional ones see `_given`."""


def _ints(tensor: Tensor) -> list[int]:
    return [int(value) for value in tensor.flatten().tolist()]


def _given(inputs: Inputs, place: int) -> Tensor | None:
    """An optional input; None where it is left out, at the end or between others."""
    return inputs[place] if len(inputs) > place else None


def _padded(node: Node, image: Tensor, value: float) -> Tensor:
    if node.text('auto_pad', 'NOTSET') != 'NOTSET':
        raise EngineError(f'torch: {node.op} with auto_pad is not translated')
    top, left, bottom, right = node.ints('pads', (0, 0, 0, 0))
    return F.pad(image, (left, right, top, bottom), value=value) if top or left or bottom or right else image


def _convolution(node: Node, inputs: Inputs) -> Tensor:
    top, left, bottom, right = node.ints('pads', (0, 0, 0, 0))
    same = (top, left) == (bottom, right)
    image = inputs[0] if same else _padded(node, inputs[0], 0.0)
    return F.conv2d(
        image,
        inputs[1],
        _given(inputs, 2),
        stride=node.ints('strides', (1, 1)),
        padding=(top, left) if same else 0,
        dilation=node.ints('dilations', (1, 1)),
        groups=int(node.number('group', 1)),
    )


def _convolution_transpose(node: Node, inputs: Inputs) -> Tensor:
    top, left, bottom, right = node.ints('pads', (0, 0, 0, 0))
    if (top, left) != (bottom, right):
        raise EngineError('torch: ConvTranspose with uneven padding is not translated')
    return F.conv_transpose2d(
        inputs[0],
        inputs[1],
        _given(inputs, 2),
        stride=node.ints('strides', (1, 1)),
        padding=(top, left),
        output_padding=node.ints('output_padding', (0, 0)),
        groups=int(node.number('group', 1)),
        dilation=node.ints('dilations', (1, 1)),
    )


def _max_pool(node: Node, inputs: Inputs) -> Tensor:
    image = _padded(node, inputs[0], -math.inf)
    size, stride = node.ints('kernel_shape', ()), node.ints('strides', (1, 1))
    dilation, ceil = node.ints('dilations', (1, 1)), bool(node.number('ceil_mode', 0))
    return F.max_pool2d(image, size, stride, dilation=dilation, ceil_mode=ceil)


def _average_pool(node: Node, inputs: Inputs) -> Tensor:
    size, stride = node.ints('kernel_shape', ()), node.ints('strides', (1, 1))
    top, left, bottom, right = node.ints('pads', (0, 0, 0, 0))
    if (top, left) != (bottom, right) or node.number('ceil_mode', 0):
        raise EngineError('torch: this form of AveragePool is not translated')
    counts = bool(node.number('count_include_pad', 0))
    return F.avg_pool2d(inputs[0], size, stride, (top, left), count_include_pad=counts)


def _resize(node: Node, inputs: Inputs) -> Tensor:
    image = inputs[0]
    if _given(inputs, 3) is not None:
        size = _ints(inputs[3])[2:]
    else:
        scales = inputs[2 if len(inputs) > 2 else 1].tolist()[2:]
        size = [int(length * scale) for length, scale in zip(image.shape[2:], scales, strict=True)]
    mode, where = node.text('mode', 'nearest'), node.text('coordinate_transformation_mode', 'half_pixel')
    whole = all(new % old == 0 for new, old in zip(size, image.shape[2:], strict=True))
    if mode == 'nearest' and whole:
        return F.interpolate(image, size, mode='nearest')
    if mode == 'linear' and where in ('half_pixel', 'pytorch_half_pixel', 'align_corners'):
        return F.interpolate(image, size, mode='bilinear', align_corners=where == 'align_corners')
    raise EngineError(f'torch: Resize {mode} {where} to {size} is not translated')


def _reshape(node: Node, inputs: Inputs) -> Tensor:
    source, shape = inputs[0], _ints(inputs[1])
    return source.reshape([source.shape[i] if n == 0 else n for i, n in enumerate(shape)])


def _axes(node: Node, inputs: Inputs) -> list[int]:
    """Axes are an input since opset 13 (Reduce: 18) and an attribute before."""
    given = _given(inputs, 1)
    return list(node.ints('axes', ())) if given is None else _ints(given)


def _squeeze(node: Node, inputs: Inputs) -> Tensor:
    axes = _axes(node, inputs)
    return inputs[0].squeeze(tuple(axes)) if axes else inputs[0].squeeze()


def _unsqueeze(node: Node, inputs: Inputs) -> Tensor:
    axes = _axes(node, inputs)
    result = inputs[0]
    for axis in sorted(axis % (result.ndim + len(axes)) for axis in axes):
        result = result.unsqueeze(axis)
    return result


def _flatten(node: Node, inputs: Inputs) -> Tensor:
    axis = int(node.number('axis', 1))
    return inputs[0].reshape(math.prod(inputs[0].shape[:axis]), -1)


def _slice(node: Node, inputs: Inputs) -> Tensor:
    source, starts, ends = inputs[0], _ints(inputs[1]), _ints(inputs[2])
    axes = list(range(len(starts))) if _given(inputs, 3) is None else _ints(inputs[3])
    steps = [1] * len(starts) if _given(inputs, 4) is None else _ints(inputs[4])
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        indices = torch.arange(source.shape[axis], device=source.device)[slice(start, end) if step > 0 else slice(None)]
        if step < 0:
            indices = torch.tensor(range(*slice(start, end, step).indices(source.shape[axis])), device=source.device)
            step = 1
        source = source.index_select(axis, indices[::step].long())
    return source


def _split(node: Node, inputs: Inputs) -> tuple[Tensor, ...]:
    axis = int(node.number('axis', 0))
    given = _given(inputs, 1)
    sizes = node.ints('split', ()) if given is None else _ints(given)
    if not sizes:
        sizes = (-(-inputs[0].shape[axis] // len(node.outputs)),)
        return tuple(torch.split(inputs[0], sizes[0], axis))
    return tuple(torch.split(inputs[0], list(sizes), axis))


def _gather(node: Node, inputs: Inputs) -> Tensor:
    axis = int(node.number('axis', 0)) % inputs[0].ndim
    indices = inputs[1].long()
    chosen = inputs[0].index_select(axis, (indices % inputs[0].shape[axis]).flatten())
    return chosen.reshape((*inputs[0].shape[:axis], *indices.shape, *inputs[0].shape[axis + 1 :]))


def _reduced(function: Callable[..., Tensor]) -> Callable[[Node, Inputs], Tensor]:
    def reduce(node: Node, inputs: Inputs) -> Tensor:
        axes = _axes(node, inputs) or list(range(inputs[0].ndim))
        return function(inputs[0], dim=axes, keepdim=bool(node.number('keepdims', 1)))

    return reduce


def _clip(node: Node, inputs: Inputs) -> Tensor:
    low, high = _given(inputs, 1), _given(inputs, 2)
    return inputs[0].clamp(
        node.number('min', -math.inf) if low is None else float(low),
        node.number('max', math.inf) if high is None else float(high),
    )


def _gemm(node: Node, inputs: Inputs) -> Tensor:
    a = inputs[0].T if node.number('transA', 0) else inputs[0]
    b = inputs[1].T if node.number('transB', 0) else inputs[1]
    product = node.number('alpha', 1.0) * (a @ b)
    return product if _given(inputs, 2) is None else product + node.number('beta', 1.0) * inputs[2]


def _batch_normalization(node: Node, inputs: Inputs) -> Tensor:
    slope, bias, mean, variance = inputs[1:5]
    return F.batch_norm(inputs[0], mean, variance, slope, bias, eps=node.number('epsilon', 1e-5))


def _along(axis: int, values: Tensor, like: Tensor) -> Tensor:
    """One number for all, or one for each place of an axis, in a shape that broadcasts."""
    if values.ndim == 0 or values.numel() == 1:
        return values.reshape(())
    shape = [1] * like.ndim
    shape[axis] = -1
    return values.reshape(shape)


def _quantize(node: Node, inputs: Inputs) -> Tensor:
    value, axis = inputs[0], int(node.number('axis', 1))
    scale = _along(axis, inputs[1], value)
    zero = _given(inputs, 2)
    kind = torch.uint8 if zero is None else zero.dtype
    shift = 0 if zero is None else _along(axis, zero, value).float()
    limits = torch.iinfo(kind)
    return (torch.round(value / scale) + shift).clamp(limits.min, limits.max).to(kind)


def _dequantize(node: Node, inputs: Inputs) -> Tensor:
    value, axis = inputs[0], int(node.number('axis', 1))
    zero = _given(inputs, 2)
    # Differences of int32 biases do not fit float32 before they are taken.
    difference = value.long() if zero is None else value.long() - _along(axis, zero.long(), value)
    return difference.float() * _along(axis, inputs[1], value)


def _cast(node: Node, inputs: Inputs) -> Tensor:
    kind = torch.from_numpy(np.empty(0, DTYPES[int(node.number('to', 1))])).dtype
    return inputs[0].to(kind)


def _elementwise(function: Callable[..., Tensor]) -> Callable[[Node, Inputs], Tensor]:
    return lambda node, inputs: function(*inputs)


def _divide(node: Node, inputs: Inputs) -> Tensor:
    rounding = None if inputs[0].is_floating_point() else 'trunc'
    return torch.div(inputs[0], inputs[1], rounding_mode=rounding)


Operation = Callable[[Node, Inputs], Tensor | tuple[Tensor, ...]]

OPERATIONS: Mapping[str, Operation] = {
    'Cast': _cast,
    'Identity': _elementwise(lambda value: value),
    'Dropout': lambda node, inputs: inputs[0],
    'Transpose': lambda node, inputs: inputs[0].permute(node.ints('perm', tuple(range(inputs[0].ndim - 1, -1, -1)))),
    'Conv': _convolution,
    'ConvTranspose': _convolution_transpose,
    'Gemm': _gemm,
    'MatMul': _elementwise(torch.matmul),
    'BatchNormalization': _batch_normalization,
    'MaxPool': _max_pool,
    'AveragePool': _average_pool,
    'GlobalAveragePool': lambda node, inputs: inputs[0].mean((2, 3), keepdim=True),
    'GlobalMaxPool': lambda node, inputs: inputs[0].amax((2, 3), keepdim=True),
    'Resize': _resize,
    'Reshape': _reshape,
    'Flatten': _flatten,
    'Squeeze': _squeeze,
    'Unsqueeze': _unsqueeze,
    'Concat': lambda node, inputs: torch.cat(inputs, int(node.number('axis', 1))),
    'Slice': _slice,
    'Split': _split,
    'Gather': _gather,
    'Softmax': lambda node, inputs: inputs[0].softmax(int(node.number('axis', -1))),
    'ReduceSum': _reduced(torch.sum),
    'ReduceMean': _reduced(torch.mean),
    'ReduceMax': _reduced(torch.amax),
    'ReduceMin': _reduced(torch.amin),
    'Clip': _clip,
    'LeakyRelu': lambda node, inputs: F.leaky_relu(inputs[0], node.number('alpha', 0.01)),
    'HardSigmoid': lambda node, inputs: (node.number('alpha', 0.2) * inputs[0] + node.number('beta', 0.5)).clamp(0, 1),
    'HardSwish': _elementwise(F.hardswish),
    'Gelu': lambda node, inputs: F.gelu(inputs[0], approximate=node.text('approximate', 'none')),
    'Mish': _elementwise(F.mish),
    'Relu': _elementwise(torch.relu),
    'Sigmoid': _elementwise(torch.sigmoid),
    'Tanh': _elementwise(torch.tanh),
    'Softplus': _elementwise(F.softplus),
    'Erf': _elementwise(torch.erf),
    'Exp': _elementwise(torch.exp),
    'Log': _elementwise(torch.log),
    'Sqrt': _elementwise(torch.sqrt),
    'Abs': _elementwise(torch.abs),
    'Neg': _elementwise(torch.neg),
    'Floor': _elementwise(torch.floor),
    'Ceil': _elementwise(torch.ceil),
    'Reciprocal': _elementwise(torch.reciprocal),
    'Add': _elementwise(torch.add),
    'Sub': _elementwise(torch.sub),
    'Mul': _elementwise(torch.mul),
    'Div': _divide,
    'Pow': _elementwise(torch.pow),
    'Max': _elementwise(torch.maximum),
    'Min': _elementwise(torch.minimum),
    'GreaterOrEqual': _elementwise(torch.ge),
    'Greater': _elementwise(torch.gt),
    'Less': _elementwise(torch.lt),
    'Where': _elementwise(torch.where),
    'QuantizeLinear': _quantize,
    'DequantizeLinear': _dequantize,
}
"""ONNX operation → what computes it; the semantics are those of onnx's Operators.md."""
