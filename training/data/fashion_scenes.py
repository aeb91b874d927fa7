"""FashionScenes: garments of Fashion-MNIST pasted into small scenes with distractors, ten classes that are easily confused.

A ground for studies of distillation: a cell takes minutes on one core, a large detector is far better than a small one, and
thousands of test objects tell small differences apart. Training scenes show garments of Fashion-MNIST's training part,
validation scenes those of its test part, so no garment is in both. The garments are read from the user's copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from kd_perception.detection.detections import Detections
from training.data.dataset import Image, LabeledImage, ground_truth, write_split
from training.data.idx import read_idx
from training.errors import DataError
from training.ranges import COUNT, NOT_NEGATIVE, Range

CLASSES = ('t-shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker', 'bag', 'ankle boot')
"""In the order of Fashion-MNIST's labels."""
PACKAGE_FOLDER = '/usr/share/datasets/fashion-mnist'
"""Where Debian's and Ubuntu's package puts the files."""
PARTS = {'train': 'train', 'val': 't10k'}
"""Fashion-MNIST's parts by our split."""
ITEM_PX = 28
VISIBLE = 25
"""A pixel that is brighter belongs to the garment; its box is drawn around these."""
TRIES = 20
"""Places tried for a garment before it is left out of a full scene."""

Items = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class FashionSceneSettings:
    """Which scenes are drawn.

    Attributes:
        count: scenes for training.
        val_count: scenes for validation; 0 for none.
        size: side of a scene in pixels.
        items: fewest and most garments of a scene; few scenes have less, where there is no room.
        item_px: smallest and largest side of a garment's picture, in pixels.
        distractors: fewest and most turned pieces of garments that are no objects.
        overlap_px: boxes of two garments overlap by no more than this along one axis.
        seed: of all that is drawn. A scene depends on the seed, its split and its number alone.
    """

    count: int = 2000
    val_count: int = 1000
    size: int = 128
    items: tuple[int, int] = (3, 7)
    item_px: tuple[int, int] = (18, 39)
    distractors: tuple[int, int] = (2, 5)
    overlap_px: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        COUNT.check(count=self.count)
        NOT_NEGATIVE.check(val_count=self.val_count, overlap_px=self.overlap_px, seed=self.seed)
        Range(least=32, most=1024).check(size=self.size)
        for name, least, most in (('items', 1, 64), ('item_px', 8, self.size), ('distractors', 0, 64)):
            low, high = getattr(self, name)
            Range(least=least, most=most).check(**{f'the smallest of {name}': low, f'the largest of {name}': high})
            if low > high:
                raise ValueError(f'{name} must be the smallest and the largest, not {low}, {high}')


def prepare(source: Path, target: Path, settings: FashionSceneSettings) -> dict[str, int]:
    """Draw the scenes and write them in our form.

    Args:
        source: folder with Fashion-MNIST's four gzipped IDX files.
        target: folder of the data set.
        settings: which scenes.

    Returns:
        Number of scenes by split.

    Raises:
        DataError: no Fashion-MNIST there (the message says what to install), or damaged files.
    """
    require_items(source)
    counts = {'train': settings.count, 'val': settings.val_count}
    garments = {split: read_items(source, PARTS[split]) for split, count in counts.items() if count}
    return {split: write_split(target, split, CLASSES, scenes(*garments[split], split, settings)) for split in garments}


def require_items(folder: Path) -> None:
    """Raise DataError, saying what to install, unless all files of Fashion-MNIST are in a folder."""
    missing = next((file for part in PARTS.values() for file in _files(folder, part) if not file.is_file()), None)
    if missing is not None:
        raise DataError(
            f'{missing} is missing: `apt install dataset-fashion-mnist` puts Fashion-MNIST into {PACKAGE_FOLDER}, give that'
        )


def _files(folder: Path, part: str) -> tuple[Path, Path]:
    return folder / f'{part}-images-idx3-ubyte.gz', folder / f'{part}-labels-idx1-ubyte.gz'


def read_items(folder: Path, part: str) -> tuple[Items, Items]:
    """The garments of a part, `train` or `t10k`: pictures uint8 (N, 28, 28), bright on black, and class ids (N).

    Raises:
        DataError: damaged files, or those of another set.
    """
    files = _files(folder, part)
    images, labels = read_idx(files[0], 3), read_idx(files[1], 1)
    if not len(images) or images.shape[1:] != (ITEM_PX, ITEM_PX):
        raise DataError(f'{files[0]} holds pictures of shape {images.shape}, not (N, {ITEM_PX}, {ITEM_PX})')
    if len(labels) != len(images) or labels.max() >= len(CLASSES):
        raise DataError(
            f'{files[1]} must hold a class from 0 to {len(CLASSES) - 1} for each of {len(images)} pictures of {files[0].name}'
        )
    return images, labels


