"""Turns an ONNX detector into ncnn's own form: a text of layers and the weights, held in memory.

ncnn has no batch axis, gives every blob exactly one reader, and wants what ONNX keeps in constants as layer parameters. The
numbers of the parameters are those of ncnn's operators.md. Shapes are followed through the graph, so it must state all sizes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_perception.bundles.onnx_graph import Graph, Node
from kd_perception.errors import EngineError

Params = dict[int, int | float | Sequence[int]]
"""A layer's parameters: number → value."""

_MAGIC = 7767517
_FLOAT32_WEIGHTS = np.zeros(1, np.uint32).tobytes()
_BINARY = {'Add': 0, 'Sub': 1, 'Mul': 2, 'Div': 3, 'Max': 4, 'Min': 5, 'Pow': 6}
_SWAPPED = {'Add': 0, 'Sub': 7, 'Mul': 2, 'Div': 8, 'Max': 4, 'Min': 5, 'Pow': 9}
"""The operation with its operands swapped, for a scalar on the left."""
_UNARY = {'Abs': 0, 'Neg': 1, 'Floor': 2, 'Ceil': 3, 'Sqrt': 5, 'Exp': 7, 'Log': 8, 'Reciprocal': 15, 'Tanh': 16}
_REDUCTION = {'ReduceSum': 0, 'ReduceMean': 3, 'ReduceMax': 4, 'ReduceMin': 5}
_PERMUTE_3D = {'whc': 0, 'hwc': 1, 'wch': 2, 'cwh': 3, 'hcw': 4, 'chw': 5}
_CONVOLUTIONS = ('Convolution', 'ConvolutionDepthWise', 'InnerProduct')


@dataclass(frozen=True)
class Stage:
    """A run of layers that ncnn loads as one network.

    Attributes:
        param: the layers, as text.
        weights: what the layers load, in their order.
        inputs: blobs that it takes.
        outputs: blobs that it gives.
    """

    param: str
    weights: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class NcnnNetwork:
    """A network in ncnn's form.

    Attributes:
        stages: one, or the part up to the last convolutions and the part behind them.
        planar: the input blob takes (3, H, W) although the ONNX input is (H, W, 3): the transposition is left to the caller.
        outputs: ONNX output → its shape without the batch axis.
    """

    stages: tuple[Stage, ...]
    planar: bool
    outputs: Mapping[str, tuple[int, ...]]


INPUT = 'input'
"""Name of the input blob."""


@dataclass(frozen=True)
class _Blob:
    name: str
    shape: tuple[int, ...]


@dataclass
class _Layer:
    kind: str
    inputs: list[str]
    outputs: list[str]
    params: Params
    weights: list[bytes] = field(default_factory=list)


