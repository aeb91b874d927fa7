"""Ultralytics' augmentations (AGPL-3.0) on an image set of ours; nothing of it is imported before the first set is made."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from training import torchvision_nms
from training.data.augment import AugmentSettings

if TYPE_CHECKING:
    from training.data.loader import ImageSet


class UltralyticsTransforms:
    """Mosaic, scale, translation, rotation, flips and colour.

    Args:
        images: whose pictures they are.
        size: pixels of the square that they make.
        augment: how much.
    """

    cache = 'ram'  # what its mosaic asks for before it draws from all images, not from a buffer of its own

    def __init__(self, images: ImageSet, size: int, augment: AugmentSettings) -> None:
        self._images = images
        self._of_mosaic = {mosaic: self._compose(size, augment, mosaic) for mosaic in (False, True)}

    def _compose(self, size: int, augment: AugmentSettings, mosaic: bool) -> Any:
        torchvision_nms.ensure()
        from ultralytics.data.augment import Compose, Format, MixUp, Mosaic, RandomFlip, RandomHSV, RandomPerspective

        placed = [
            Mosaic(self, imgsz=size, p=augment.mosaic if mosaic else 0.0),
            RandomPerspective(
                degrees=augment.degrees, translate=augment.translate, scale=augment.scale, size=(size, size)
            ),
        ]
        # It draws a number even where it mixes nothing, and so would change all that is drawn behind it.
        mixed = [MixUp(self, Compose(list(placed)), p=augment.mixup)] if augment.mixup and mosaic else []
        return Compose(
            [
                *placed,
                *mixed,
                RandomHSV(hgain=augment.hsv_h, sgain=augment.hsv_s, vgain=augment.hsv_v),
                RandomFlip(direction='vertical', p=augment.flipud),
                RandomFlip(direction='horizontal', p=augment.fliplr),
                Format(bbox_format='xywh', normalize=True, batch_idx=True, bgr=0.0),
            ]
        )

    def __len__(self) -> int:
        return len(self._images)

    def sample(self, index: int, seed: Sequence[int], *, mosaic: bool) -> dict[str, Any]:
        """Image `index`, augmented as `seed` says; `img`, `cls`, `bboxes` and `batch_idx` as Ultralytics has them."""
        with _seeded(seed):
            return dict(self._of_mosaic[mosaic](self.get_image_and_label(index)))

    def get_image_and_label(self, index: int) -> dict[str, Any]:
        """One image with its labels, not augmented; Ultralytics' mosaic asks for its other images by this name."""
        from ultralytics.utils.instance import Instances

        image, labels = self._images.picture(index)
        boxes = Instances(labels[:, 1:].copy(), np.zeros((0, 1000, 2), np.float32), bbox_format='xywh', normalized=True)
        return {
            'img': image.copy(),
            'cls': labels[:, :1].copy(),
            'instances': boxes,
            'im_file': str(index),
            'ori_shape': image.shape[:2],
            'resized_shape': image.shape[:2],
        }


@contextmanager
def _seeded(seed: Sequence[int]) -> Iterator[None]:
    """Python's and numpy's global generators, which Ultralytics draws from, seeded and then put back."""
    states = random.getstate(), np.random.get_state()
    words = np.random.SeedSequence(tuple(seed)).generate_state(4)
    random.seed(int.from_bytes(words.tobytes(), 'little'))
    np.random.seed(words)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
