"""Classification sets: one folder a class, and batches that depend on nothing but the seed and the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kd_perception.detection.image import decode_compressed
from kd_perception.errors import ImageError
from training.errors import DataError

SUFFIXES = frozenset({'.jpg', '.jpeg', '.png', '.bmp'})
MAX_BYTES = 4 << 30
MAX_PIXELS = 40_000_000


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


def read_image_folder(folder: Path, size: int, classes: tuple[str, ...] | None = None) -> ImageFolder:
    """Read `folder/CLASS/*.jpg`, every picture scaled to `size` × `size` pixels.

    Args:
        classes: the names to expect, those of the training split; None takes the folder's, sorted.

    Raises:
        DataError: no class folders, an unknown class, no picture, or more than fits into memory.
    """
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
    if len(files) * 3 * size * size > MAX_BYTES:
        raise DataError(
            f'{len(files)} pictures of {size}² pixels do not fit into {MAX_BYTES >> 30} GiB: choose a smaller size'
        )
    images, class_ids, left_out = [], [], []
    for path, class_id in files:
        image = _read(path, size)
        if image is None:
            left_out.append(path)
        else:
            images.append(torch.from_numpy(image))
            class_ids.append(class_id)
    if not images:
        raise DataError(f'{folder} holds no picture that can be read')
    return ImageFolder(classes, torch.stack(images), torch.tensor(class_ids), tuple(left_out))


def read_splits(folders: Sequence[Path], splits: Sequence[str], size: int) -> ImageFolder:
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
    parts = [read_image_folder(folder, size, classes) for folder in found]
    return ImageFolder(
        classes,
        torch.cat([part.images for part in parts]),
        torch.cat([part.class_ids for part in parts]),
        tuple(file for part in parts for file in part.left_out),
    )


def _read(path: Path, size: int) -> npt.NDArray[np.uint8] | None:
    try:
        image = decode_compressed(path.read_bytes(), MAX_PIXELS)
    except (OSError, ImageError):
        return None
    how = cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_LINEAR
    scaled = cv2.resize(image, (size, size), interpolation=how)
    return np.ascontiguousarray(scaled[..., ::-1].transpose(2, 0, 1))


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for every picture of a training batch.

    Attributes:
        shift: largest shift along each axis, as a share of the side; what comes in repeats the border.
        fliplr: share flipped left to right.
        brightness: largest change of brightness, a share.
        contrast: largest change of contrast, a share.
    """

    shift: float = 0.125
    fliplr: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.3


def batch_indices(count: int, batch: int, step: int, seed: int) -> Tensor:
    """Which pictures step `step` shows: each epoch is a permutation; an incomplete last batch is left out.

    Raises:
        DataError: the set is smaller than a batch.
    """
    per_epoch = count // batch
    if per_epoch < 1:
        raise DataError(f'{count} pictures do not fill a batch of {batch}: choose a smaller batch')
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(count, generator=_generator(seed, epoch, 0))
    return order[place * batch : (place + 1) * batch]


def augmented(images: Tensor, settings: Augmentation, seed: int, step: int) -> Tensor:
    """uint8 (N, 3, S, S) → float32 in 0 … 1, shifted, flipped and lit as (seed, step) says."""
    count, size = len(images), images.shape[-1]
    draw = torch.rand(5, count, generator=_generator(seed, step, 1))
    reach = round(settings.shift * size)
    value = images.float() / 255
    padded = torch.nn.functional.pad(value, (reach,) * 4, mode='replicate') if reach else value
    offsets = (draw[:2] * (2 * reach + 1)).long()
    value = torch.stack([padded[k, :, y : y + size, x : x + size] for k, (y, x) in enumerate(offsets.T.tolist())])
    flipped = (draw[2] < settings.fliplr)[:, None, None, None]
    value = torch.where(flipped, value.flip(3), value)
    brightness = 1 + settings.brightness * (2 * draw[3] - 1)[:, None, None, None]
    contrast = 1 + settings.contrast * (2 * draw[4] - 1)[:, None, None, None]
    mean = value.mean((1, 2, 3), keepdim=True)
    return ((value - mean) * contrast + mean * brightness).clamp(0, 1)


def _generator(seed: int, number: int, purpose: int) -> torch.Generator:
    mixed = np.random.SeedSequence([seed, number, purpose]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
