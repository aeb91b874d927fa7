"""An ncnn network as text and weights: layers, their blobs, and the copies of blobs that several layers read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from kd_perception.errors import EngineError

Params = dict[int, int | float | Sequence[int]]
"""A layer's parameters: number → value, the numbers those of ncnn's operators.md."""

_MAGIC = 7767517
INPUT = 'input'
"""Name of the input blob."""
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


@dataclass(frozen=True)
class Blob:
    """What flows between layers.

    Attributes:
        name: of its own.
        shape: without the batch axis.
        listed: the ONNX value is a list of rows (rows, columns) and has no batch axis.
    """

    name: str
    shape: tuple[int, ...]
    listed: bool = False


@dataclass
class Layer:
    """One layer: its kind in ncnn, the blobs that it reads and makes, and what it holds."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    params: Params
    weights: list[bytes] = field(default_factory=list)


def write_stages(layers: Sequence[Layer], outputs: Mapping[str, tuple[int, ...]], apart: bool) -> tuple[Stage, ...]:
    """The layers as one network, or with `apart` as the part up to the last convolutions and the part behind them."""
    body, tail = _body_and_tail(layers) if apart else (list(layers), [])
    if not body or not tail or any(INPUT in layer.inputs for layer in tail):
        return (_write_stage(layers, (INPUT,), tuple(outputs)),)
    made = {name for layer in body for name in layer.outputs}
    seam = tuple(sorted({name for layer in tail for name in layer.inputs if name in made}))
    return _write_stage(body, (INPUT,), seam), _write_stage(tail, seam, tuple(outputs))


def _body_and_tail(layers: Sequence[Layer]) -> tuple[list[Layer], list[Layer]]:
    """The layers that lead into a convolution, with it, and those behind the last ones."""
    feeds: set[str] = set()
    body: list[Layer] = []
    tail: list[Layer] = []
    for layer in reversed(layers):
        if layer.kind in _CONVOLUTIONS or feeds.intersection(layer.outputs):
            feeds.update(layer.inputs)
            body.insert(0, layer)
        else:
            tail.insert(0, layer)
    return body, tail


def _write_stage(layers: Sequence[Layer], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Stage:
    layers = [Layer('Input', [], [name], {}) for name in inputs] + _with_splits(layers, inputs, outputs)
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = [str(_MAGIC), f'{len(layers)} {blobs}']
    for index, layer in enumerate(layers):
        params = ' '.join(_parameter(key, value) for key, value in layer.params.items())
        names = ' '.join((*layer.inputs, *layer.outputs))
        lines.append(f'{layer.kind} l{index} {len(layer.inputs)} {len(layer.outputs)} {names} {params}'.rstrip())
    weights = b''.join(part for layer in layers for part in layer.weights)
    return Stage('\n'.join(lines) + '\n', weights, inputs, outputs)


def _with_splits(layers: Sequence[Layer], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> list[Layer]:
    """Copies of the layers with a Split behind every blob that has several readers; being an output counts as one."""
    readers = Counter(name for layer in layers for name in layer.inputs)
    copies = {}
    for name, count in readers.items():
        if count > 1 or name in outputs:
            copies[name] = [f'{name}_{i}' for i in range(count)] + ([name] if name in outputs else [])
    waiting = {name: iter(names) for name, names in copies.items()}
    result = [Layer('Split', [name], copies[name], {}) for name in inputs if name in copies]
    for layer in layers:
        read = [next(waiting[name]) if name in waiting else name for name in layer.inputs]
        renamed = {name: f'{name}_all' if name in outputs and name in copies else name for name in layer.outputs}
        result.append(replace(layer, inputs=read, outputs=list(renamed.values())))
        result += [Layer('Split', [renamed[name]], copies[name], {}) for name in layer.outputs if name in copies]
    return result


def _parameter(key: int, value: int | float | Sequence[int]) -> str:
    if isinstance(value, Sequence):
        return f'{-23300 - key}={len(value)},{",".join(map(str, value))}'
    return f'{key}={value:d}' if isinstance(value, int) else f'{key}={value:.9e}'


def extent(shape: tuple[int, ...], keys: tuple[int, int, int, int]) -> Params:
    """Sizes as ncnn's parameters w, h, d, c: the last axis is w, the first c where there are three or more."""
    w, h, d, c = keys
    names = {1: (w,), 2: (h, w), 3: (c, h, w), 4: (c, d, h, w)}
    if len(shape) not in names:
        raise EngineError(f'ncnn: a value of {len(shape)} axes beside the batch')
    return dict(zip(names[len(shape)], shape, strict=True))
