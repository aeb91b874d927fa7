"""Pictures as cameras send them: in color and gray, behind a color filter, with an alpha channel."""

import numpy as np

WIDTH, HEIGHT = 48, 32


def smooth_picture() -> np.ndarray:
    """BGR picture without edges, so that what shares chroma between pixels loses little."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([60 + 3 * x, 200 - 4 * y, 90 + 2 * x + 2 * y], axis=2).astype(np.uint8)


BGR = smooth_picture()
GRAY = np.repeat(BGR[:, :, :1], 3, axis=2)


def mosaic(bgr: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor behind a color filter sees; the pattern names the first row's two cells, then the second's."""
    rows = np.empty(bgr.shape[:2], np.uint8)
    for cell, color in enumerate(pattern):
        y, x = divmod(cell, 2)
        rows[y::2, x::2] = bgr[y::2, x::2, 'bgr'.index(color)]
    return rows


def with_alpha(bgr: np.ndarray) -> np.ndarray:
    """As PNG files and some cameras carry it."""
    return np.dstack([bgr, np.full(bgr.shape[:2], 77, np.uint8)])
