"""What a teacher says of the pictures, computed in each step or kept from an earlier run.

The pictures of a step depend on seed and step alone, so all students and methods of one seed are told the same: a comparison of
many methods keeps it once, and is spared the teacher's part of the work.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.errors import FitError

Said = tuple[Tensor, tuple[Tensor, ...], Tensor]
"""Logits (N, classes), maps (N, C, H, W) finest first, the pooled last one (N, C)."""


class Answers:
    """A teacher's answers.

    Args:
        teacher: a classifier.
        folder: of `keep`; None asks the teacher.
    """

    def __init__(self, teacher: nn.Module, folder: Path | None = None) -> None:
        self._teacher = teacher
        self._kept = None if folder is None else _opened(folder)

    @torch.no_grad()
    def __call__(self, step: int, images: Tensor) -> Said:
        """Of the pictures (N, 3, S, S) of that step.

        Raises:
            FitError: not kept for that many steps, or for another size of batch.
        """
        if self._kept is None:
            said: Said = self._teacher(images)
            return said
        if step >= len(self._kept[0]) or self._kept[0].shape[1] != len(images):
            steps, batch = self._kept[0].shape[:2]
            raise FitError(
                f'answers were kept for {steps} steps of {batch} pictures; not for {len(images)} in step {step}'
            )
        logits, vector, *maps = (torch.from_numpy(values[step].copy()) for values in self._kept)
        return logits, tuple(maps), vector


@torch.no_grad()
def keep(teacher: nn.Module, pictures: Iterable[Tensor], steps: int, folder: Path) -> None:
    """Write a teacher's answers to the pictures of each step.

    Args:
        teacher: a classifier in evaluation mode.
        pictures: (N, 3, S, S) of each step, in order; all of one shape.
        steps: how many.
        folder: gets one file for each output; 4 bytes a value.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Any] = []
    for step, images in enumerate(pictures):
        logits, maps, vector = teacher(images)
        values = [value.contiguous().numpy() for value in (logits, vector, *maps)]
        if not files:
            files = [
                np.lib.format.open_memmap(folder / f'{number}.npy', 'w+', np.float32, (steps, *value.shape))
                for number, value in enumerate(values)
            ]
        for file, value in zip(files, values, strict=True):
            file[step] = value
    for file in files:
        file.flush()


def _opened(folder: Path) -> list[Any]:
    files = sorted(folder.glob('*.npy'))
    if not files:
        raise FitError(f'{folder} holds no answers of a teacher')
    try:
        return [np.load(file, mmap_mode='r', allow_pickle=False) for file in files]
    except (OSError, ValueError) as error:
        raise FitError(f'{folder} holds a damaged answer of a teacher: {error}; remove the folder') from error
