"""What a foreign network takes: which input is the picture, of what size and type, and what becomes of the other inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kd_perception.bundles.foreign.metadata import Stated
from kd_perception.bundles.foreign.options import ImportOptions
from kd_perception.bundles.onnx_edit import GraphEditor
from kd_perception.bundles.onnx_outline import Outline, Port
from kd_perception.detection.network import InputSpec
from kd_perception.errors import BundleError

FLOAT, UINT8, FLOAT16, DOUBLE = 1, 2, 10, 11
_SMALLEST, _LARGEST = 16, 8192
_CHANNELS = 8
"""An axis of fewer places is that of the channels, whatever their number."""

_SizeInput = Callable[[int, int], npt.NDArray[np.generic]]
_SIZE_INPUTS: Mapping[str, _SizeInput] = {
    'orig_target_sizes': lambda width, height: np.array([[width, height]], np.int64),  # RT-DETR, D-FINE, DEIM
    'im_shape': lambda width, height: np.array([[height, width]], np.float32),  # PaddleDetection
    'scale_factor': lambda width, height: np.ones((1, 2), np.float32),
}
"""Inputs that hold the picture's size: it is always that of the network here."""


@dataclass(frozen=True)
class ImageInput:
    """The picture's input.

    Attributes:
        port: as the file has it.
        width, height: in pixels.
        layout: `nchw` or `nhwc`.
        sizes: other inputs, which become constants.
    """

    port: Port
    width: int
    height: int
    layout: str
    sizes: tuple[Port, ...] = ()

    @property
    def dtype(self) -> str:
        """What the bundle's network takes: half precision and double are cast in the graph."""
        return 'uint8' if self.port.kind == UINT8 else 'float32'

    def spec(self, options: ImportOptions, usual: Mapping[str, Any]) -> InputSpec:
        """The bundle's input section; `usual` is what the family is trained with, where the user says nothing."""
        spec: dict[str, Any] = {'color': 'rgb', **usual}
        spec |= {key: value for key, value in (('color', options.color), ('resize', options.resize)) if value}
        if self.dtype == 'uint8':
            spec = {key: value for key, value in spec.items() if key not in ('mean', 'std')}
        else:
            spec.setdefault('std', (255.0,) * 3)
            if options.scale is not None:
                spec |= {'mean': (0.0,) * 3, 'std': (options.scale,) * 3}
            spec |= {key: value for key, value in (('mean', options.mean), ('std', options.std)) if value is not None}
        return InputSpec(self.width, self.height, dtype=self.dtype, layout=self.layout, **spec)

    def adapt(self, editor: GraphEditor) -> bool:
        """Make the file take one picture of float32 or uint8; returns whether anything had to be changed."""
        for port in self.sizes:
            value = _SIZE_INPUTS[port.name](self.width, self.height)
            editor.fix_input(port.name, value)
        if self.port.kind in (FLOAT16, DOUBLE):
            editor.replace_input(self.port, np.float32)
        return bool(self.sizes) or self.port.kind in (FLOAT16, DOUBLE)


def image_input(outline: Outline, stated: Stated, options: ImportOptions) -> ImageInput:
    """Find the picture among the inputs.

    Raises:
        BundleError: there is none that can be filled here; says why, and what to do.
    """
    pictures = [port for port in outline.inputs if port.name not in _SIZE_INPUTS]
    if len(pictures) != 1 or len(pictures[0].shape) != 4:
        inputs = ', '.join(map(str, outline.inputs)) or 'none'
        raise BundleError(f'one picture (1, 3, height, width) is expected as input, and its inputs are {inputs}')
    port = pictures[0]
    if port.kind not in (FLOAT, UINT8, FLOAT16, DOUBLE):
        raise BundleError(f'its input is {port}; export it with an input of float32, float16 or uint8')
    layout = _layout(port, stated)
    batch = port.shape[0] if port.shape[0] is not None else 1
    if batch != 1:
        raise BundleError(
            f'it takes a batch of {batch} pictures at a time, and cameras give one: export it with batch=1'
        )
    height, width = port.shape[1:3] if layout == 'nhwc' else port.shape[2:4]
    width, height = _size(width, height, port, stated, options)
    sizes = tuple(other for other in outline.inputs if other.name in _SIZE_INPUTS)
    return ImageInput(port, width, height, layout, sizes)


def _layout(port: Port, stated: Stated) -> str:
    shape = port.shape
    if shape[1] == 3:
        return 'nchw'
    if shape[3] == 3:
        return 'nhwc'
    channels = next(
        (size for size in (shape[1], shape[3]) if size is not None and size < _CHANNELS), stated.channels or 3
    )
    if channels != 3:
        kind = {1: 'gray pictures (one channel)', 4: 'pictures of four channels'}.get(channels, f'{channels} channels')
        raise BundleError(
            f'it takes {kind}, and pictures here have three: train and export it with 3 channels (its input: {port})'
        )
    if None not in (shape[1], shape[3]):
        raise BundleError(f'no axis of its input {port} has the 3 channels of a picture')
    return 'nchw'


def _size(width: int | None, height: int | None, port: Port, stated: Stated, options: ImportOptions) -> tuple[int, int]:
    """Width and height: of the graph where it fixes them, else what the user or the metadata says."""
    wanted = options.size or stated.size or (None, None)
    if options.size and ((width not in (None, wanted[0])) or (height not in (None, wanted[1]))):
        raise BundleError(f'--size {wanted[0]}x{wanted[1]}: the network takes {width}x{height} only')
    width, height = width or wanted[0], height or wanted[1]
    if width is None or height is None:
        raise BundleError(f'the network takes any size ({port}): pass --size WIDTHxHEIGHT')
    if not (_SMALLEST <= width <= _LARGEST and _SMALLEST <= height <= _LARGEST):
        raise BundleError(f'its input of {width}x{height} pixels is not from {_SMALLEST} to {_LARGEST} a side')
    return width, height
