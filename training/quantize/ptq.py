"""Post-training quantization of a file by settings, as recipes ask for it; `training.quantize.search` finds settings and more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from training.quantize import mixed
from training.quantize.calibration import Image, Ranges
from training.quantize.qdq import QuantizeSettings, float_nodes, quantize_model, ranges_of, with_shapes


def quantize(
    source: Path, target: Path, images: Sequence[Image], settings: QuantizeSettings, fixed: Ranges | None = None
) -> list[str]:
    """Quantize an ONNX network.

    Args:
        source: a float network with one uint8 image as input.
        target: file to write.
        images: calibration images as the network sees them, uint8 (H, W, 3).
        fixed: ranges by tensor that take the place of calibrated ones, as quantization-aware training found them.

    Returns:
        The names of the nodes that stayed in float.

    Raises:
        QuantizationError: no images, or a named node that does not exist.
    """
    if settings.mixed is not None:
        settings = mixed.with_choice(settings, mixed.choose(source, images, settings, settings.mixed))
    model = with_shapes(source)
    left = float_nodes(model.graph, settings)
    ranges = ranges_of(model, images, settings) | dict(fixed or {})
    # A trained network keeps the roundings that it was trained with.
    onnx.save(quantize_model(model, ranges, settings, left, shared=not fixed), target)
    return left
