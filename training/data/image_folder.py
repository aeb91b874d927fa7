"""Classification sets: one folder a class, and batches that depend on nothing but the seed and the step.

A set that fits into memory is decoded once; of a larger one, such as ImageNet, a batch's pictures are read when it is made.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kd_perception.detection.image import decode_compressed
from kd_perception.errors import ImageError
from training import torchvision_nms
from training.errors import DataError
from training.ranges import SHARE, Range
from training.schema import added

_logger = logging.getLogger(__name__)
SUFFIXES = frozenset({'.jpg', '.jpeg', '.png', '.bmp'})
MAX_BYTES = 1 << 30
"""Of decoded pictures that are kept in memory."""
MAX_PIXELS = 40_000_000
CENTER = 0.875
"""Share of a picture's shorter side that is measured, where random crops are trained on: ImageNet's usual one."""


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for every picture of a training batch.

    Attributes:
        shift: largest shift along each axis, as a share of the side; what comes in repeats the border.
        fliplr: share flipped left to right.
        brightness: largest change of brightness, a share.
        contrast: largest change of contrast, a share.
        crop: a random part of the picture instead of a shift, least and largest share of its area: [0.08, 1] is usual on
            ImageNet (torchvision's RandomResizedCrop).
    """

    shift: float = 0.125
    fliplr: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.3
    crop: tuple[float, float] | None = added(None)

    def __post_init__(self) -> None:
        SHARE.check(shift=self.shift, fliplr=self.fliplr, brightness=self.brightness, contrast=self.contrast)
        if self.crop is not None:
            Range(above=0, most=1).check(crop=self.crop[0])
            Range(least=self.crop[0], most=1).check(crop=self.crop[1])


class Pictures(Protocol):
    """A classification set.

    Attributes:
        classes: names, in the order of their ids.
        class_ids: (N).
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def class_ids(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def whole(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures, uint8 RGB (M, 3, S, S), and their places: another's where one cannot be read."""
        ...

    def crop(self, index: int, area: tuple[float, float], generator: torch.Generator) -> tuple[Tensor, int]:
        """A random part of a picture, uint8 RGB (3, S, S), and the picture's place."""
        ...

    def fingerprint(self) -> str:
        """Hash of what the pictures are."""
        ...


