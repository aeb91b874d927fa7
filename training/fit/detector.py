"""Training a detector, from labels alone or from teachers too: the task that `fit.loop` trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.data.loader import Batch, Batches
from training.distill.job import DistillJob
from training.distill.outputs import measure_shape, part_of, to_float32
from training.errors import FitError
from training.fit.auto_batch import chosen_batch, noise_step
from training.fit.depthwise import depthwise_in_float32
from training.fit.families import family_of, targets_of
from training.fit.freezing import freeze
from training.fit.job import FitJob, FitResult, identity
from training.fit.loop import fit
from training.fit.pictures import image_set
from training.fit.precision import autocast, autocast_dtype
from training.fit.processes import Group
from training.fit.schedule import Schedule
from training.fit.task import NOBODY, Losses, Measuring
from training.fit.validation import Validation
from training.models.starts import start_network
from training.models.weights import save_weights

if TYPE_CHECKING:
    from training.distill.distiller import Distiller
    from training.distill.teacher_terms import TermLoss

STRIDE = 32  # of the coarsest map


def fit_detector(job: FitJob, folder: Path, *, anew: bool = False) -> FitResult:
    """Train, or go on where an interrupted training of the same job stood.

    Args:
        job: what to do.
        folder: of its files, see `fit.loop.fit`.
        anew: start from the beginning whatever the folder holds.

    Raises:
        DataError: no image that can be used, or wrong labels.
        WeightsError: a weights file that cannot be used.
        LossError: a loss that cannot be used on these networks.
        FitError, Interrupted: see `fit.loop.fit`.
    """
    return fit(
        lambda group: DetectorTask(_with_batch(job, folder, group), folder, group), folder, identity(job), anew=anew
    )


def _with_batch(job: FitJob, folder: Path, group: Group) -> FitJob:
    """The job with the batch that `auto` finds; the teachers' part of the memory is not known then."""
    settings = job.settings
    if not isinstance(settings.batch, str):
        return job
    network = start_network(job.student, job.classes, job.seed).to(group.device).train()
    batch = chosen_batch(folder, group, noise_step(network, settings.image_size, group.device))
    return dataclasses.replace(job, settings=dataclasses.replace(settings, batch=batch))


