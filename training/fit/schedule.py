"""Which images come in which step: batches, the processes that share them, and where mosaics end."""

from __future__ import annotations

import math
from collections.abc import Iterator

from training.data.loader import BatchPlan
from training.errors import FitError
from training.fit.processes import Group
from training.fit.settings import FitSettings


class Schedule:
    """How the images of a run are dealt out.

    Args:
        settings: see FitSettings.
        images: number of labelled ones.
        unlabelled: whether there are others.
        group: the processes that share each batch.

    Attributes:
        steps: of the run.
        epochs_per_step: passes over the labelled images that a step makes.
        halved: whether batches are half as large and twice as many, because the memory did not suffice.

    Raises:
        FitError: the processes cannot share a batch.
    """

    def __init__(self, settings: FitSettings, images: int, *, unlabelled: bool, group: Group) -> None:
        for name, value in (('batch', settings.images_at_once), ('unlabelled_batch', settings.unlabelled_batch)):
            if value % group.size:
                raise FitError(f'{name} {value} cannot be shared by {group.size} processes: choose a multiple')
        self._settings, self._group = settings, group
        self._unlabelled = settings.unlabelled_batch if unlabelled else 0
        per_step = settings.images_at_once * settings.accumulate
        self.steps = settings.steps or math.ceil(settings.epochs * images / per_step)
        self.epochs_per_step = per_step / images
        self.halved = False

    @property
    def batch(self) -> int:
        """Labelled images at once, of all processes together."""
        return self._settings.images_at_once // 2 if self.halved else self._settings.images_at_once

    @property
    def unlabelled(self) -> int:
        """Unlabelled images beside them."""
        return self._unlabelled // 2 if self.halved else self._unlabelled

    @property
    def accumulate(self) -> int:
        """Batches of a step."""
        return self._settings.accumulate * 2 if self.halved else self._settings.accumulate

    def plans(self, first: int) -> Iterator[BatchPlan]:
        """This process's share of the batches from a step on."""
        batch, unlabelled, accumulate = self.batch, self.unlabelled, self.accumulate
        rank, size = self._group.rank, self._group.size
        for step in range(first, self.steps):
            for part in range(accumulate):
                place = step * accumulate + part
                own = place * batch + rank * batch // size
                others = place * unlabelled + rank * unlabelled // size
                yield BatchPlan(
                    range(own, own + batch // size),
                    range(others, others + unlabelled // size),
                    self._has_mosaics(step),
                )

    def number(self, step: int, part: int) -> int:
        """The number of this process's batch among all of the run, for what is drawn in it."""
        return (step * self.accumulate + part) * self._group.size + self._group.rank

    def names(self, step: int) -> list[str]:
        """Names for the batches of a step; one without mosaics shows other pictures."""
        mosaics = '' if self._has_mosaics(step) else '-plain'
        return [f'{step * self.accumulate + part:07d}{mosaics}' for part in range(self.accumulate)]

    def names_from(self, first: int) -> list[str]:
        """The same of all batches from a step on."""
        return [name for step in range(first, self.steps) for name in self.names(step)]

    def _has_mosaics(self, step: int) -> bool:
        return step < self.steps * (1 - self._settings.augment.close_mosaic)

    def halve(self) -> bool:
        """Half as many images at once, twice as often; False where that was done before or the batch has no half."""
        share = self._group.size * 2
        if self.halved or self.batch % share or self.unlabelled % share:
            return False
        self.halved = True
        return True
