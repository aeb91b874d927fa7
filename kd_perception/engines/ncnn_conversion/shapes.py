"""Operations that move values and compute nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from kd_perception.bundles.onnx_graph import Node
from kd_perception.engines.ncnn_conversion.network import INPUT, Blob, Layer, Params, extent
from kd_perception.engines.ncnn_conversion.walk import Translation, Walk
from kd_perception.errors import EngineError

_PERMUTE_3D = {'whc': 0, 'hwc': 1, 'wch': 2, 'cwh': 3, 'hcw': 4, 'chw': 5}


def same(walk: Walk, node: Node) -> None:
    """Cast, Identity, Dropout: ncnn computes in float throughout."""
    if walk.is_constant(node.inputs[0]):
        raise EngineError(f'ncnn: {node.op} of a constant; simplify the network (onnxslim)')
    walk.values[node.outputs[0]] = walk.values[node.inputs[0]]


def identity(walk: Walk, node: Node) -> None:
    name = node.inputs[0]
    rank = walk.graph.constants[name].ndim if walk.is_constant(name) else 0
    walk.values[node.outputs[0]] = walk.blob(name, rank) if rank else walk.values[name]


def transpose(walk: Walk, node: Node) -> None:
    source = walk.values[node.inputs[0]]
    perm = node.ints('perm', tuple(range(len(source.shape), -1, -1)))
    if walk.channels_last and source.name == INPUT and not walk.planar and perm == (0, 3, 1, 2):
        height, width, channels = source.shape
        walk.planar = True
        # The name may be read by casts only, which have run: every later reader takes the transposed one.
        walk.values[node.outputs[0]] = Blob(INPUT, (channels, height, width))
        return
    source = walk.blob(node.inputs[0], len(perm))
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
    walk.values[node.outputs[0]] = walk.emit('Permute', [source], shape, {0: order}) if order else source


def concat(walk: Walk, node: Node) -> None:
    ranks = [len(walk.values[n].shape) + 1 for n in node.inputs if n in walk.values]
    blobs = [walk.blob(name, max(ranks, default=0)) for name in node.inputs]
    axis = walk.axis(int(node.number('axis', 1)), blobs[0].shape)
    shape = list(blobs[0].shape)
    shape[axis] = sum(blob.shape[axis] for blob in blobs)
    walk.values[node.outputs[0]] = walk.emit('Concat', blobs, tuple(shape), {0: axis})


def reshape(walk: Walk, node: Node) -> None:
    source = walk.blob(node.inputs[0], 0)
    old = source.shape if source.listed else (1, *source.shape)
    if node.op == 'Flatten':
        new = [1, math.prod(old)]
    elif node.op == 'Reshape':
        new = [int(n) for n in walk.constant(node.inputs[1], 'the shape of a Reshape')]
        new = [old[i] if n == 0 else n for i, n in enumerate(new)]
    else:
        new = _squeezed(walk, node, list(old))
    if -1 in new:
        new[new.index(-1)] = math.prod(old) // -math.prod(new)
    listed = len(new) == 2 and new[0] != 1
    if not (listed or new[0] == 1) or math.prod(new) != math.prod(old) or not 2 <= len(new) <= 5:
        raise EngineError(f'ncnn: {node.op} from {old} to {tuple(new)}')
    shape = tuple(new if listed else new[1:])
    reshaped = walk.emit('Reshape', [source], shape, extent(shape, (0, 1, 11, 2)))
    walk.values[node.outputs[0]] = replace(reshaped, listed=listed)


def _squeezed(walk: Walk, node: Node, shape: list[int]) -> list[int]:
    """The shape after Squeeze or Unsqueeze, whose axes are an input since opset 13 and an attribute before."""
    given = walk.constant(node.inputs[1], 'an axis') if len(node.inputs) > 1 else node.ints('axes', ())
    rank = len(shape) + (len(given) if node.op == 'Unsqueeze' else 0)
    axes = sorted(int(a) % rank for a in given)
    if node.op == 'Squeeze':
        return [size for axis, size in enumerate(shape) if axis not in axes]
    for axis in axes:
        shape.insert(axis, 1)
    return shape


def crop(walk: Walk, node: Node) -> None:
    source = walk.blob(node.inputs[0], 0)
    given = [walk.constant(name, 'a bound of a Slice').tolist() for name in node.inputs[1:]]
    starts, ends = given[0], given[1]
    axes = given[2] if len(given) > 2 else list(range(len(starts)))
    if any(step != 1 for step in (given[3] if len(given) > 3 else ())):
        raise EngineError('ncnn: a Slice with steps is not translated')
    shape = list(source.shape)
    bounds = []
    for start, end, onnx_axis in zip(starts, ends, axes, strict=True):
        axis = walk.axis(onnx_axis, source.shape)
        first, last, _ = slice(start, end).indices(shape[axis])
        bounds.append((first, last, axis))
        shape[axis] = last - first
    params: Params = {key: [b[i] for b in bounds] for i, key in enumerate((9, 10, 11))}
    walk.values[node.outputs[0]] = walk.emit('Crop', [source], tuple(shape), params)


def split_up(walk: Walk, node: Node) -> None:
    source = walk.blob(node.inputs[0], 0)
    walk.refuse_lists(node.op, [source])
    axis = walk.axis(int(node.number('axis', 0)), source.shape)
    if len(node.inputs) > 1 and node.inputs[1]:
        sizes = [int(size) for size in walk.constant(node.inputs[1], 'the sizes of a Split')]
    else:
        parts = len(node.outputs)
        sizes = list(node.ints('split', (-(-source.shape[axis] // parts),) * parts))
        sizes[-1] = source.shape[axis] - sum(sizes[:-1])
    blobs = []
    for name, size in zip(node.outputs, sizes, strict=True):
        walk.values[name] = walk.new_blob((*source.shape[:axis], size, *source.shape[axis + 1 :]))
        blobs.append(walk.values[name].name)
    walk.layers.append(Layer('Slice', [source.name], blobs, {0: sizes, 1: axis}))


TRANSLATIONS: Mapping[str, Translation] = {
    'Cast': same,
    'Dropout': same,
    'Identity': identity,
    'Transpose': transpose,
    'Concat': concat,
    **dict.fromkeys(('Reshape', 'Flatten', 'Squeeze', 'Unsqueeze'), reshape),
    'Slice': crop,
    'Split': split_up,
}