class DetectorTask:
    """See `fit.task.Task`."""

    first_steps = 0

    def __init__(self, job: FitJob, folder: Path, group: Group) -> None:
        self.job, self.folder, self.group = job, folder, group
        self.settings, self.seed, self.sparsity = job.settings, job.seed, job.sparsity

        images = image_set(job, folder, job.images, labelled=True)
        unlabelled = image_set(job, folder, job.unlabelled, labelled=False) if job.unlabelled else None
        self.schedule = Schedule(self.settings, len(images), unlabelled=unlabelled is not None, group=group)
        self._batches = Batches(images, unlabelled, job.data_seed, self.settings.workers)

        self.student = start_network(job.student, job.classes, job.seed).to(
            group.device, memory_format=torch.channels_last
        )
        self.student.train()
        freeze(self.student, self.settings.freeze)
        self.family = family_of(self.student)
        if job.unlabelled and not self.family.takes_unlabelled:
            raise FitError(f'{self.family.name} is trained on labelled images only: leave the unlabelled ones out')

        self._precision = autocast_dtype(self.settings.precision, group.device)
        if self._precision is torch.bfloat16 and group.device.type == 'cpu':
            depthwise_in_float32(self.student)
        self.distiller = self._make_distiller()
        self.terms: nn.Module = nn.ModuleList() if self.distiller is None else self.distiller.terms.terms
        self.terms.to(group.device)
        self.validation: Measuring | None = self._make_validation()

    def _make_distiller(self) -> Distiller | None:
        job, settings = self.job, self.settings
        if job.distill is not None and settings.augment.multi_scale:
            raise FitError('multi_scale goes without distill, whose terms compare maps of one size')
        if job.distill is None:
            # As with terms: what a head keeps from its first pass must be the same in both arms of a study.
            measure_shape(self.student, (), settings.image_size)
            return None
        pictures = {
            'images': [str(file) for file in job.images],
            'unlabelled': [str(file) for file in job.unlabelled],
            'size': settings.image_size,
            # A batch's name says whether it has mosaics.
            'augment': dataclasses.replace(settings.augment, close_mosaic=0.0),
            'seed': job.data_seed,
        }
        asked = DistillJob(
            settings=job.distill,
            teachers=job.all_teachers,
            measured=job.measured,
            classes=job.classes,
            image_size=settings.image_size,
            seed=job.seed,
            answers=job.answers or self.folder / 'answers',
            pictures=pictures,
            kept=job.kept,
            kept_of=job.kept_of,
        )
        # Imports Ultralytics, which a training without a teacher can do without.
        from training.distill.distiller import Distiller

        return Distiller(asked, self.student, self.schedule, self.group, self._precision or torch.float32)

    def _make_validation(self) -> Validation | None:
        job, settings = self.job, self.settings
        if not settings.validate_epochs:
            return None
        if job.validation is None:
            raise FitError('validate_epochs needs a validation set')
        measured = (settings.image_size, settings.validate_images, self.group.device)
        return Validation(self.folder, job.validation, job.classes, *measured)

    # What the loop asks for.

    def batches(self, step: int) -> Iterator[Batch]:
        """See Task."""
        return self._batches.iterate(self.schedule.plans(step))

    def advance(self, progress: float) -> None:
        """YOLO26's shift from its one branch to the other."""
        criterion: Any = getattr(self.student, 'criterion', None)
        if hasattr(criterion, 'o2m'):
            criterion.o2m = criterion.o2m_copy + (criterion.final_o2m - criterion.o2m_copy) * progress
            criterion.o2o = criterion.total - criterion.o2m

    def losses(self, batch: Batch, step: int, part: int) -> Losses:
        """The task's own loss on the labelled images, and the terms' on all."""
        images = batch.images.to(self.group.device, non_blocking=True)
        images = images.to(memory_format=torch.channels_last).float() / 255
        images = self._scaled(images, self.schedule.number(step, part))
        targets = targets_of(batch, images)
        with autocast(self.group.device, self._precision):
            predictions = self.family.predict(self.student, images, targets)
        predictions = to_float32(predictions)

        own = part_of(predictions, slice(batch.labelled)) if batch.labelled < len(images) else predictions
        task, parts = self.family.loss(self.student, targets, own)
        values = {'task': task, **{f'task/{name}': value for name, value in parts.items()}}

        losses: dict[str, TermLoss] = {}
        shares: dict[str, Tensor] = {}
        if self.distiller is not None:
            losses, shares = self.distiller.losses(predictions, task, images, batch, step, part)
        values.update({name: loss.value for name, loss in losses.items()})
        total = task * (self.job.distill.task_weight if self.job.distill is not None else 1.0)
        for loss in losses.values():
            total = total + loss.weighted
        # Of all images of a step, like Ultralytics', so that its learning rates hold.
        return Losses(total * batch.labelled, {'loss': total, **values, **shares})

    def _scaled(self, images: Tensor, number: int) -> Tensor:
        """The batch at a side of its own, where that is asked for."""
        size, spread = self.settings.image_size, self.settings.augment.multi_scale
        if not spread:
            return images
        share = np.random.default_rng((self.job.data_seed, number)).uniform(1 - spread, 1 + spread)
        side = max(round(size * share / STRIDE), 1) * STRIDE
        return functional.interpolate(images, (side, side), mode='bilinear', align_corners=False)

    def notes(self) -> Mapping[str, float]:
        """The lengths of the losses' gradients, where they were measured."""
        return {} if self.distiller is None else self.distiller.gradients.newest

    def drop(self, *, halved: bool) -> None:
        """See Task."""
        if self.distiller is not None:
            self.distiller.drop()
            if halved:
                self.distiller.restart()

    def state(self) -> dict[str, Any]:
        """See Task."""
        return {} if self.distiller is None else self.distiller.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Task."""
        if self.distiller is not None:
            self.distiller.restore(state)

    def bare(self) -> Any:
        """See Task."""
        return self.family.bare(self.student)

    def save(self, network: Any, file: Path) -> None:
        """See Task."""
        save_weights(network, file, self.job.classes)

    def end(self) -> Mapping[str, Any]:
        """See Task."""
        if self.distiller is None:
            return NOBODY
        self.distiller.end()
        return self.distiller.record()