def convert(graph: Graph, shape: tuple[int, ...], apart: bool = False) -> NcnnNetwork:
    """Convert a graph.

    Args:
        graph: float or uint8 input; no quantization.
        shape: of the input with the batch axis, for graphs that leave sizes open.
        apart: make the part behind the last convolutions a stage of its own, which can stay in FP32 when the convolutions run in
            half precision: boxes are in pixels there, and fp16 rounds them to half a pixel at 1024. (ncnn's own mask for single
            layers misreads what comes from layers without it.)

    Raises:
        EngineError: an operation, or a form of it, that is not translated.
    """
    if shape[0] != 1:
        raise EngineError('ncnn runs one image at a time')
    try:
        return _Converter(graph, shape).run(apart)
    except (ValueError, KeyError, IndexError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise EngineError(
            f'ncnn: the network contradicts itself, or has a form that is not translated ({error!r})'
        ) from error


class _Converter:
    """One walk over the graph."""

    def __init__(self, graph: Graph, shape: tuple[int, ...]) -> None:
        self._graph = graph
        self._layers: list[_Layer] = []
        self._values: dict[str, _Blob] = {graph.inputs[0].name: _Blob(INPUT, shape[1:])}
        self._channels_last = shape[-1] == 3 and shape[1] != 3
        self._planar = False
        self._uses = Counter(name for node in graph.nodes for name in node.inputs)
        self._sigmoid_of: dict[str, str] = {}
        self._count = 0

    def run(self, apart: bool) -> NcnnNetwork:
        for node in self._graph.nodes:
            translate = _TRANSLATIONS.get(node.op)
            if translate is None:
                raise EngineError(f'ncnn: the operation {node.op} is not translated; run this network on onnxruntime')
            translate(self, node)
        outputs = {}
        for value in self._graph.outputs:
            blob = self._blob(value.name, len(value.shape))
            outputs[value.name] = blob.shape
            # Under the name of the output, which a blob shared with another layer could not have.
            self._layers.append(_Layer('Noop', [blob.name], [value.name], {}))
        return NcnnNetwork(self._stages(outputs, apart), self._planar, outputs)

    # Values

    def _constant(self, name: str, what: str) -> npt.NDArray[Any]:
        if name not in self._graph.constants:
            raise EngineError(f'ncnn: {what} is not a constant; simplify the network (onnxslim) with fixed sizes')
        return self._graph.constants[name]

    def _is_constant(self, name: str) -> bool:
        return name in self._graph.constants

    def _blob(self, name: str, rank: int) -> _Blob:
        """The blob of an ONNX value of `rank` axes; a constant becomes a layer of its own."""
        if name in self._values:
            blob = self._values[name]
            if self._channels_last and blob.name == INPUT and not self._planar:
                raise EngineError('ncnn: the network uses its image before it is transposed to planes')
            return blob
        constant = self._constant(name, f'value {name}').astype(np.float32)
        shape = (1,) * (rank - constant.ndim) + constant.shape
        if len(shape) != rank or shape[0] != 1:
            raise EngineError(f'ncnn: a constant of shape {constant.shape} does not fit an image at a time')
        return self._emit('MemoryData', [], shape[1:], _extent(shape[1:], (0, 1, 11, 2)), [constant.tobytes()])

    def _emit(
        self,
        kind: str,
        inputs: Sequence[_Blob],
        shape: tuple[int, ...],
        params: Params,
        weights: list[bytes] | None = None,
    ) -> _Blob:
        self._count += 1
        blob = _Blob(f'b{self._count}', shape)
        self._layers.append(_Layer(kind, [b.name for b in inputs], [blob.name], params, weights or []))
        return blob

    def _axis(self, axis: int, shape: tuple[int, ...]) -> int:
        """An ONNX axis, counted with the batch, as one of `shape` without it."""
        axis = axis + len(shape) + 1 if axis < 0 else axis
        if axis == 0:
            raise EngineError('ncnn: an operation over the batch axis')
        return axis - 1

    # Operations

    def same(self, node: Node) -> None:
        """Cast, Identity, Dropout: ncnn computes in float throughout."""
        if self._is_constant(node.inputs[0]):
            raise EngineError(f'ncnn: {node.op} of a constant; simplify the network (onnxslim)')
        self._values[node.outputs[0]] = self._values[node.inputs[0]]

    def identity(self, node: Node) -> None:
        name = node.inputs[0]
        rank = self._graph.constants[name].ndim if self._is_constant(name) else 0
        self._values[node.outputs[0]] = self._blob(name, rank) if rank else self._values[name]

    def transpose(self, node: Node) -> None:
        source = self._values[node.inputs[0]]
        perm = node.ints('perm', tuple(range(len(source.shape), -1, -1)))
        if self._channels_last and source.name == INPUT and not self._planar and perm == (0, 3, 1, 2):
            height, width, channels = source.shape
            self._planar = True
            # The name may be read by casts only, which have run: every later reader takes the transposed one.
            self._values[node.outputs[0]] = _Blob(INPUT, (channels, height, width))
            return
        source = self._blob(node.inputs[0], len(perm))
        if perm[0] != 0:
            raise EngineError('ncnn: a transposition that moves the batch axis')
        axes = [axis - 1 for axis in perm[1:]]
        shape = tuple(source.shape[axis] for axis in axes)
        if len(axes) == 2:
            order = int(axes == [1, 0])
        elif len(axes) == 3:
            order = _PERMUTE_3D[''.join('chw'[axis] for axis in reversed(axes))]
        elif axes == sorted(axes):
            order = 0
        else:
            raise EngineError(f'ncnn: a transposition of {len(axes)} axes is not translated')
        self._values[node.outputs[0]] = self._emit('Permute', [source], shape, {0: order}) if order else source

    def convolution(self, node: Node) -> None:
        source = self._blob(node.inputs[0], 4)
        weight = self._constant(node.inputs[1], 'a convolution’s weight').astype(np.float32)
        if weight.ndim != 4 or node.text('auto_pad', 'NOTSET') != 'NOTSET':
            raise EngineError('ncnn: only convolutions over images with explicit padding are translated')
        group = int(node.number('group', 1))
        (stride_h, stride_w), (dilation_h, dilation_w) = node.ints('strides', (1, 1)), node.ints('dilations', (1, 1))
        top, left, bottom, right = node.ints('pads', (0, 0, 0, 0))
        out, _, kernel_h, kernel_w = weight.shape
        _, height, width = source.shape
        bias = self._bias(node, 2)
        params: Params = {
            0: out,
            1: kernel_w,
            11: kernel_h,
            2: dilation_w,
            12: dilation_h,
            3: stride_w,
            13: stride_h,
        }
        params |= {4: left, 15: right, 14: top, 16: bottom, 5: int(bias is not None), 6: weight.size}
        if group > 1:
            params[7] = group
        shape = (
            out,
            _steps(height + top + bottom, dilation_h * (kernel_h - 1) + 1, stride_h),
            _steps(width + left + right, dilation_w * (kernel_w - 1) + 1, stride_w),
        )
        weights = [_FLOAT32_WEIGHTS, weight.tobytes(), *([] if bias is None else [bias.tobytes()])]
        kind = 'ConvolutionDepthWise' if group > 1 else 'Convolution'
        self._values[node.outputs[0]] = self._emit(kind, [source], shape, params, weights)

    def _bias(self, node: Node, place: int) -> npt.NDArray[np.float32] | None:
        if len(node.inputs) <= place or not node.inputs[place]:
            return None
        return self._constant(node.inputs[place], f'the bias of a {node.op}').astype(np.float32)

    def gemm(self, node: Node) -> None:
        """Fully connected: Gemm or MatMul with constant weights on one row."""
        source = self._blob(node.inputs[0], 2)
        weight = self._constant(node.inputs[1], f'the weight of a {node.op}').astype(np.float32)
        scales = (node.number('alpha', 1.0), node.number('beta', 1.0), node.number('transA', 0))
        if weight.ndim != 2 or len(source.shape) != 1 or scales != (1.0, 1.0, 0):
            raise EngineError(f'ncnn: this form of {node.op} is not translated')
        rows = np.ascontiguousarray(weight if node.number('transB', 0) else weight.T)
        bias = self._bias(node, 2)
        params: Params = {0: len(rows), 1: int(bias is not None), 2: rows.size}
        weights = [_FLOAT32_WEIGHTS, rows.tobytes(), *([] if bias is None else [bias.tobytes()])]
        self._values[node.outputs[0]] = self._emit('InnerProduct', [source], (len(rows),), params, weights)

    def batch_normalization(self, node: Node) -> None:
        source = self._blob(node.inputs[0], 4)
        slope, bias, mean, variance = (
            self._constant(name, 'batch norm').astype(np.float32) for name in node.inputs[1:5]
        )
        params: Params = {0: source.shape[0], 1: node.number('epsilon', 1e-5)}
        weights = [part.tobytes() for part in (slope, mean, variance, bias)]
        self._values[node.outputs[0]] = self._emit('BatchNorm', [source], source.shape, params, weights)

    def sigmoid(self, node: Node) -> None:
        source = self._blob(node.inputs[0], 4)
        reader = [n for n in self._graph.nodes if node.outputs[0] in n.inputs]
        if len(reader) == 1 and reader[0].op == 'Mul' and set(reader[0].inputs) == {node.inputs[0], node.outputs[0]}:
            self._sigmoid_of[node.outputs[0]] = node.inputs[0]  # becomes a Swish when its product comes
            return
        self._values[node.outputs[0]] = self._emit('Sigmoid', [source], source.shape, {})

    def activation(self, node: Node) -> None:
        source = self._blob(node.inputs[0], 4)
        kind, params = self._activation(node)
        self._values[node.outputs[0]] = self._emit(kind, [source], source.shape, params)

    def _activation(self, node: Node) -> tuple[str, dict[int, Any]]:
        if node.op in _UNARY:
            return 'UnaryOp', {0: _UNARY[node.op]}
        if node.op == 'Clip':
            return 'Clip', {0: self._bound(node, 1, 'min', -math.inf), 1: self._bound(node, 2, 'max', math.inf)}
        if node.op == 'Gelu':
            return 'GELU', {0: int(node.text('approximate', 'none') == 'tanh')}
        if node.op in ('HardSigmoid', 'HardSwish'):
            default = 0.2 if node.op == 'HardSigmoid' else 1 / 6
            return node.op, {0: node.number('alpha', default), 1: node.number('beta', 0.5)}
        slope = {'LeakyRelu': node.number('alpha', 0.01), 'Relu': 0.0}
        return ('ReLU', {0: slope[node.op]}) if node.op in slope else (node.op, {})

    def _bound(self, node: Node, place: int, attribute: str, default: float) -> float:
        """A limit of Clip: an input since opset 11, an attribute before."""
        if len(node.inputs) > place and node.inputs[place]:
            value = float(self._constant(node.inputs[place], 'a limit of Clip'))
        else:
            value = node.number(attribute, default)
        return min(max(value, -3.4e38), 3.4e38)

    def binary(self, node: Node) -> None:
        first, second = node.inputs
        for gate, other in ((second, first), (first, second)):
            if node.op == 'Mul' and self._sigmoid_of.get(gate) == other:
                source = self._values[other]
                self._values[node.outputs[0]] = self._emit('Swish', [source], source.shape, {})
                return
        scalar_left, scalar_right = (self._is_constant(n) and self._graph.constants[n].size == 1 for n in node.inputs)
        if scalar_left or scalar_right:
            source = self._blob(second if scalar_left else first, 4)
            kind = (_SWAPPED if scalar_left else _BINARY)[node.op]
            value = float(self._graph.constants[first if scalar_left else second].reshape(-1)[0])
            self._values[node.outputs[0]] = self._emit('BinaryOp', [source], source.shape, {0: kind, 1: 1, 2: value})
            return
        ranks = [len(self._values[n].shape) + 1 for n in node.inputs if n in self._values]
        if not ranks:
            raise EngineError(f'ncnn: {node.op} of two constants; simplify the network (onnxslim)')
        blobs = [self._blob(name, max(ranks)) for name in node.inputs]
        shapes = [blob.shape for blob in blobs]
        if len(shapes[0]) != len(shapes[1]):
            raise EngineError(f'ncnn: {node.op} of values with {len(shapes[0])} and {len(shapes[1])} axes')
        shape = np.broadcast_shapes(*shapes)
        self._values[node.outputs[0]] = self._emit('BinaryOp', blobs, shape, {0: _BINARY[node.op]})

    def concat(self, node: Node) -> None:
        ranks = [len(self._values[n].shape) + 1 for n in node.inputs if n in self._values]
        blobs = [self._blob(name, max(ranks, default=0)) for name in node.inputs]
        axis = self._axis(int(node.number('axis', 1)), blobs[0].shape)
        shape = list(blobs[0].shape)
        shape[axis] = sum(blob.shape[axis] for blob in blobs)
        self._values[node.outputs[0]] = self._emit('Concat', blobs, tuple(shape), {0: axis})

    def pool(self, node: Node) -> None:
        source = self._blob(node.inputs[0], 4)
        if node.op.startswith('Global'):
            params: Params = {0: int(node.op == 'GlobalAveragePool'), 4: 1}
            pooled = self._emit('Pooling', [source], source.shape[:1], params)
            shape = (source.shape[0], 1, 1)
            self._values[node.outputs[0]] = self._emit('Reshape', [pooled], shape, _extent(shape, (0, 1, 11, 2)))
            return
        kernel_h, kernel_w = node.ints('kernel_shape', ())
        stride_h, stride_w = node.ints('strides', (1, 1))
        top, left, bottom, right = node.ints('pads', (0, 0, 0, 0))
        plain = node.ints('dilations', (1, 1)) == (1, 1) and node.text('auto_pad', 'NOTSET') == 'NOTSET'
        if not plain or len(node.outputs) > 1 or node.number('ceil_mode', 0):
            raise EngineError(f'ncnn: this form of {node.op} is not translated')
        channels, height, width = source.shape
        shape = (
            channels,
            _steps(height + top + bottom, kernel_h, stride_h),
            _steps(width + left + right, kernel_w, stride_w),
        )
        params = {0: int(node.op == 'AveragePool'), 1: kernel_w, 11: kernel_h, 2: stride_w, 12: stride_h, 5: 1}
        params |= {3: left, 14: right, 13: top, 15: bottom, 6: int(node.number('count_include_pad', 0))}
        self._values[node.outputs[0]] = self._emit('Pooling', [source], shape, params)

    def resize(self, node: Node) -> None:
        source = self._blob(node.inputs[0], 4)
        height, width = source.shape[1:]
        if len(node.inputs) > 3 and node.inputs[3]:
            sizes = self._constant(node.inputs[3], 'the size of a Resize')[2:]
        else:
            scales = self._constant(node.inputs[min(2, len(node.inputs) - 1)], 'the scale of a Resize')[2:]
            sizes = np.floor(np.array([height, width]) * scales)
        out_h, out_w = int(sizes[0]), int(sizes[1])
        mode, where = node.text('mode', 'nearest'), node.text('coordinate_transformation_mode', 'half_pixel')
        whole = out_h % height == 0 and out_w % width == 0
        if not ((mode == 'nearest' and whole) or (mode == 'linear' and where in ('half_pixel', 'pytorch_half_pixel'))):
            raise EngineError(f'ncnn: Resize {mode} {where} from {height}×{width} to {out_h}×{out_w} is not translated')
        params: Params = {0: 1 if mode == 'nearest' else 2, 3: out_h, 4: out_w}
        self._values[node.outputs[0]] = self._emit('Interp', [source], (source.shape[0], out_h, out_w), params)

    def reshape(self, node: Node) -> None:
        source = self._blob(node.inputs[0], 0)
        old = (1, *source.shape)
        if node.op == 'Flatten':
            new = [1, math.prod(old)]
        elif node.op == 'Reshape':
            new = [int(n) for n in self._constant(node.inputs[1], 'the shape of a Reshape')]
            new = [old[i] if n == 0 else n for i, n in enumerate(new)]
        else:
            new = self._squeezed(node, list(old))
        if -1 in new:
            new[new.index(-1)] = math.prod(old) // -math.prod(new)
        if new[0] != 1 or math.prod(new) != math.prod(old) or not 2 <= len(new) <= 5:
            raise EngineError(f'ncnn: {node.op} from {old} to {tuple(new)}')
        shape = tuple(new[1:])
        self._values[node.outputs[0]] = self._emit('Reshape', [source], shape, _extent(shape, (0, 1, 11, 2)))

    def _squeezed(self, node: Node, shape: list[int]) -> list[int]:
        """The shape after Squeeze or Unsqueeze, whose axes are an input since opset 13 and an attribute before."""
        given = self._constant(node.inputs[1], 'an axis') if len(node.inputs) > 1 else node.ints('axes', ())
        rank = len(shape) + (len(given) if node.op == 'Unsqueeze' else 0)
        axes = sorted(int(a) % rank for a in given)
        if node.op == 'Squeeze':
            return [size for axis, size in enumerate(shape) if axis not in axes]
        for axis in axes:
            shape.insert(axis, 1)
        return shape

    def slice(self, node: Node) -> None:
        source = self._blob(node.inputs[0], 0)
        given = [self._constant(name, 'a bound of a Slice').tolist() for name in node.inputs[1:]]
        starts, ends = given[0], given[1]
        axes = given[2] if len(given) > 2 else list(range(len(starts)))
        if any(step != 1 for step in (given[3] if len(given) > 3 else ())):
            raise EngineError('ncnn: a Slice with steps is not translated')
        shape = list(source.shape)
        bounds = []
        for start, end, onnx_axis in zip(starts, ends, axes, strict=True):
            axis = self._axis(onnx_axis, source.shape)
            first, last, _ = slice(start, end).indices(shape[axis])
            bounds.append((first, last, axis))
            shape[axis] = last - first
        params: Params = {key: [b[i] for b in bounds] for i, key in enumerate((9, 10, 11))}
        self._values[node.outputs[0]] = self._emit('Crop', [source], tuple(shape), params)

    def split(self, node: Node) -> None:
        source = self._blob(node.inputs[0], 0)
        axis = self._axis(int(node.number('axis', 0)), source.shape)
        if len(node.inputs) > 1 and node.inputs[1]:
            sizes = [int(size) for size in self._constant(node.inputs[1], 'the sizes of a Split')]
        else:
            parts = len(node.outputs)
            sizes = list(node.ints('split', (-(-source.shape[axis] // parts),) * parts))
            sizes[-1] = source.shape[axis] - sum(sizes[:-1])
        blobs = []
        for name, size in zip(node.outputs, sizes, strict=True):
            self._count += 1
            shape = (*source.shape[:axis], size, *source.shape[axis + 1 :])
            self._values[name] = _Blob(f'b{self._count}', shape)
            blobs.append(self._values[name].name)
        self._layers.append(_Layer('Slice', [source.name], blobs, {0: sizes, 1: axis}))

    def softmax(self, node: Node) -> None:
        source = self._blob(node.inputs[0], 0)
        axis = self._axis(int(node.number('axis', -1)), source.shape)
        self._values[node.outputs[0]] = self._emit('Softmax', [source], source.shape, {0: axis, 1: 1})

    def reduce(self, node: Node) -> None:
        source = self._blob(node.inputs[0], 0)
        given = self._constant(node.inputs[1], 'an axis').tolist() if len(node.inputs) > 1 else node.ints('axes', ())
        axes = sorted(self._axis(axis, source.shape) for axis in given)
        keep = int(node.number('keepdims', 1))
        shape = tuple(1 if a in axes else n for a, n in enumerate(source.shape) if keep or a not in axes)
        if not axes or not shape:
            raise EngineError(f'ncnn: {node.op} over everything is not translated')
        params: Params = {0: _REDUCTION[node.op], 1: 0, 3: axes, 4: keep, 5: 1}
        self._values[node.outputs[0]] = self._emit('Reduction', [source], shape, params)

    # What ncnn wants of the layers as a whole

    def _stages(self, outputs: Mapping[str, tuple[int, ...]], apart: bool) -> tuple[Stage, ...]:
        body, tail = self._body_and_tail() if apart else (self._layers, [])
        if not body or not tail or any(INPUT in layer.inputs for layer in tail):
            return (_stage(self._layers, (INPUT,), tuple(outputs)),)
        made = {name for layer in body for name in layer.outputs}
        seam = tuple(sorted({name for layer in tail for name in layer.inputs if name in made}))
        return _stage(body, (INPUT,), seam), _stage(tail, seam, tuple(outputs))

    def _body_and_tail(self) -> tuple[list[_Layer], list[_Layer]]:
        """The layers that lead into a convolution, with it, and those behind the last ones."""
        feeds: set[str] = set()
        body: list[_Layer] = []
        tail: list[_Layer] = []
        for layer in reversed(self._layers):
            if layer.kind in _CONVOLUTIONS or feeds.intersection(layer.outputs):
                feeds.update(layer.inputs)
                body.insert(0, layer)
            else:
                tail.insert(0, layer)
        return body, tail


def _with_splits(layers: Sequence[_Layer], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> list[_Layer]:
    """Copies of the layers with a Split behind every blob that has several readers; being an output counts as one."""
    readers = Counter(name for layer in layers for name in layer.inputs)
    copies = {}
    for name, count in readers.items():
        if count > 1 or name in outputs:
            copies[name] = [f'{name}_{i}' for i in range(count)] + ([name] if name in outputs else [])
    waiting = {name: iter(names) for name, names in copies.items()}
    result = [_Layer('Split', [name], copies[name], {}) for name in inputs if name in copies]
    for layer in layers:
        read = [next(waiting[name]) if name in waiting else name for name in layer.inputs]
        renamed = {name: f'{name}_all' if name in outputs and name in copies else name for name in layer.outputs}
        result.append(replace(layer, inputs=read, outputs=list(renamed.values())))
        result += [_Layer('Split', [renamed[name]], copies[name], {}) for name in layer.outputs if name in copies]
    return result


def _stage(layers: Sequence[_Layer], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Stage:
    layers = [_Layer('Input', [], [name], {}) for name in inputs] + _with_splits(layers, inputs, outputs)
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = [str(_MAGIC), f'{len(layers)} {blobs}']
    for index, layer in enumerate(layers):
        params = ' '.join(_parameter(key, value) for key, value in layer.params.items())
        names = ' '.join((*layer.inputs, *layer.outputs))
        lines.append(f'{layer.kind} l{index} {len(layer.inputs)} {len(layer.outputs)} {names} {params}'.rstrip())
    weights = b''.join(part for layer in layers for part in layer.weights)
    return Stage('\n'.join(lines) + '\n', weights, inputs, outputs)


def _parameter(key: int, value: int | float | Sequence[int]) -> str:
    if isinstance(value, Sequence):
        return f'{-23300 - key}={len(value)},{",".join(map(str, value))}'
    return f'{key}={value:d}' if isinstance(value, int) else f'{key}={value:.9e}'


def _extent(shape: tuple[int, ...], keys: tuple[int, int, int, int]) -> Params:
    """Sizes as ncnn's parameters w, h, d, c: the last axis is w, the first c where there are three or more."""
    w, h, d, c = keys
    names = {1: (w,), 2: (h, w), 3: (c, h, w), 4: (c, d, h, w)}
    if len(shape) not in names:
        raise EngineError(f'ncnn: a value of {len(shape)} axes beside the batch')
    return dict(zip(names[len(shape)], shape, strict=True))


def _steps(size: int, kernel: int, stride: int) -> int:
    return (size - kernel) // stride + 1


_TRANSLATIONS: Mapping[str, Callable[[_Converter, Node], None]] = {
    'Cast': _Converter.same,
    'Dropout': _Converter.same,
    'Identity': _Converter.identity,
    'Transpose': _Converter.transpose,
    'Conv': _Converter.convolution,
    'Gemm': _Converter.gemm,
    'MatMul': _Converter.gemm,
    'BatchNormalization': _Converter.batch_normalization,
    'Sigmoid': _Converter.sigmoid,
    **dict.fromkeys(_UNARY, _Converter.activation),
    **dict.fromkeys(
        ('Relu', 'LeakyRelu', 'Clip', 'Gelu', 'HardSigmoid', 'HardSwish', 'Mish', 'Softplus', 'Erf'),
        _Converter.activation,
    ),
    **dict.fromkeys(_BINARY, _Converter.binary),
    'Concat': _Converter.concat,
    **dict.fromkeys(('MaxPool', 'AveragePool', 'GlobalAveragePool', 'GlobalMaxPool'), _Converter.pool),
    'Resize': _Converter.resize,
    **dict.fromkeys(('Reshape', 'Flatten', 'Squeeze', 'Unsqueeze'), _Converter.reshape),
    'Slice': _Converter.slice,
    'Split': _Converter.split,
    'Softmax': _Converter.softmax,
    **dict.fromkeys(_REDUCTION, _Converter.reduce),
}