def scenes(images: Items, labels: Items, split: str, settings: FashionSceneSettings) -> Iterator[LabeledImage]:
    """The scenes of a split from the garments that it may show."""
    counts = {'train': settings.count, 'val': settings.val_count}
    for index in range(counts[split]):
        rng = np.random.default_rng([settings.seed, list(PARTS).index(split), index])
        yield LabeledImage(f'{index:05d}', *_Painter(images, labels, settings, rng).scene())


@dataclass(frozen=True)
class _Painter:
    """Paints one scene."""

    images: Items
    labels: Items
    settings: FashionSceneSettings
    rng: np.random.Generator

    def scene(self) -> tuple[Image, Detections]:
        """A scene and its objects."""
        canvas = self._background()
        for _ in range(self._between(self.settings.distractors)):
            self._distract(canvas)
        boxes: list[list[int]] = []
        class_ids: list[int] = []
        for _ in range(self._between(self.settings.items)):
            index = int(self.rng.integers(len(self.images)))
            box = self._place(canvas, self._scaled(index), boxes)
            if box is not None:
                boxes.append(box)
                class_ids.append(int(self.labels[index]))
        return np.clip(canvas, 0, 255).astype(np.uint8), ground_truth(boxes, class_ids)

    def _between(self, ends: tuple[int, int]) -> int:
        return int(self.rng.integers(ends[0], ends[1] + 1))

    def _background(self) -> npt.NDArray[np.float32]:
        """Soft clouds and grain."""
        rng, size = self.rng, self.settings.size
        cells = self._between((3, 8))
        clouds = rng.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        clouds = np.asarray(cv2.resize(clouds, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)
        grain = rng.normal(0, 1, (size, size, 3)).astype(np.float32)
        painted = rng.uniform(50, 170) + clouds * rng.uniform(10, 35) + grain * rng.uniform(2, 10)
        return np.clip(painted, 0, 255).astype(np.float32)

    def _distract(self, canvas: npt.NDArray[np.float32]) -> None:
        """The turned middle of a garment: of the garments' colors and texture, and no object."""
        rng, (least, most) = self.rng, self.settings.item_px
        middle = self.images[int(rng.integers(len(self.images)))][7:21, 7:21]
        side = self._between((round(0.6 * least), round(0.6 * most)))
        piece = np.rot90(_resized(middle, side), int(rng.integers(4)))
        x, y = rng.integers(0, self.settings.size - side + 1, 2)
        self._paste(canvas, piece, int(x), int(y), 0.4)

    def _scaled(self, index: int) -> Items:
        item = _resized(self.images[index], self._between(self.settings.item_px))
        return item[:, ::-1] if self.rng.random() < 0.5 else item

    def _place(self, canvas: npt.NDArray[np.float32], item: Items, boxes: list[list[int]]) -> list[int] | None:
        """Paste a garment where there is room; its box, or None."""
        rows, columns = np.nonzero(item > VISIBLE)
        if len(rows) < 10:
            return None
        own = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        for _ in range(TRIES):
            x, y = (int(place) for place in self.rng.integers(0, self.settings.size - len(item) + 1, 2))
            box = [int(edge) for edge in own + np.array([x, y, x, y])]
            if not any(self._overlap(box, other) for other in boxes):
                self._paste(canvas, item, x, y, 0.45)
                return box
        return None

    def _overlap(self, box: list[int], other: list[int]) -> bool:
        shared = [min(box[axis + 2], other[axis + 2]) - max(box[axis], other[axis]) for axis in (0, 1)]
        return min(shared) > self.settings.overlap_px

    def _paste(self, canvas: npt.NDArray[np.float32], item: Items, x: int, y: int, darkest: float) -> None:
        """Blend a garment in, in a color of its own; its dark border lets the background through."""
        height, width = item.shape
        bright = item[..., None].astype(np.float32)
        opaque = np.clip(bright / 60, 0, 1)
        place = canvas[y : y + height, x : x + width]
        place *= 1 - opaque
        place += opaque * bright * self.rng.uniform(darkest, 1.1, 3).astype(np.float32)


def _resized(item: Items, side: int) -> Items:
    how = cv2.INTER_AREA if side < len(item) else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(item, (side, side), interpolation=how), np.uint8)
