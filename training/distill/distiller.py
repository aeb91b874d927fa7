"""Joins teachers to a student in training: asks them about each batch, or recalls what they said, and gives the terms' losses."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from training.data.loader import Batch
from training.distill.bundle_teacher import BundleTeacher
from training.distill.confidence import Truth
from training.distill.controls import other_images
from training.distill.gradients import GradientLengths
from training.distill.job import BatchNames, DistillJob, Processes
from training.distill.outputs import Outputs, Probe, branches_of
from training.distill.teacher import Teacher
from training.distill.teacher_cache import HEAD, Recorder, Replay, hash_of, key_of
from training.distill.teacher_terms import AnyTeacher, TeacherTerms, TermLoss
from training.errors import FitError
from training.schema import counted
from training.seeding import seeded

_logger = logging.getLogger(__name__)


class Distiller:
    """Joins the teachers of a job to its student.

    Attributes:
        terms: the teachers, and the losses by which they are compared with the student.
    """

    def __init__(
        self, job: DistillJob, student: Any, schedule: BatchNames, group: Processes, dtype: torch.dtype
    ) -> None:
        """Load the teachers.

        Args:
            job: what is learned from whom.
            student: the network.
            schedule: of its batches.
            group: the processes that train it.
            dtype: in which the teachers compute.

        Raises:
            WeightsError: a teacher's file that cannot be used.
            LossError, FitError: see TeacherTerms.
        """
        self._job, self._settings = job, job.settings
        self._student, self._schedule, self._group = student, schedule, group
        teachers = {name: self._load(name, place, dtype) for place, name in enumerate(job.teachers)}
        for name, term in zip(self._settings.names, self._settings.terms, strict=True):
            if self._settings.task_weight and term.is_initialization:
                _logger.warning('%s is made for a stage of its own before the task is trained: task_weight 0', name)
        with seeded(job.seed, -2):
            self.terms = TeacherTerms(self._settings, teachers, student, job.image_size, {job.kept_of: job.kept})
        self.gradients = GradientLengths(self._settings, group)
        self._probe = Probe(student, self.terms.student_layers)
        self._recorder: Recorder | None = None

    def _load(self, name: str, place: int, dtype: torch.dtype) -> AnyTeacher:
        fresh = self._job.seed + place if self._settings.teacher_control == 'random' else None
        file = self._job.teachers[name]
        if file.is_dir():
            if fresh is not None:
                raise FitError(f'{file} is a bundle: teacher_control: random needs a network of weights')
            return BundleTeacher(file, self._job.classes, self._settings.class_map)
        teacher = Teacher(file, self._job.classes, self._group.device, dtype, fresh)
        if self._group.first:
            measured = self._job.measured.get(name)
            _logger.info(
                'teacher %s%s: %d of %d tensors loaded, sha256 %s%s',
                f'{name}, ' if name else '', file, teacher.tensors, teacher.tensors, teacher.sha256[:16],
                '' if measured is None else f', measured mAP50-95 {measured:.4g}',
            )  # fmt: skip
        return teacher

    def losses(
        self, predictions: Any, task: Tensor, images: Tensor, batch: Batch, step: int, part: int
    ) -> tuple[dict[str, TermLoss], dict[str, Tensor]]:
        """The losses of all terms on a batch, and how much each of several teachers counts.

        Args:
            predictions: what the student's head put out, after a forward pass of these images.
            task: the task's own loss of these images.
            images: (N, 3, H, W), labelled ones first.
            batch: the same as they were read.
            step: from 0.
            part: number of the batch in the step.

        Raises:
            FitError: a term that moves nothing; answers that cannot be kept.
        """
        maps = self._probe.take()
        weights = self.terms.weights_at(step, step * self._schedule.epochs_per_step)
        self.gradients.newest = {}
        if not any(weights):
            return {}, {}
        said = self._said(self.terms.asked(weights), images, batch, step, part)
        truth = _truth(batch, self._job.image_size, self._group.device)
        losses, shares = self.terms.losses(Outputs(maps, branches_of(predictions)), said, images, truth, weights)
        if part == 0:
            parameters = [value for value in self._student.parameters() if value.requires_grad]
            self.gradients.measure(task, losses, parameters, step, self._weight_before(step))
        return self.gradients.weighed(losses), shares

    def _weight_before(self, step: int) -> Callable[[int], float]:
        epoch = (step - 1) * self._schedule.epochs_per_step
        return lambda place: self._settings.terms[place].weight_at(step - 1, epoch)

    def state(self) -> dict[str, Any]:
        """What a resumed run must know, beside the terms' parameters."""
        return {'gradients': self.gradients.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.gradients.restore(state['gradients'])

    def drop(self) -> None:
        """Forget a batch that was broken off; the maps hold its memory."""
        self._probe.take()

    def restart(self) -> None:
        """The schedule has changed: other batches have other answers."""
        self._recorder = None

    def end(self) -> None:
        """Leave the student alone, and prove that the teachers are what they were."""
        self.terms.check_unchanged()
        self._probe.remove()

    def record(self) -> Mapping[str, Any]:
        """Who taught."""
        records = {
            name: {
                'teacher': str(teacher.file),
                'teacher_sha256': teacher.sha256,
                'teacher_map': self._job.measured.get(name),
            }
            for name, teacher in self.terms.teachers.items()
        }
        return records.get('', {'teachers': records})

    # What the teachers say.

    def _said(
        self, teachers: Mapping[str, AnyTeacher], images: Tensor, batch: Batch, step: int, part: int
    ) -> dict[str, Outputs]:
        said = self._kept_or_asked(teachers, images, batch, step, part)
        if self._settings.teacher_control == 'shuffled':
            others = other_images(len(images), self._job.seed, step)
            said = {name: outputs.part(others) for name, outputs in said.items()}
        return said

    def _kept_or_asked(
        self, teachers: Mapping[str, AnyTeacher], images: Tensor, batch: Batch, step: int, part: int
    ) -> dict[str, Outputs]:
        """What is kept of an earlier run, where the settings say so."""
        if not self._settings.cache:
            return {name: teacher(images) for name, teacher in teachers.items()}
        if self._recorder is None:
            self._recorder = self._open_answers(step)
        pictures, place = hash_of(batch.images), self._schedule.names(step)[part]
        device, recorder = images.device, self._recorder
        later = functools.partial(self._schedule.names_from, step)
        return {
            name: recorder(name, place, pictures, device, functools.partial(teacher, images), later)
            for name, teacher in teachers.items()
        }

    def _open_answers(self, step: int) -> Recorder:
        """What is kept of the teachers, the pictures and the size of batches of this run."""
        places = self._schedule.names_from(step)
        replays = {}
        for name, teacher in self.terms.teachers.items():
            replays[name] = self._replay(name, teacher)
            if self._group.first:
                lacking = max(replays[name].missing(places).values())
                _logger.info(
                    'teacher %s: answers to %d of %d batches are kept in %s',
                    name, len(places) - lacking, len(places), replays[name].folder,
                )  # fmt: skip
        return Recorder(self._job.answers, replays, self._settings.cache_gb * 1e9, self._group.size)

    def _replay(self, name: str, teacher: AnyTeacher) -> Replay:
        settings = self._settings
        round_to = torch.float16 if settings.cache_precision == 'float16' else None
        fresh = [self._job.seed, name] if settings.teacher_control == 'random' else None
        who = key_of(
            teacher.sha256, fresh, str(teacher.precision), str(round_to), self._group.device.type, torch.__version__
        )
        items = [*teacher.layers, *([HEAD] if teacher.with_head else [])]
        return Replay(self._job.answers / who / key_of(self._pictures()), items, teacher.precision, round_to)

    def _pictures(self) -> dict[str, Any]:
        """What the pictures of a batch depend on, beside its name."""
        return {
            **counted(self._job.pictures),
            'sizes': (self._schedule.batch, self._schedule.unlabelled),
            'process': [self._group.rank, self._group.size],
        }


def _truth(batch: Batch, size: int, device: torch.device) -> Truth:
    centers, halves = batch.boxes[:, :2], batch.boxes[:, 2:] / 2
    corners = torch.cat([centers - halves, centers + halves], 1).to(device) * size
    ids, class_ids = batch.image_ids.to(device), batch.class_ids.to(device).long()
    of_images = [ids == image for image in range(batch.labelled)]
    return Truth([corners[own] for own in of_images], [class_ids[own] for own in of_images], size)
