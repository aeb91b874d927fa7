"""Operations over pictures: convolutions, pooling, resizing, and the fully connected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kd_perception.bundles.onnx_graph import Node
from kd_perception.engines.ncnn_conversion.network import Params, extent
from kd_perception.engines.ncnn_conversion.walk import Translation, Walk
from kd_perception.errors import EngineError

_FLOAT32_WEIGHTS = np.zeros(1, np.uint32).tobytes()


def convolution(walk: Walk, node: Node) -> None:
    source = walk.blob(node.inputs[0], 4)
    weight = walk.constant(node.inputs[1], 'a convolution’s weight').astype(np.float32)
    if weight.ndim != 4 or node.text('auto_pad', 'NOTSET') != 'NOTSET':
        raise EngineError('ncnn: only convolutions over images with explicit padding are translated')
    group = int(node.number('group', 1))
    (stride_h, stride_w), (dilation_h, dilation_w) = node.ints('strides', (1, 1)), node.ints('dilations', (1, 1))
    top, left, bottom, right = node.ints('pads', (0, 0, 0, 0))
    out, _, kernel_h, kernel_w = weight.shape
    _, height, width = source.shape
    bias = _bias(walk, node, 2)
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
    walk.values[node.outputs[0]] = walk.emit(kind, [source], shape, params, weights)


def _bias(walk: Walk, node: Node, place: int) -> npt.NDArray[np.float32] | None:
    if len(node.inputs) <= place or not node.inputs[place]:
        return None
    return walk.constant(node.inputs[place], f'the bias of a {node.op}').astype(np.float32)


def gemm(walk: Walk, node: Node) -> None:
    """Fully connected: Gemm or MatMul with constant weights, on one row or a list of them."""
    source = walk.blob(node.inputs[0], 2)
    weight = walk.constant(node.inputs[1], f'the weight of a {node.op}').astype(np.float32)
    scales = (node.number('alpha', 1.0), node.number('beta', 1.0), node.number('transA', 0))
    if weight.ndim != 2 or not (len(source.shape) == 1 or source.listed) or scales != (1.0, 1.0, 0):
        raise EngineError(f'ncnn: this form of {node.op} is not translated')
    rows = np.ascontiguousarray(weight if node.number('transB', 0) else weight.T)
    bias = _bias(walk, node, 2)
    params: Params = {0: len(rows), 1: int(bias is not None), 2: rows.size}
    weights = [_FLOAT32_WEIGHTS, rows.tobytes(), *([] if bias is None else [bias.tobytes()])]
    product = walk.emit('InnerProduct', [source], (*source.shape[:-1], len(rows)), params, weights)
    walk.values[node.outputs[0]] = replace(product, listed=source.listed)


def batch_normalization(walk: Walk, node: Node) -> None:
    source = walk.blob(node.inputs[0], 4)
    slope, bias, mean, variance = (walk.constant(name, 'batch norm').astype(np.float32) for name in node.inputs[1:5])
    params: Params = {0: source.shape[0], 1: node.number('epsilon', 1e-5)}
    weights = [part.tobytes() for part in (slope, mean, variance, bias)]
    walk.values[node.outputs[0]] = walk.emit('BatchNorm', [source], source.shape, params, weights)


def pool(walk: Walk, node: Node) -> None:
    source = walk.blob(node.inputs[0], 4)
    if node.op.startswith('Global'):
        params: Params = {0: int(node.op == 'GlobalAveragePool'), 4: 1}
        pooled = walk.emit('Pooling', [source], source.shape[:1], params)
        shape = (source.shape[0], 1, 1)
        walk.values[node.outputs[0]] = walk.emit('Reshape', [pooled], shape, extent(shape, (0, 1, 11, 2)))
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
    walk.values[node.outputs[0]] = walk.emit('Pooling', [source], shape, params)


def resize(walk: Walk, node: Node) -> None:
    source = walk.blob(node.inputs[0], 4)
    height, width = source.shape[1:]
    if len(node.inputs) > 3 and node.inputs[3]:
        sizes = walk.constant(node.inputs[3], 'the size of a Resize')[2:]
    else:
        scales = walk.constant(node.inputs[min(2, len(node.inputs) - 1)], 'the scale of a Resize')[2:]
        sizes = np.floor(np.array([height, width]) * scales)
    out_h, out_w = int(sizes[0]), int(sizes[1])
    mode, where = node.text('mode', 'nearest'), node.text('coordinate_transformation_mode', 'half_pixel')
    whole = out_h % height == 0 and out_w % width == 0
    if not ((mode == 'nearest' and whole) or (mode == 'linear' and where in ('half_pixel', 'pytorch_half_pixel'))):
        raise EngineError(f'ncnn: Resize {mode} {where} from {height}×{width} to {out_h}×{out_w} is not translated')
    params: Params = {0: 1 if mode == 'nearest' else 2, 3: out_h, 4: out_w}
    walk.values[node.outputs[0]] = walk.emit('Interp', [source], (source.shape[0], out_h, out_w), params)


def _steps(size: int, kernel: int, stride: int) -> int:
    return (size - kernel) // stride + 1


TRANSLATIONS: Mapping[str, Translation] = {
    'Conv': convolution,
    'Gemm': gemm,
    'MatMul': gemm,
    'BatchNormalization': batch_normalization,
    **dict.fromkeys(('MaxPool', 'AveragePool', 'GlobalAveragePool', 'GlobalMaxPool'), pool),
    'Resize': resize,
}
