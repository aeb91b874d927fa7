"""What a detector must know of a network: its input, its output, its classes and its operating point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kd_perception.detection.thresholds import Thresholds


@dataclass(frozen=True)
class InputSpec:
    """What the network takes: one image of `width` × `height` pixels.

    Attributes:
        color: channel order, `bgr` or `rgb`.
        dtype: `uint8` (normalization is in the graph) or `float32`.
        layout: `nhwc` or `nchw`.
        resize: `letterbox` keeps the aspect ratio and pads, `stretch` does not.
        mean: subtracted from values 0 … 255, in the order of `color`; float32 only.
        std: divides afterwards; float32 only.
        pad: gray value of the letterbox border, 0 … 255.
    """

    width: int
    height: int
    color: str = 'bgr'
    dtype: str = 'uint8'
    layout: str = 'nhwc'
    resize: str = 'letterbox'
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    pad: int = 114

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of a batch of one."""
        if self.layout == 'nchw':
            return 1, 3, self.height, self.width
        return 1, self.height, self.width, 3


@dataclass(frozen=True)
class OutputSpec:
    """What the network gives: see `kd_perception.detection.decoding` for the layouts."""

    layout: str
    box_format: str = 'xyxy'
    max_detections: int = 300


class NetworkSpec(Protocol):
    """A network as the detector sees it; a `kd_perception.bundles.bundle.Bundle` is one."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the network's class ids."""
        ...

    @property
    def input(self) -> InputSpec:
        """What the network takes."""
        ...

    @property
    def output(self) -> OutputSpec:
        """What the network gives."""
        ...

    @property
    def thresholds(self) -> Thresholds:
        """The operating point."""
        ...
