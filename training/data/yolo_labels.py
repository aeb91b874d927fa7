"""YOLO's label files: where an image has its own, its rows, and boxes that reach out of the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.errors import DataError


def label_file(image: Path) -> Path:
    """Where the labels of an image are: the last folder `images` of its path becomes `labels`; else beside it."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == 'images':
            return Path(*parts[:place], 'labels', *parts[place + 1 :]).with_suffix('.txt')
    return image.with_suffix('.txt')


def read_yolo_labels(file: Path, classes: int) -> npt.NDArray[np.float32]:
    """Rows of class, centre x, centre y, width, height, relative to the image; no file means no object.

    Raises:
        DataError: another form, a class that does not exist, or a number that is none.
    """
    if not file.is_file():
        return np.empty((0, 5), np.float32)
    lines = [line.split() for line in file.read_text(encoding='utf-8-sig').splitlines() if line.strip()]
    try:
        rows = np.array([[float(word) for word in line] for line in lines], np.float32).reshape(len(lines), 5)
    except ValueError as error:
        raise DataError(f'{file}: every line must be "class cx cy w h", relative to the image') from error
    if not np.isfinite(rows).all() or (rows[:, 3:] < 0).any():
        raise DataError(f'{file}: a box is not finite or has a negative size')
    wrong = rows[(rows[:, 0] < 0) | (rows[:, 0] >= classes) | (rows[:, 0] % 1 != 0), 0]
    if len(wrong):
        raise DataError(f'{file}: class {wrong[0]:g}, but there are {classes} classes, 0 to {classes - 1}')
    return rows


def clip_boxes(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], int, int]:
    """Boxes cut at the borders of their image.

    Returns:
        The rows that are left, how many were cut, and how many lay wholly outside or were empty and are gone.
    """
    first, last = rows[:, 1:3] - rows[:, 3:5] / 2, rows[:, 1:3] + rows[:, 3:5] / 2
    inside_first, inside_last = first.clip(0, 1), last.clip(0, 1)
    keep = (inside_last > inside_first).all(1)
    # Rounding in the file is not worth a word.
    reached = keep & ((first < -1e-3) | (last > 1 + 1e-3)).any(1)
    out = rows.copy()
    out[:, 1:3], out[:, 3:5] = (inside_first + inside_last) / 2, inside_last - inside_first
    return out[keep], int(reached.sum()), int((~keep).sum())
