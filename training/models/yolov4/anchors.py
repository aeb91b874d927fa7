"""Anchors for a data set: k-means on the sizes of its boxes with 1 − IoU as distance (Redmon 2017, YOLO9000, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kd_perception.bags.sources import read_image
from kd_perception.errors import ImageError
from training.data.yolo_labels import label_file, read_yolo_labels
from training.errors import DataError

Sizes = npt.NDArray[np.float64]
MOST_IMAGES = 2000


def fit_anchors(sizes: npt.ArrayLike, count: int = 9, *, seed: int = 0, rounds: int = 100) -> tuple[Sizes, float]:
    """Nine anchors, smallest area first, and the mean IoU of each box with its best one.

    Args:
        sizes: (K, 2), widths and heights in pixels of the network's input.
        count: number of anchors.
        seed: of the first choice.
        rounds: at most; it ends when nothing changes.

    Returns:
        Anchors (count, 2), and the mean IoU, 0 … 1.

    Raises:
        DataError: fewer boxes than anchors, or sizes that are not over 0.
    """
    boxes = np.asarray(sizes, np.float64).reshape(-1, 2)
    if len(boxes) < count:
        raise DataError(f'{count} anchors need at least as many boxes, the data set has {len(boxes)}')
    if not np.isfinite(boxes).all() or (boxes <= 0).any():
        raise DataError('boxes without width or height; run python -m training prepare FOLDER --check')
    anchors = _spread(boxes, count, np.random.default_rng(seed))
    owner = np.full(len(boxes), -1)
    for _ in range(rounds):
        nearest = shape_iou(boxes, anchors).argmax(1)
        if (nearest == owner).all():
            break
        owner = nearest
        # An anchor that no box is nearest to stays where it is.
        anchors = np.array(
            [np.median(boxes[owner == k], axis=0) if (owner == k).any() else anchors[k] for k in range(count)]
        )
    anchors = anchors[np.argsort(anchors.prod(1), kind='stable')]
    return anchors, float(shape_iou(boxes, anchors).max(1).mean())


def box_sizes(images: Sequence[Path], classes: int, image_size: int) -> Sizes:
    """Sizes (K, 2) in pixels of the boxes of labelled images whose longer side is scaled to `image_size`.

    Of many images, MOST_IMAGES are taken, evenly spread.

    Raises:
        DataError: an image or its labels cannot be read.
    """
    every = max(1, len(images) // MOST_IMAGES)
    found = [np.empty((0, 2))]
    for file in images[::every]:
        relative = read_yolo_labels(label_file(file), classes)[:, 3:]
        if len(relative):
            try:
                height, width = read_image(file).shape[:2]
            except ImageError as error:
                raise DataError(f'{file}: {error}; remove it, or write it anew') from error
            found.append(relative * np.array([width, height]) * image_size / max(width, height))
    return np.concatenate(found)


def _spread(boxes: Sizes, count: int, rng: np.random.Generator) -> Sizes:
    """First anchors far from one another (k-means++)."""
    chosen = [boxes[rng.integers(len(boxes))]]
    while len(chosen) < count:
        distance = (1 - shape_iou(boxes, np.array(chosen)).max(1)) ** 2
        total = distance.sum()
        chosen.append(boxes[rng.choice(len(boxes), p=distance / total if total > 0 else None)])
    return np.array(chosen)


def shape_iou(sizes: Sizes, anchors: Sizes) -> Sizes:
    """IoU (K, A) of sizes (K, 2) and anchors (A, 2) laid on one another's centre."""
    inner = np.minimum(sizes[:, None], anchors[None]).prod(2)
    return np.asarray(inner / (sizes.prod(1)[:, None] + anchors.prod(1)[None] - inner))
