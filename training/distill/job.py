"""What a student learns from whom, and what a distiller asks of the run in which it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from training.distill.settings import DistillSettings


@dataclass(frozen=True)
class DistillJob:
    """What is learned from teachers.

    Attributes:
        settings: the terms and their weights.
        teachers: weights files or bundles by name; a single one's name is empty.
        measured: mAP50-95 of those that were measured, by the same names.
        classes: of the student.
        image_size: side of its square input in pixels.
        seed: of what the terms draw.
        answers: folder where what the teachers say is kept, if the settings say so.
        pictures: what the pictures of a batch depend on, beside the batch's name; plain values.
        kept: for each level that the head reads, the channels of the teacher `kept_of` that a pruned student kept.
        kept_of: the teacher from which the student was pruned.
    """

    settings: DistillSettings
    teachers: Mapping[str, Path]
    measured: Mapping[str, float]
    classes: tuple[str, ...]
    image_size: int
    seed: int
    answers: Path
    pictures: Mapping[str, Any]
    kept: Sequence[Sequence[int]] | None = None
    kept_of: str = ''


class Processes(Protocol):
    """The processes that train together, see `training.fit.processes.Group`."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def first(self) -> bool: ...

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes."""
        ...


class BatchNames(Protocol):
    """Which batches come, see `training.fit.schedule.Schedule`."""

    epochs_per_step: float

    @property
    def batch(self) -> int: ...

    @property
    def unlabelled(self) -> int: ...

    def names(self, step: int) -> list[str]:
        """Names for the batches of a step."""
        ...

    def names_from(self, first: int) -> list[str]:
        """The same of all batches from a step on."""
        ...
