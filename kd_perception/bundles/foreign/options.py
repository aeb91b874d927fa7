"""What a user says about a foreign network: it decides where the file is silent or wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Channels = tuple[float, float, float]

AUTO = 'auto'
LAYOUTS = ('yolo', 'objectness', 'boxes_scores', 'end2end', 'yolox', 'nanodet', 'fastestdet')
"""What `--layout` may name."""
ACTIVATIONS = ('none', 'sigmoid', 'softmax')


@dataclass(frozen=True)
class ImportOptions:
    """What the file does not say, or says wrongly. What is empty or None is read from the file.

    Attributes:
        classes: class names in the order of the class ids.
        weights: the `.weights` file of a Darknet `.cfg`.
        size: input width and height in pixels.
        color: channel order that the network was trained with, `rgb` or `bgr`.
        scale: what pixel values 0 … 255 are divided by before the network; float inputs only.
        mean: subtracted from the pixel values, one a channel in the order of `color`; float inputs only.
        std: divides afterwards; in place of `scale`.
        resize: `letterbox` or `stretch`.
        precision: how the artifact is called.
        license: license of the weights.
        layout: what the outputs hold, one of `LAYOUTS`.
        box_format: `xyxy` or `cxcywh`.
        normalized: boxes are shares of the input's size, not pixels.
        activation: what makes probabilities of the scores, one of `ACTIVATIONS`.
        thresholds: of the bundle.
    """

    classes: tuple[str, ...] = ()
    weights: Path | None = None
    size: tuple[int, int] | None = None
    color: str = ''
    scale: float | None = None
    mean: Channels | None = None
    std: Channels | None = None
    resize: str = ''
    precision: str = ''
    license: str = ''
    layout: str = AUTO
    box_format: str = ''
    normalized: bool | None = None
    activation: str = ''
    thresholds: dict[str, Any] = field(default_factory=lambda: {'score': 0.25, 'iou': 0.6})