@dataclass(frozen=True)
class ImageFolder:
    """A whole split in memory, at one size.

    Attributes:
        classes: names, in the order of their ids.
        images: uint8 RGB (N, 3, S, S).
        class_ids: (N).
        left_out: pictures that could not be read.
    """

    classes: tuple[str, ...]
    images: Tensor
    class_ids: Tensor
    left_out: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def whole(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See Pictures."""
        return self.images[indices], indices

    def crop(self, index: int, area: tuple[float, float], generator: torch.Generator) -> tuple[Tensor, int]:
        """See Pictures."""
        return random_crop(self.images[index], self.images.shape[-1], area, generator), index

    def fingerprint(self) -> str:
        """See Pictures."""
        return hashlib.sha256(self.images.numpy().tobytes() + self.class_ids.numpy().tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class PictureFiles:
    """A split whose pictures are read when they are asked for.

    Attributes:
        classes: names, in the order of their ids.
        files: of the pictures.
        class_ids: (N).
        size: side in pixels to which they are brought.
        centered: whole pictures are the middle of the shorter side (CENTRE); otherwise all of them, stretched to a square.
    """

    classes: tuple[str, ...]
    files: tuple[Path, ...]
    class_ids: Tensor
    size: int
    centered: bool = False
    _broken: set[int] = field(default_factory=set, repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def whole(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See Pictures."""
        found = [self._read(int(index)) for index in indices]
        images = [_center(image, self.size) if self.centered else _scaled(image, self.size) for image, _ in found]
        return torch.stack([_as_tensor(image) for image in images]), torch.tensor([place for _, place in found])

    def crop(self, index: int, area: tuple[float, float], generator: torch.Generator) -> tuple[Tensor, int]:
        """See Pictures."""
        image, place = self._read(index)
        return random_crop(_as_tensor(image), self.size, area, generator), place

    def fingerprint(self) -> str:
        """Names, sizes and classes: to read them all would take hours."""
        digest = hashlib.sha256(f'{self.size} {self.centered}'.encode())
        for file, class_id in zip(self.files, self.class_ids.tolist(), strict=True):
            digest.update(f'{file.parent.name}/{file.name} {file.stat().st_size} {class_id}\n'.encode())
        return digest.hexdigest()

    def _read(self, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        """The picture, or the next that can be read."""
        for place in (number % len(self) for number in range(index, index + len(self))):
            if place in self._broken:
                continue
            image = _decoded(self.files[place])
            if image is not None:
                return image, place
            self._broken.add(place)
            _logger.warning('%s cannot be read; left out', self.files[place])
        raise DataError(f'none of {len(self)} pictures can be read, {self.files[0]} for one')


def read_image_folder(
    folder: Path, size: int, classes: tuple[str, ...] | None = None, *, centered: bool = False
) -> ImageFolder | PictureFiles:
    """`folder/CLASS/*.jpg`, every picture brought to `size` × `size` pixels.

    Args:
        classes: the names to expect, those of the training split; None takes the folder's, sorted.
        centered: read from their files when they are asked for, see PictureFiles; so are sets that do not fit into memory.

    Raises:
        DataError: no class folders, an unknown class, or no picture.
    """
    return _joined([_listed(folder, classes)], size, centered)


def read_splits(
    folders: Sequence[Path], splits: Sequence[str], size: int, *, centered: bool = False
) -> ImageFolder | PictureFiles:
    """Some splits of several sets, `folder/SPLIT/CLASS/*.jpg`, as one; classes are those of all training splits.

    Raises:
        DataError: no pictures; see `read_image_folder`.
    """
    classes = tuple(sorted({path.name for folder in folders for path in (folder / 'train').glob('*') if path.is_dir()}))
    found = [folder / split for split in splits for folder in folders if (folder / split).is_dir()]
    if not classes or not found:
        raise DataError(
            f'no pictures of {", ".join(splits)} in {", ".join(map(str, folders))}: SPLIT/CLASS/picture.jpg'
        )
    return _joined([_listed(folder, classes) for folder in found], size, centered)


Listed = tuple[tuple[str, ...], list[tuple[Path, int]]]


def _listed(folder: Path, classes: tuple[str, ...] | None) -> Listed:
    """The classes, and each picture with its class."""
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not found:
        raise DataError(
            f'{folder} holds no class folders: it must hold CLASS/picture.jpg; prepare --crops makes such a set'
        )
    classes = classes or tuple(found)
    if unknown := sorted(set(found) - set(classes)):
        raise DataError(f'{folder} has the classes {", ".join(unknown)}, which the training split has not')
    files = [
        (path, class_id)
        for class_id, name in enumerate(classes)
        for path in sorted((folder / name).glob('*'))
        if path.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise DataError(f'{folder} holds no picture')
    return classes, files


def _joined(parts: Sequence[Listed], size: int, centered: bool) -> ImageFolder | PictureFiles:
    classes = parts[0][0]
    files = [item for _, listed in parts for item in listed]
    if centered or len(files) * 3 * size * size > MAX_BYTES:
        class_ids = torch.tensor([class_id for _, class_id in files])
        return PictureFiles(classes, tuple(path for path, _ in files), class_ids, size, centered)
    images, class_ids_read, left_out = [], [], []
    for path, class_id in files:
        image = _decoded(path)
        if image is None:
            left_out.append(path)
        else:
            images.append(_as_tensor(_scaled(image, size)))
            class_ids_read.append(class_id)
    if not images:
        raise DataError(f'{files[0][0].parent.parent} holds no picture that can be read')
    return ImageFolder(classes, torch.stack(images), torch.tensor(class_ids_read), tuple(left_out))


def _decoded(path: Path) -> npt.NDArray[np.uint8] | None:
    try:
        return decode_compressed(path.read_bytes(), MAX_PIXELS)
    except (OSError, ImageError):
        return None


def _scaled(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    how = cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=how), np.uint8)


def _center(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    side = max(round(min(image.shape[:2]) * CENTER), 1)
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return _scaled(image[top : top + side, left : left + side], size)


def _as_tensor(image: npt.NDArray[np.uint8]) -> Tensor:
    """BGR (H, W, 3) → RGB (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))


def random_crop(image: Tensor, size: int, area: tuple[float, float], generator: torch.Generator) -> Tensor:
    """torchvision's RandomResizedCrop of a picture (3, H, W), a function of the generator."""
    torchvision_nms.ensure()
    from torchvision.transforms import v2  # type: ignore[import-untyped]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        cropped: Tensor = v2.RandomResizedCrop(size, scale=area, antialias=True)(image)
    return cropped


def batch_indices(count: int, batch: int, step: int, seed: int) -> Tensor:
    """Which pictures step `step` shows: each epoch is a permutation; an incomplete last batch is left out.

    Raises:
        DataError: the set is smaller than a batch.
    """
    per_epoch = count // batch
    if per_epoch < 1:
        raise DataError(f'{count} pictures do not fill a batch of {batch}: choose a smaller batch')
    epoch, place = divmod(step, per_epoch)
    return _order(count, seed, epoch)[place * batch : (place + 1) * batch]


@functools.lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=_generator(seed, epoch, 0))


def augmented(
    data: Pictures, indices: Tensor, settings: Augmentation, seed: int, step: int, part: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """A part of a batch, shifted or cropped, flipped and lit as (seed, step, place in the batch) says.

    Returns:
        float32 (N, 3, S, S) in 0 … 1, and the pictures' places in the set.
    """
    draw = torch.rand(5, len(indices), generator=_generator(seed, step, 1))[:, part]
    if settings.crop is None:
        images, places = data.whole(indices[part])
        value = _shifted(images.float() / 255, settings.shift, draw[:2])
    else:
        numbers = range(len(indices))[part]
        crops = [
            data.crop(int(indices[number]), settings.crop, _generator(seed, step, 2 + number)) for number in numbers
        ]
        value = torch.stack([image for image, _ in crops]).float() / 255
        places = torch.tensor([place for _, place in crops])
    flipped = (draw[2] < settings.fliplr)[:, None, None, None]
    value = torch.where(flipped, value.flip(3), value)
    brightness = 1 + settings.brightness * (2 * draw[3] - 1)[:, None, None, None]
    contrast = 1 + settings.contrast * (2 * draw[4] - 1)[:, None, None, None]
    mean = value.mean((1, 2, 3), keepdim=True)
    return ((value - mean) * contrast + mean * brightness).clamp(0, 1), places


def _shifted(value: Tensor, shift: float, draw: Tensor) -> Tensor:
    size = value.shape[-1]
    reach = round(shift * size)
    padded = torch.nn.functional.pad(value, (reach,) * 4, mode='replicate') if reach else value
    offsets = (draw * (2 * reach + 1)).long()
    return torch.stack([padded[k, :, y : y + size, x : x + size] for k, (y, x) in enumerate(offsets.T.tolist())])


def _generator(seed: int, number: int, purpose: int) -> torch.Generator:
    mixed = np.random.SeedSequence([seed, number, purpose]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
