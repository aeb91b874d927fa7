"""A picture fitted into a size of another shape."""

from __future__ import annotations

import cv2
import numpy as np

from kd_perception.core.image import BgrImage


def fit(picture: BgrImage, size: tuple[int, int]) -> BgrImage:
    """The picture shrunk or grown to fill `size` (width, height) as far as its shape allows, on a dark ground."""
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    scale = min(size[0] / width, size[1] / height)
    inner = (min(size[0], max(1, round(width * scale))), min(size[1], max(1, round(height * scale))))
    x, y = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    fitted = np.full((size[1], size[0], 3), 24, np.uint8)
    fitted[y : y + inner[1], x : x + inner[0]] = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA)
    return fitted
