"""Some images of a split, evenly spread over it: as they are, and as a network sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from kd_perception.bags.sources import read_image
from kd_perception.bundles.bundle import Bundle
from kd_perception.detection.letterbox import Letterbox
from training.data.dataset import Image, image_files
from training.errors import DataError

Item = TypeVar('Item')


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """So many of the items, evenly spread, the first and the last among them; all where there are no more."""
    return [items[int(k)] for k in np.linspace(0, len(items) - 1, min(count, len(items))).round()]


def spread_images(dataset: Path, split: str, count: int) -> Iterator[Image]:
    """Images of a split, evenly spread over it, BGR; the others are not read.

    Raises:
        DataError: the split has no images.
        ImageError: one is damaged.
    """
    files = image_files(dataset, split)
    if not files:
        raise DataError(f'{dataset / "images" / split} holds no image; is this the data set folder?')
    return map(read_image, spread(files, count))


def letterboxed(
    images: Iterable[Image], width: int, height: int, mode: str = 'letterbox', pad: int = 114
) -> Iterator[Image]:
    """Images as the runtime shows them to a network of this input: uint8 (height, width, 3), BGR."""
    for image in images:
        letterbox = Letterbox((image.shape[1], image.shape[0]), (width, height), mode, pad)
        yield letterbox.apply(image, np.empty((height, width, 3), np.uint8))


def images_for(bundle: Bundle, dataset: Path, split: str, count: int) -> list[Image]:
    """Images of a split as the bundle's network sees them, evenly spread over the split."""
    spec = bundle.input
    return list(letterboxed(spread_images(dataset, split, count), spec.width, spec.height, spec.resize, spec.pad))
