"""Darknet's `.cfg` and `.weights` → ONNX in our layout `boxes_scores`, without Darknet, OpenCV or the library `onnx`.

Batch normalization is folded into the convolutions, and the yolo layers are decoded: YOLOv3, YOLOv4 and their small kin, such as
Yolo-Fastest. What Darknet's configuration holds beyond these layers is refused with its line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kd_perception.bundles.foreign.family import boxes_scores
from kd_perception.bundles.onnx_edit import GraphEditor, new_file
from kd_perception.errors import BundleError

FloatArray = npt.NDArray[np.float32]

SUFFIX = '.cfg'
MAX_CFG_BYTES = 1 << 20
_MAX_SIDE, _MAX_CHANNELS, _MAX_KERNEL = 8192, 65536, 31
_MAX_VALUES = 1 << 27
"""Of one map: half a gigabyte."""
_OPSET = 13
_EPSILON = 1e-5
_LEAK = 0.1
_ANCHOR_PARTS = 5
"""Box and objectness, before the classes."""


@dataclass(frozen=True)
class Section:
    """One part of the configuration: `[kind]` and its settings."""

    kind: str
    line: int
    settings: Mapping[str, str]

    def number(self, name: str, usual: int, least: int = 0, most: int = _MAX_CHANNELS) -> int:
        """A whole number within limits."""
        value = self.real(name, usual, least, most)
        if value != int(value):
            raise self.refused(f'{name}={value} is not a whole number')
        return int(value)

    def real(self, name: str, usual: float, least: float = -1000.0, most: float = 1000.0) -> float:
        """A number within limits."""
        try:
            value = float(self.settings[name]) if name in self.settings else usual
        except ValueError as error:
            raise self.refused(f'{name}={self.settings[name][:30]!r} is no number') from error
        if not least <= value <= most:
            raise self.refused(f'{name}={value} is not from {least:g} to {most:g}')
        return value

    def numbers(self, name: str) -> list[int]:
        """Whole numbers with commas between them."""
        try:
            return [int(float(part)) for part in self.settings.get(name, '').split(',') if part.strip()]
        except (ValueError, OverflowError) as error:
            raise self.refused(f'{name} is no list of numbers') from error

    def refused(self, why: str) -> BundleError:
        """The error to raise about this part."""
        return BundleError(f'line {self.line}, [{self.kind[:30]}]: {why}')


@dataclass(frozen=True)
class _Map:
    """What a layer gives: its tensor, and channels, height, width."""

    name: str
    shape: tuple[int, int, int]


@dataclass
class _Heads:
    boxes: list[str] = field(default_factory=list)
    scores: list[str] = field(default_factory=list)
    rows: int = 0
    classes: int = 0


def convert(configuration: bytes, weights: bytes) -> bytes:
    """The network as an ONNX file.

    Raises:
        BundleError: something that is not translated, or weights of another network.
    """
    network, *layers = read_sections(configuration)
    if network.kind not in ('net', 'network') or not layers:
        raise network.refused('a Darknet configuration begins with [net], and layers follow')
    channels = network.number('channels', 3)
    if channels != 3:
        raise network.refused(f'it takes {channels} channels, and pictures here have three')
    width, height = (network.number(side, 416, 32, _MAX_SIDE) for side in ('width', 'height'))
    return _Converter(_Weights(weights), width, height).run(layers)


def read_sections(content: bytes) -> list[Section]:
    """The parts of a configuration in their order.

    Raises:
        BundleError: it is none.
    """
    sections: list[Section] = []
    settings: dict[str, str] = {}
    for number, line in enumerate(content.decode('utf-8', 'replace').splitlines(), 1):
        text = line.split('#')[0].split(';')[0].strip()
        if text.startswith('[') and text.endswith(']'):
            settings = {}
            sections.append(Section(text[1:-1].strip().lower(), number, settings))
        elif text and '=' in text and sections:
            key, _, value = text.partition('=')
            settings[key.strip()] = value.strip()
        elif text:
            raise BundleError(
                f'line {number}: {text[:40]!r} is neither [section] nor key=value of a Darknet configuration'
            )
    if not sections:
        raise BundleError('it holds no [section]: no Darknet configuration')
    return sections


class _Weights:
    """The values of a `.weights` file, one after the other."""

    def __init__(self, content: bytes) -> None:
        if len(content) < 16:
            raise BundleError('the weights are too short to be those of Darknet')
        major, minor = np.frombuffer(content, '<i4', 2)
        start = 20 if int(major) * 10 + int(minor) >= 2 else 16
        self._values = np.frombuffer(content[start : start + (len(content) - start) // 4 * 4], '<f4')
        self._position = 0

    def take(self, *shape: int) -> FloatArray:
        count = int(np.prod(shape))
        values = self._values[self._position : self._position + count]
        if len(values) < count:
            raise BundleError(
                f'the weights hold {len(self._values)} values, and the configuration takes more: they are of another network'
            )
        self._position += count
        return values.reshape(shape).astype(np.float32)

    def check_end(self) -> None:
        if self._position != len(self._values):
            raise BundleError(
                f'the weights hold {len(self._values)} values, and the configuration takes {self._position}: they are of another '
                'network'
            )


class _Converter:
    """One walk over the layers."""

    def __init__(self, weights: _Weights, width: int, height: int) -> None:
        self._weights = weights
        self._size = width, height
        self._editor = GraphEditor(
            new_file('image', (1, 3, height, width), _OPSET, author='Darknet', description='converted from Darknet'),
            _OPSET,
        )
        self._maps: list[_Map] = []
        self._heads = _Heads()
        self._last = _Map('image', (3, height, width))

    def run(self, layers: list[Section]) -> bytes:
        kinds: Mapping[str, Callable[[Section], _Map]] = {
            'convolutional': self._convolution,
            'shortcut': self._shortcut,
            'route': self._route,
            'maxpool': self._pool,
            'upsample': self._upsample,
            'dropout': lambda section: self._last,
            'yolo': self._yolo,
        }
        for layer in layers:
            if layer.kind not in kinds:
                raise layer.refused(f'a layer that is not translated; known are {", ".join(kinds)}')
            self._last = kinds[layer.kind](layer)
            if math.prod(self._last.shape) > _MAX_VALUES:
                raise layer.refused(f'a map of {self._last.shape} is larger than any detector has')
            self._maps.append(self._last)
        self._weights.check_end()
        heads = self._heads
        if not heads.boxes:
            raise BundleError('it has no [yolo] layer: no detector, or of a version before YOLOv3')
        boxes = self._editor.add('Concat', heads.boxes, axis=1)
        scores = self._editor.add('Concat', heads.scores, axis=1)
        return self._editor.finish(boxes_scores(boxes, scores, heads.rows, heads.classes))

    def _convolution(self, layer: Section) -> _Map:
        channels, height, width = self._last.shape
        filters, side = layer.number('filters', 1, 1), layer.number('size', 1, 1, _MAX_KERNEL)
        stride, dilation = layer.number('stride', 1, 1, 8), layer.number('dilation', 1, 1, 8)
        groups = layer.number('groups', 1, 1)
        padding = side // 2 * dilation if layer.number('pad', 0) else layer.number('padding', 0, 0, _MAX_KERNEL)
        if channels % groups or filters % groups:
            raise layer.refused(f'{groups} groups do not divide {channels} channels and {filters} filters')
        bias, kernel = self._folded(layer, filters, (filters, channels // groups, side, side))
        inputs = [self._last.name, self._editor.constant(kernel), self._editor.constant(bias)]
        name = self._editor.add(
            'Conv',
            inputs,
            kernel_shape=[side] * 2,
            strides=[stride] * 2,
            pads=[padding] * 4,
            dilations=[dilation] * 2,
            group=groups,
        )
        reach = dilation * (side - 1) + 1
        sides = [(length + 2 * padding - reach) // stride + 1 for length in (height, width)]
        if min(sides) < 1:
            raise layer.refused(f'nothing is left of a map of {width}x{height}')
        return _Map(self._activated(layer, name), (filters, sides[0], sides[1]))

    def _folded(self, layer: Section, filters: int, shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
        """Bias and kernel, batch normalization in them."""
        bias = self._weights.take(filters)
        if not layer.number('batch_normalize', 0):
            return bias, self._weights.take(*shape)
        scale, mean, variance = (self._weights.take(filters) for _ in range(3))
        kernel = self._weights.take(*shape)
        with np.errstate(invalid='ignore', divide='ignore'):
            factor = scale / np.sqrt(variance + _EPSILON)
            folded = bias - mean * factor, kernel * factor[:, None, None, None]
        if not all(np.isfinite(part).all() for part in folded):
            raise layer.refused('its weights are not finite: damaged, or of another network')
        return folded

    def _activated(self, layer: Section, name: str) -> str:
        kind = layer.settings.get('activation', 'logistic' if layer.kind == 'convolutional' else 'linear')
        add = self._editor.add
        if kind == 'leaky':
            return add('LeakyRelu', [name], alpha=_LEAK)
        if kind == 'relu6':
            return add('Clip', [name, self._editor.constant(0), self._editor.constant(6)])
        if kind == 'swish':
            return add('Mul', [name, add('Sigmoid', [name])])
        if kind == 'mish':
            return add('Mul', [name, add('Tanh', [add('Softplus', [name])])])
        plain = {'linear': None, 'relu': 'Relu', 'logistic': 'Sigmoid', 'tanh': 'Tanh'}
        if kind not in plain:
            raise layer.refused(f'the activation {kind[:30]!r} is not translated')
        operation = plain[kind]
        return add(operation, [name]) if operation else name

    def _of(self, layer: Section, place: int) -> _Map:
        """A layer by its number, or counted backwards."""
        number = place if place >= 0 else len(self._maps) + place
        if not 0 <= number < len(self._maps):
            raise layer.refused(f'there is no layer {place} before it')
        return self._maps[number]

    def _shortcut(self, layer: Section) -> _Map:
        result = self._last
        for place in layer.numbers('from'):
            other = self._of(layer, place)
            if other.shape != result.shape:
                raise layer.refused(f'maps {other.shape} and {result.shape} cannot be added')
            result = _Map(self._editor.add('Add', [result.name, other.name]), result.shape)
        return _Map(self._activated(layer, result.name), result.shape)

    def _route(self, layer: Section) -> _Map:
        parts = [self._of(layer, place) for place in layer.numbers('layers')]
        if not parts or len({part.shape[1:] for part in parts}) > 1:
            raise layer.refused('layers of different sizes cannot be joined')
        groups, group = layer.number('groups', 1, 1), layer.number('group_id', 0)
        if group >= groups:
            raise layer.refused(f'group_id {group} of {groups} groups')
        names, channels = [], 0
        for part in parts:
            share = part.shape[0] // groups
            start = share * group
            names.append(part.name if groups == 1 else self._editor.columns(part.name, start, start + share, axis=1))
            channels += share
        name = names[0] if len(names) == 1 else self._editor.add('Concat', names, axis=1)
        return _Map(name, (channels, *parts[0].shape[1:]))

    def _pool(self, layer: Section) -> _Map:
        stride = layer.number('stride', 1, 1, 8)
        side = layer.number('size', stride, 1, _MAX_KERNEL)
        padding = layer.number('padding', side - 1, 0, _MAX_KERNEL)
        channels, *sides = self._last.shape
        results = [(length + padding - side) // stride + 1 for length in sides]
        before = padding // 2
        after = [max((r - 1) * stride + side - length - before, 0) for r, length in zip(results, sides, strict=True)]
        pads = [before, before, *after]
        name = self._editor.add('MaxPool', [self._last.name], kernel_shape=[side] * 2, strides=[stride] * 2, pads=pads)
        return _Map(name, (channels, results[0], results[1]))

    def _upsample(self, layer: Section) -> _Map:
        channels, height, width = self._last.shape
        factor = layer.number('stride', 2, 1, 8)
        scales = self._editor.constant([1, 1, factor, factor])
        name = self._editor.add(
            'Resize',
            [self._last.name, '', scales],
            mode='nearest',
            coordinate_transformation_mode='asymmetric',
            nearest_mode='floor',
        )
        return _Map(name, (channels, height * factor, width * factor))

    def _yolo(self, layer: Section) -> _Map:
        """Decode a head: rows by cell, then by anchor."""
        channels, rows, columns = self._last.shape
        classes, sizes = layer.number('classes', 80, 1), layer.numbers('anchors')
        mask = layer.numbers('mask') or list(range(len(sizes) // 2))
        if not mask or max(mask) * 2 + 1 >= len(sizes) or min(mask) < 0:
            raise layer.refused(f'mask {mask} names anchors that are not there')
        parts = _ANCHOR_PARTS + classes
        if channels != len(mask) * parts or self._heads.classes not in (0, classes):
            raise layer.refused(f'{channels} channels do not hold {len(mask)} anchors of {classes} classes')
        editor, cells = self._editor, rows * columns
        flat = editor.reshape(self._last.name, (1, channels, cells))
        table = editor.reshape(editor.add('Transpose', [flat], perm=[0, 2, 1]), (1, len(mask) * cells, parts))
        anchors = np.array(sizes, np.float32).reshape(-1, 2)[mask]
        self._heads.boxes.append(self._boxes(layer, table, anchors, (columns, rows)))
        certain, found = editor.columns(table, 4, 5), editor.columns(table, 5, parts)
        if not layer.number('new_coords', 0):
            certain, found = editor.add('Sigmoid', [certain]), editor.add('Sigmoid', [found])
        self._heads.scores.append(editor.add('Mul', [found, certain]))
        self._heads.rows += len(mask) * cells
        self._heads.classes = classes
        return self._last

    def _boxes(self, layer: Section, table: str, anchors: FloatArray, cells: tuple[int, int]) -> str:
        """Corners (1, N, 4) in pixels of the input."""
        editor = self._editor
        scale = layer.real('scale_x_y', 1.0)
        steps = np.array(self._size, np.float32) / cells
        y, x = np.meshgrid(np.arange(cells[1]), np.arange(cells[0]), indexing='ij')
        corners = np.stack([x.ravel(), y.ravel()], axis=1) - (scale - 1) / 2
        places = np.repeat(corners * steps, len(anchors), axis=0)[None]
        reach = np.tile(anchors, (cells[0] * cells[1], 1))[None] / 2
        offsets, sides = editor.columns(table, 0, 2), editor.columns(table, 2, 4)
        if layer.number('new_coords', 0):
            doubled = editor.add('Mul', [sides, editor.constant([2.0])])
            halves = editor.add('Mul', [editor.add('Mul', [doubled, doubled]), editor.constant(reach)])
        else:
            offsets = editor.add('Sigmoid', [offsets])
            halves = editor.add('Mul', [editor.add('Exp', [sides]), editor.constant(reach)])
        centers = editor.add(
            'Add', [editor.add('Mul', [offsets, editor.constant(steps * scale)]), editor.constant(places)]
        )
        ends = [editor.add(operation, [centers, halves]) for operation in ('Sub', 'Add')]
        return editor.add('Concat', ends, axis=2)
