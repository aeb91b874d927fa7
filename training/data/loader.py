"""Training batches that depend on nothing but the seed and their position: not on workers, processes or what came before.

Sample p of a run shows the image at place p mod n of the permutation of epoch p div n, augmented by random numbers that
are seeded with (seed, p). Whoever knows how many samples were used can go on from there.

The augmentations (mosaic, scale, translation, rotation, flips and colour) are Ultralytics' (AGPL-3.0), or those of `transforms`.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kd_perception.bags.sources import read_image
from kd_perception.errors import ImageError
from training.data.augment import AugmentSettings
from training.data.picture_cache import InMemory, PictureCache
from training.data.transforms import Labelled, augmented
from training.data.ultralytics_transforms import UltralyticsTransforms
from training.data.yolo_labels import clip_boxes, label_file, read_yolo_labels
from training.errors import DataError

_logger = logging.getLogger(__name__)
_SIGNATURES = (b'\xff\xd8', b'\x89PNG', b'BM', b'II*\0', b'MM\0*', b'RIFF')
CACHE_BYTES = 2 * 2**30
"""Of decoded images that are kept in memory, unless the caller has another cache."""


@dataclass(frozen=True)
class Batch:
    """Images and the boxes of the labelled ones, which come first.

    Attributes:
        images: uint8 RGB (N, 3, size, size).
        labelled: how many of them have labels.
        image_ids: (M), which image each box lies in.
        class_ids: (M).
        boxes: (M, 4), centre and size relative to the image.
    """

    images: Tensor
    labelled: int
    image_ids: Tensor
    class_ids: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class _Key:
    """One sample: its position in the run, its image, and whether mosaics are still made."""

    position: int
    index: int
    mosaic: bool
    labelled: bool


class ImageSet:
    """Images with their labels, decoded on demand and augmented.

    `images/…/name.jpg` has its labels in `labels/…/name.txt`; without such a file it shows no object. What cannot be
    used is counted and left out with a warning: unreadable images, boxes wholly outside. Boxes that reach out of the
    image are clipped.

    Attributes:
        files: the images that can be used, in the given order.
    """

    def __init__(
        self,
        images: Sequence[Path],
        classes: int,
        size: int,
        augment: AugmentSettings,
        *,
        labelled: bool = True,
        skip_broken: bool = False,
        cache: PictureCache | None = None,
    ) -> None:
        """Read all labels, and the first bytes of all images.

        Args:
            images: their files.
            classes: number of classes; labels must be below.
            size: pixels of the square that augmentations make; images are scaled so that their longer side has it.
            augment: see AugmentSettings.
            labelled: whether label files are read.
            skip_broken: an image that turns out to be broken when it is decoded is reported, and the next one stands in
                for it; otherwise it is an error.
            cache: of decoded images; None keeps CACHE_BYTES of them in memory.

        Raises:
            DataError: no image, none that can be read, a malformed label file or no label at all.
        """
        if not images:
            raise DataError('there is no image to train on: is the split empty, or the path wrong?')
        self.size = size
        self._skip_broken = skip_broken
        self._broken: set[int] = set()
        self.files: list[Path] = []
        self._labels: list[npt.NDArray[np.float32]] = []
        unreadable: list[Path] = []
        clipped = outside = 0
        for file in images:
            if not _is_image(file):
                unreadable.append(file)
                continue
            labels = read_yolo_labels(label_file(file), classes) if labelled else np.empty((0, 5), np.float32)
            labels, reached, left = clip_boxes(labels)
            clipped, outside = clipped + reached, outside + left
            self.files.append(file)
            self._labels.append(labels)
        _report(len(images), unreadable, clipped, outside)
        if labelled and not any(len(labels) for labels in self._labels):
            raise DataError(
                f'none of {len(self.files)} images has a labelled object; the labels of {self.files[0]} are expected in '
                f'{label_file(self.files[0])}'
            )
        self._cache = InMemory(CACHE_BYTES) if cache is None else cache
        self._augment = augment
        self._ultralytics = UltralyticsTransforms(self, size, augment) if augment.by == 'ultralytics' else None

    def __len__(self) -> int:
        return len(self.files)

    def sample(self, index: int, seed: Sequence[int], *, mosaic: bool) -> dict[str, Any]:
        """Image `index`, augmented as `seed` says.

        Returns:
            `img`, uint8 RGB (3, size, size); `cls` (M, 1); `bboxes` (M, 4), centre and size as shares of the image.
        """
        if self._ultralytics is not None:
            return self._ultralytics.sample(index, seed, mosaic=mosaic)
        rng = np.random.default_rng(tuple(seed))
        found = augmented(index, self._in_pixels, len(self), self.size, self._augment, rng, mosaic=mosaic)
        corners = torch.from_numpy(found.boxes) / self.size
        return {
            'img': torch.from_numpy(np.ascontiguousarray(found.image[:, :, ::-1].transpose(2, 0, 1))),
            'cls': torch.from_numpy(found.class_ids)[:, None],
            'bboxes': torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1),
        }

    def _in_pixels(self, index: int) -> Labelled:
        image, labels = self.picture(index)
        sides = np.array([image.shape[1], image.shape[0]], np.float32)
        near, far = labels[:, 1:3] - labels[:, 3:] / 2, labels[:, 1:3] + labels[:, 3:] / 2
        return Labelled(image, labels[:, 0], np.concatenate([near * sides, far * sides], 1))

    def picture(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """An image whose longer side has `size` pixels, not to be written to, and its rows of labels, not augmented."""
        index, image = self._image_or_next(index)
        return image, self._labels[index]

    def preload(self) -> None:
        """Decode images while there is room for them in memory, so that worker processes share them."""
        for index in range(len(self)):
            if not isinstance(self._cache, InMemory) or self._cache.full:
                return
            self._image_or_next(index)

    def _image_or_next(self, index: int) -> tuple[int, npt.NDArray[np.uint8]]:
        """The image of that number, or where broken ones are skipped the next that is whole, and its number."""
        for place in (number % len(self) for number in range(index, index + len(self))):
            if place in self._broken:
                continue
            try:
                return place, self._image(place)
            except DataError as error:
                if not self._skip_broken:
                    raise
                self._broken.add(place)
                _logger.warning('%s; left out', error)
        raise DataError(f'none of {len(self)} images can be read, {self.files[0]} for one')

    def _image(self, index: int) -> npt.NDArray[np.uint8]:
        return self._cache(index, self.files[index], lambda: self._decode(index))

    def _decode(self, index: int) -> npt.NDArray[np.uint8]:
        try:
            image = read_image(self.files[index])
        except ImageError as error:
            raise DataError(f'{self.files[index]}: {error}; remove it, or write it anew') from error
        height, width = image.shape[:2]
        factor = self.size / max(height, width)
        if factor != 1:
            wanted = (max(round(width * factor), 1), max(round(height * factor), 1))
            image = cv2.resize(image, wanted, interpolation=cv2.INTER_LINEAR)
        return np.asarray(image, np.uint8)


class Batches(Dataset[dict[str, Any]]):
    """The batches of a run.

    Args:
        labelled: images with labels.
        unlabelled: images without, each batch gets `unlabelled_batch` of them; None for none.
        seed: of order and augmentation.
        workers: processes that decode and augment; 0 does it in this one.
    """

    def __init__(self, labelled: ImageSet, unlabelled: ImageSet | None, seed: int, workers: int) -> None:
        self._labelled = labelled
        self._unlabelled = unlabelled
        self._seed = seed
        self._workers = workers
        if workers:
            labelled.preload()
            if unlabelled is not None:
                unlabelled.preload()

    def __getitem__(self, key: _Key) -> dict[str, Any]:
        images = self._labelled if key.labelled else self._unlabelled
        assert images is not None
        sample = images.sample(key.index, (self._seed, int(key.labelled), key.position), mosaic=key.mosaic)
        return {**sample, 'labelled': key.labelled}

    def iterate(self, plan: Iterator[BatchPlan]) -> Iterator[Batch]:
        """The batches of a plan, in order."""
        loader: DataLoader[Any] = DataLoader(
            self,
            batch_sampler=_Sampler(self._keys(of_batch) for of_batch in plan),
            num_workers=self._workers,
            collate_fn=_collate,
            worker_init_fn=start_worker,
            pin_memory=torch.cuda.is_available(),
            # Its own generator: the loader may not touch the random numbers of the training.
            generator=torch.Generator(),
        )
        for samples in loader:
            yield Batch(**samples)

    def _keys(self, plan: BatchPlan) -> list[_Key]:
        keys = [
            _Key(position, self._index(position, len(self._labelled), 1), plan.mosaic, True)
            for position in plan.labelled
        ]
        if self._unlabelled is not None:
            keys += [
                _Key(position, self._index(position, len(self._unlabelled), 0), plan.mosaic, False)
                for position in plan.unlabelled
            ]
        return keys

    def _index(self, position: int, count: int, stream: int) -> int:
        return int(_order(self._seed, stream, position // count, count)[position % count])


@dataclass(frozen=True)
class BatchPlan:
    """What a batch holds: positions in the streams of labelled and unlabelled samples, and whether mosaics are made."""

    labelled: range
    unlabelled: range
    mosaic: bool


class _Sampler:
    """Lists of keys, for DataLoader."""

    def __init__(self, batches: Iterator[list[_Key]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[_Key]]:
        return self._batches


def _collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    counts = [len(sample['cls']) for sample in samples]
    return {
        'images': torch.stack([sample['img'] for sample in samples]),
        'labelled': sum(sample['labelled'] for sample in samples),
        'image_ids': torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(counts)),
        'class_ids': torch.cat([sample['cls'] for sample in samples]).reshape(-1),
        'boxes': torch.cat([sample['bboxes'] for sample in samples]).reshape(-1, 4),
    }


def start_worker(_: int) -> None:
    """What a process that makes batches does first."""
    # Ctrl-C goes to all processes: the first one ends the workers when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


@lru_cache(maxsize=8)
def _order(seed: int, stream: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, stream, epoch)).permutation(count)


def _is_image(file: Path) -> bool:
    """Whether a file begins like an image; that it ends like one is seen when it is decoded."""
    try:
        with file.open('rb') as stream:
            return stream.read(12).startswith(_SIGNATURES)
    except OSError:
        return False


def _report(images: int, unreadable: Sequence[Path], clipped: int, outside: int) -> None:
    if len(unreadable) == images:
        raise DataError(f'none of {images} images can be read, {unreadable[0]} for one')
    if unreadable:
        named = ', '.join(str(file) for file in unreadable[:3])
        _logger.warning('%d of %d images cannot be read and are left out: %s', len(unreadable), images, named)
    if clipped or outside:
        _logger.warning(
            '%d boxes reached out of their images and are cut, %d lay outside and are gone', clipped, outside
        )
