"""Training a detector, from labels alone or from a teacher too: `fit` is the table of contents.

A run is a function of its job: the images, their order and augmentation depend on (seed, position), and the random numbers
of a step on (seed, step). So a run that was interrupted anywhere and continued gives the bytes of one that was not (on a
CPU), and two arms of a study that differ in their losses see the same images.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import dataclasses
import functools
import hashlib
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.data.loader import Batch, Batches, BatchPlan, ImageSet
from training.distill import checkpoint
from training.distill.confidence import Truth
from training.distill.controls import other_images
from training.distill.faculty import Faculty, Pull
from training.distill.families import family_of
from training.distill.outputs import Outputs, Probe, branches_of, measure_shape, part_of, to_float32
from training.distill.precision import autocast_dtype
from training.distill.processes import Group, joined
from training.distill.replay import HEAD, Recorder, Replay, hash_of, key_of
from training.distill.settings import DistillSettings, FitSettings
from training.distill.teacher import Teacher, fingerprint
from training.errors import DataError, FitError, Interrupted
from training.models.weights import build_network, load_network, save_weights
from training.schema import counted
from training.steps import digest

if TYPE_CHECKING:
    from training.prune.sparsity import SparsitySettings

_logger = logging.getLogger(__name__)
WEIGHTS, LOG, RECORD = 'weights.pt', 'log.csv', 'fit.json'


@dataclass(frozen=True)
class FitJob:
    """One training.

    Attributes:
        student: a network, its weights file, or an architecture (see `training.models.weights`) for fresh weights.
        classes: their names.
        images: with labels, see ImageSet.
        settings: see FitSettings.
        seed: of fresh weights, order, augmentation and everything else.
        unlabelled: images without labels, taught by the teacher alone.
        teacher: its weights file; `distill` needs this or `teachers`.
        teacher_map: its measured mAP50-95, for the record.
        distill: what is learned from the teacher.
        sparsity: see SparsitySettings.
        kept: for each level that the head reads, the teacher's channels that a pruned student kept.
        teachers: several, by names that the log shows, their weights files.
        teacher_maps: what was measured of them, by name.
        kept_of: the one of several from which the student was pruned, whose channels `kept` names.
        answers: folder where what teachers say is kept, for all trainings that may share it, if `distill` says so; the
            training's own by default.
    """

    student: nn.Module | Path | str | Mapping[str, Any]
    classes: tuple[str, ...]
    images: Sequence[Path]
    settings: FitSettings
    seed: int = 0
    unlabelled: Sequence[Path] = ()
    teacher: Path | None = None
    teacher_map: float | None = None
    distill: DistillSettings | None = None
    sparsity: SparsitySettings | None = None
    kept: Sequence[Sequence[int]] | None = None
    teachers: Mapping[str, Path] = field(default_factory=dict)
    teacher_maps: Mapping[str, float] = field(default_factory=dict)
    kept_of: str = ''
    answers: Path | None = None

    def __post_init__(self) -> None:
        if self.teacher is not None and self.teachers:
            raise FitError('give teacher, or several by name as teachers, not both')
        if (not self.faculty) != (self.distill is None):
            raise FitError('teacher and distill belong together: give both or none')
        if self.unlabelled and (self.distill is None or not self.settings.unlabelled_batch):
            raise FitError('unlabelled images need a teacher, terms to distil by, and unlabelled_batch above 0')

    @property
    def faculty(self) -> Mapping[str, Path]:
        """The teachers' weights files by name; a single one's name is empty."""
        return self.teachers if self.teacher is None else {'': self.teacher}

    @property
    def measured(self) -> Mapping[str, float]:
        """What was measured of the teachers, by the same names."""
        return self.teacher_maps if self.teacher_map is None else {'': self.teacher_map}


@dataclass(frozen=True)
class FitResult:
    """What a training leaves behind.

    Attributes:
        weights: file of the result.
        steps: how many were made.
        log: CSV with a row for every step.
    """

    weights: Path
    steps: int
    log: Path


def fit(job: FitJob, folder: Path, *, anew: bool = False) -> FitResult:
    """Train, or go on where an interrupted training of the same job stood.

    Args:
        job: what to do.
        folder: of its files: weights.pt, log.csv, fit.json, TensorBoard's, and checkpoint.pt until the end.
        anew: start from the beginning whatever the folder holds.

    Raises:
        DataError: no image that can be used, or wrong labels.
        WeightsError: a weights file that cannot be used.
        LossError: a loss that cannot be used on these networks.
        FitError: the job is not possible, a loss became NaN, a term has no effect, the disk or the memory is full, or the
            folder holds an unfinished training of another job.
        Interrupted: by Ctrl-C or SIGTERM, after a checkpoint.
    """
    with joined() as group:
        result = _finished(job, folder) if not anew else None
        if result is not None:
            return result
        if group.first:
            folder.mkdir(parents=True, exist_ok=True)
            if anew:
                for name in (checkpoint.NAME, LOG, RECORD, WEIGHTS):
                    (folder / name).unlink(missing_ok=True)
        group.wait()
        run = _Run(job, folder, group)
        run.resume()
        with _Signals() as signals:
            run.train(signals)
        return run.finish()


class _Run:
    """The state of a training, and what one step does to it."""

    def __init__(self, job: FitJob, folder: Path, group: Group) -> None:
        self.job, self.folder, self.group = job, folder, group
        self.settings = job.settings
        self.identity = _identity(job)
        self.halved = False
        self.step = 0
        self._check_batch()

        self.student = _student(job).to(group.device, memory_format=torch.channels_last)
        self.student.train()
        _freeze(self.student, self.settings.freeze)
        self.penalty = _penalty(self.student, job.sparsity)
        self.family = family_of(self.student)
        if job.unlabelled and not self.family.takes_unlabelled:
            raise FitError(f'{self.family.name} is trained on labelled images only: leave the unlabelled ones out')

        images = ImageSet(job.images, len(job.classes), self.settings.image_size, self.settings.augment)
        unlabelled = None
        if job.unlabelled:
            unlabelled = ImageSet(
                job.unlabelled, len(job.classes), self.settings.image_size, self.settings.augment, labelled=False
            )
        self.batches = Batches(images, unlabelled, self._data_seed, self.settings.workers)
        self.images = len(images)
        per_step = self.settings.batch * self.settings.accumulate
        self.steps = self.settings.steps or math.ceil(self.settings.epochs * self.images / per_step)
        self.epochs_per_step = per_step / self.images

        self.precision = autocast_dtype(self.settings.precision, group.device)
        self.faculty: Faculty | None = None
        self.recorder: Recorder | None = None
        self.terms = nn.ModuleList()
        self.probe = Probe(self.student, ())
        if job.distill is None:
            # As with terms: what a head keeps from its first pass must be the same in both arms of a study.
            measure_shape(self.student, (), self.settings.image_size)
        else:
            self._engage(job.distill)
        self.terms.to(group.device)

        # With the terms' parameters, before the first step: an adapter that joins later would never be trained.
        self.optimizer = _optimizer([self.student, self.terms], self.settings)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=self.precision is torch.float16)
        self.averaged = {name: value.detach().clone() for name, value in self.student.state_dict().items()}
        self.log = _Log(folder, enabled=group.first)

    def _check_batch(self) -> None:
        for name, value in (('batch', self.settings.batch), ('unlabelled_batch', self.settings.unlabelled_batch)):
            if value % self.group.size:
                raise FitError(f'{name} {value} cannot be shared by {self.group.size} processes: choose a multiple')

    def _engage(self, settings: DistillSettings) -> None:
        """Load the teachers, and join them to the student by the terms."""
        teachers = {name: self._teacher(name, place) for place, name in enumerate(self.job.faculty)}
        for name, term in zip(settings.names, settings.terms, strict=True):
            if settings.task_weight and term.is_initialisation:
                _logger.warning('%s is made for a stage of its own before the task is trained: task_weight 0', name)
        with _seeded(self.job.seed, -2):
            self.faculty = Faculty(
                settings, teachers, self.student, self.settings.image_size, {self.job.kept_of: self.job.kept}
            )
        self.terms = self.faculty.terms
        self.probe = Probe(self.student, self.faculty.student_layers)

    def _teacher(self, name: str, place: int) -> Teacher:
        settings, group = self.job.distill, self.group
        fresh = self.job.seed + place if settings is not None and settings.teacher_control == 'random' else None
        file, dtype = self.job.faculty[name], self.precision or torch.float32
        teacher = Teacher(file, self.job.classes, group.device, dtype, fresh)
        if group.first:
            measured = self.job.measured.get(name)
            _logger.info(
                'teacher %s%s: %d of %d tensors loaded, sha256 %s%s',
                f'{name}, ' if name else '', file, teacher.tensors, teacher.tensors, teacher.sha256[:16],
                '' if measured is None else f', measured mAP50-95 {measured:.4g}',
            )  # fmt: skip
        return teacher

    # What `fit` does.

    def resume(self) -> None:
        """Go on from the folder's checkpoint, where there is one."""
        state = checkpoint.read(self.folder)
        if state is None:
            self.log.start_at(0, 0)
            return
        different = [name for name, value in self.identity.items() if state['job'].get(name) != value]
        if different:
            raise FitError(
                f'{self.folder} holds an unfinished training that differs in {", ".join(different)}: choose another '
                'folder, or remove this one'
            )
        self.step, self.halved = state['step'], state['halved']
        self.student.load_state_dict(state['student'])
        self.terms.load_state_dict(state['terms'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.scaler.load_state_dict(state['scaler'])
        if self.faculty is not None and 'weighting' in state:
            self.faculty.weighting.restore(state['weighting'])
        for name, value in state['averaged'].items():
            self.averaged[name].copy_(value)
        self.log.start_at(state['log'], self.step)
        if self.group.first:
            _logger.info('continued at step %d of %d', self.step, self.steps)

    def train(self, signals: _Signals) -> None:
        """All steps that are left."""
        batches = self._batches_from(self.step)
        saved = time.monotonic()
        bar = tqdm(total=self.steps, initial=self.step, unit='it', disable=not self.group.first, mininterval=1.0)
        with bar, self.log:
            while self.step < self.steps:
                started = time.monotonic()
                self._set_rates()
                values = self._accumulate(batches)
                if values is None:
                    batches = self._batches_from(self.step)
                    continue
                if self.faculty is not None:
                    self.faculty.learn(values)
                values['gradient'] = self._update()
                if self.penalty is not None:
                    values['sparsity'] = self.penalty.value()
                self.step += 1
                self.log.write(self.step, values, time.monotonic() - started)
                bar.set_postfix({name: f'{value:.4g}' for name, value in values.items() if name in ('loss', 'task')})
                bar.update()
                stop = self._stop_asked(signals)
                every = self.settings.checkpoint_steps
                minutes = self.settings.checkpoint_minutes
                due = bool(every and self.step % every == 0) or bool(
                    minutes and time.monotonic() - saved > 60 * minutes
                )
                if (due or stop) and self.step < self.steps:
                    self.save()
                    saved = time.monotonic()
                    if stop:
                        raise Interrupted(
                            f'stopped at step {self.step} of {self.steps}: run the same again to go on from there'
                        )

    def save(self) -> None:
        """Write the checkpoint."""
        if not self.group.first:
            return
        state = {
            'job': self.identity,
            'step': self.step,
            'halved': self.halved,
            'student': self.student.state_dict(),
            'averaged': self.averaged,
            'terms': self.terms.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'scaler': self.scaler.state_dict(),
            'log': self.log.flushed(),
            'weighting': {} if self.faculty is None else self.faculty.weighting.state(),
        }
        checkpoint.write(self.folder, state)

    def finish(self) -> FitResult:
        """Write the result, and prove that the teacher is what it was."""
        if self.faculty is not None:
            self.faculty.check_unchanged()
        result = FitResult(self.folder / WEIGHTS, self.steps, self.folder / LOG)
        if self.group.first:
            self.probe.remove()
            network = self.family.bare(self.student)
            network.load_state_dict(self.averaged if self.settings.ema_decay else self.student.state_dict())
            save_weights(network, result.weights, self.job.classes)
            record = {
                'job': self.identity,
                'steps': self.steps,
                'halved_batch': self.halved,
                'weights_sha256': _sha256(result.weights),
                **self._teachers_record(),
            }
            (self.folder / RECORD).write_text(json.dumps(record, indent=1), encoding='utf-8')
            (self.folder / checkpoint.NAME).unlink(missing_ok=True)
        self.group.wait()
        return result

    def _teachers_record(self) -> dict[str, Any]:
        known = {} if self.faculty is None else self.faculty.teachers
        records = {
            name: {
                'teacher': str(teacher.file),
                'teacher_sha256': teacher.sha256,
                'teacher_map': self.job.measured.get(name),
            }
            for name, teacher in known.items()
        }
        nobody = {'teacher': None, 'teacher_sha256': None, 'teacher_map': None}
        return {'teachers': records} if self.job.teachers else records.get('', nobody)

    # What a step does.

    def _batches_from(self, step: int) -> Iterator[Batch]:
        return self.batches.iterate(self._plans(step))

    def _plans(self, first: int) -> Iterator[BatchPlan]:
        batch, spare, accumulate = self._sizes()
        rank, size = self.group.rank, self.group.size
        for step in range(first, self.steps):
            for part in range(accumulate):
                place = step * accumulate + part
                own, others = place * batch + rank * batch // size, place * spare + rank * spare // size
                yield BatchPlan(
                    range(own, own + batch // size), range(others, others + spare // size), self._has_mosaics(step)
                )

    def _sizes(self) -> tuple[int, int, int]:
        """Labelled and unlabelled images of a batch, and batches of a step."""
        settings = self.settings
        unlabelled = settings.unlabelled_batch if self.job.unlabelled else 0
        if not self.halved:
            return settings.batch, unlabelled, settings.accumulate
        return settings.batch // 2, unlabelled // 2, settings.accumulate * 2

    def _set_rates(self) -> None:
        """Learning rate, and YOLO26's shift from its one branch to the other, as the step says."""
        settings, progress = self.settings, self.step / self.steps
        cosine = (1 + math.cos(math.pi * progress)) / 2
        share = settings.final_share + (1 - settings.final_share) * cosine
        if self.step < settings.warmup_steps:
            share *= (self.step + 1) / settings.warmup_steps
        self.rate = settings.learning_rate * share
        for group in self.optimizer.param_groups:
            group['lr'] = self.rate
        criterion: Any = getattr(self.student, 'criterion', None)
        if hasattr(criterion, 'o2m'):
            criterion.o2m = criterion.o2m_copy + (criterion.final_o2m - criterion.o2m_copy) * progress
            criterion.o2o = criterion.total - criterion.o2m

    def _accumulate(self, batches: Iterator[Batch]) -> dict[str, float] | None:
        """The gradients of one step; None where the memory did not suffice and smaller batches must be tried."""
        self.optimizer.zero_grad(set_to_none=True)
        accumulate = self._sizes()[2]
        sums: dict[str, Tensor] = {}
        failure: Exception | None = None
        try:
            for part in range(accumulate):
                with _seeded(self.job.seed, (self.step * accumulate + part) * self.group.size + self.group.rank):
                    values = self._backward(next(batches), part)
                for name, value in values.items():
                    sums[name] = sums.get(name, torch.zeros((), device=self.group.device)) + value.detach() / accumulate
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            # What its frames hold is the memory that is wanted.
            failure = error.with_traceback(None)
            self.probe.take()
        if self._any(failure is not None):
            self._halve(failure)
            return None
        self.group.mean(list(sums.values()))
        row = {'epoch': self.step * self.epochs_per_step, 'learning_rate': self.rate}
        row.update({name: float(value) for name, value in sums.items()})
        for name, mean in row.items():
            if name != 'loss' and not math.isfinite(mean):
                raise FitError(f'{name} became {mean} at step {self.step + 1}{self._last_good()}')
        return row

    def _backward(self, batch: Batch, part: int) -> dict[str, Tensor]:
        """Forward and backward of the step's batch of that number; the values of the losses."""
        images = batch.images.to(self.group.device, non_blocking=True)
        images = images.to(memory_format=torch.channels_last).float() / 255
        targets = _targets(batch, images)
        with _autocast(self.group.device, self.precision):
            predictions = self.family.predict(self.student, images, targets)
        predictions = to_float32(predictions)

        own = part_of(predictions, slice(batch.labelled)) if batch.labelled < len(images) else predictions
        task, parts = self.family.loss(self.student, targets, own)
        values = {'task': task, **{f'task/{name}': value for name, value in parts.items()}}

        pulls, shares = self._distil(images, predictions, batch, part)
        values.update({name: pull.value for name, pull in pulls.items()})
        total = task * (self.job.distill.task_weight if self.job.distill is not None else 1.0)
        for pull in pulls.values():
            total = total + pull.weighted
        # Of all images of a step, like Ultralytics', so that its learning rates hold.
        self.scaler.scale(total * batch.labelled).backward()
        return {'loss': total, **values, **shares}

    def _distil(
        self, images: Tensor, predictions: Any, batch: Batch, part: int
    ) -> tuple[dict[str, Pull], dict[str, Tensor]]:
        """What the teachers ask of the student, and how much each of several counts."""
        maps = self.probe.take()
        settings = self.job.distill
        if settings is None or self.faculty is None:
            return {}, {}
        weights = self.faculty.weights_at(self.step, self.step * self.epochs_per_step)
        if not any(weights):
            return {}, {}
        student = Outputs(maps, branches_of(predictions))
        said = self._ask(self.faculty.asked(weights), images, batch, part)
        if settings.teacher_control == 'shuffled':
            others = other_images(len(images), self.job.seed, self.step)
            said = {name: outputs.part(others) for name, outputs in said.items()}
        truth = _truth(batch, self.settings.image_size, self.group.device)
        pulls, shares = self.faculty.teach(student, said, images, truth, weights)
        if part == 0:
            parameters = [value for value in self.student.parameters() if value.requires_grad]
            self.faculty.prove(pulls, parameters, self.step, self.epochs_per_step)
        return pulls, shares

    def _ask(self, teachers: Mapping[str, Teacher], images: Tensor, batch: Batch, part: int) -> dict[str, Outputs]:
        """What teachers say of a batch: what is kept of an earlier run, where the settings say so."""
        settings = self.job.distill
        assert settings is not None
        if not settings.cache:
            return {name: teacher(images) for name, teacher in teachers.items()}
        if self.recorder is None:
            self.recorder = self._open_answers(settings)
        pictures, place = hash_of(batch.images), self._places(self.step)[part]
        device, recorder = images.device, self.recorder
        return {
            name: recorder(name, place, pictures, device, functools.partial(teacher, images), self._places_left)
            for name, teacher in teachers.items()
        }

    def _open_answers(self, settings: DistillSettings) -> Recorder:
        """What is kept for the teachers, the pictures and the size of batches of this run."""
        assert self.faculty is not None
        folder, group = self.job.answers or self.folder / 'answers', self.group
        data = {**counted(self._pictures_identity()), 'sizes': self._sizes()[:2], 'process': [group.rank, group.size]}
        round_to = torch.float16 if settings.cache_precision == 'float16' else None
        replays = {}
        for name, teacher in self.faculty.teachers.items():
            fresh = [self.job.seed, name] if settings.teacher_control == 'random' else None
            who = key_of(
                teacher.sha256, fresh, str(teacher.precision), str(round_to), group.device.type, torch.__version__
            )
            items = [*teacher.layers, *([HEAD] if teacher.with_head else [])]
            replays[name] = Replay(folder / who / key_of(data), items, teacher.precision, round_to)
            if group.first:
                places = self._places_left()
                lacking = max(replays[name].missing(places).values())
                _logger.info(
                    'teacher %s: answers to %d of %d batches are kept in %s',
                    name, len(places) - lacking, len(places), replays[name].folder,
                )  # fmt: skip
        return Recorder(folder, replays, settings.cache_gb * 1e9, group.size)

    def _pictures_identity(self) -> dict[str, Any]:
        """What the pictures of a step depend on, beside the step."""
        augment = dataclasses.replace(self.settings.augment, close_mosaic=0.0)
        return {
            'images': [str(file) for file in self.job.images],
            'unlabelled': [str(file) for file in self.job.unlabelled],
            'size': self.settings.image_size,
            'augment': augment,
            'seed': self._data_seed,
        }

    @property
    def _data_seed(self) -> int:
        return self.job.seed if self.settings.data_seed is None else self.settings.data_seed

    def _places(self, step: int) -> list[str]:
        """Names for the batches of a step; one without mosaics shows other pictures."""
        accumulate = self._sizes()[2]
        mosaics = '' if self._has_mosaics(step) else '-plain'
        return [f'{step * accumulate + part:07d}{mosaics}' for part in range(accumulate)]

    def _places_left(self) -> list[str]:
        return [place for step in range(self.step, self.steps) for place in self._places(step)]

    def _has_mosaics(self, step: int) -> bool:
        return step < self.steps * (1 - self.settings.augment.close_mosaic)

    def _update(self) -> float:
        """One step of the optimizer and of the averaged weights; the length of the gradient before it was cut."""
        own, others = list(self.student.parameters()), list(self.terms.parameters())
        self.scaler.unscale_(self.optimizer)
        self.group.sum_gradients([*own, *others])
        if self.penalty is not None:
            self._penalise(own)
        # Apart, so that the adapters' gradients do not shorten the student's.
        limit = self.settings.gradient_clip or float('inf')
        length = nn.utils.clip_grad_norm_(own, limit)
        nn.utils.clip_grad_norm_(others, limit)
        if not bool(length.isfinite()) and not self.scaler.is_enabled():
            raise FitError(f'the gradient became {float(length)} at step {self.step + 1}{self._last_good()}')
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.group.mean(
            [value for value in [*self.student.buffers(), *self.terms.buffers()] if value.is_floating_point()]
        )
        self._average()
        return float(length)

    def _penalise(self, parameters: Sequence[nn.Parameter]) -> None:
        """The penalty stands beside the mean loss of an image, the gradients are of a step's images."""
        gradients = [value.grad for value in parameters if value.grad is not None]
        images = float(self.settings.batch * self.settings.accumulate)
        torch._foreach_div_(gradients, images)
        self.penalty.add_gradients(self.step / self.steps)
        torch._foreach_mul_(gradients, images)

    @torch.no_grad()
    def _average(self) -> None:
        decay = self.settings.ema_decay
        if not decay:
            return
        if self.settings.ema_ramp:
            decay *= 1 - math.exp(-(self.step + 1) / self.settings.ema_ramp)
        state = self.student.state_dict()
        moving = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.averaged[name] for name in moving], [state[name] for name in moving], 1 - decay)
        for name in state.keys() - set(moving):
            self.averaged[name].copy_(state[name])

    def _halve(self, failure: Exception | None) -> None:
        batch, unlabelled, _ = self._sizes()
        share = self.group.size * 2
        if self.halved or batch % share or unlabelled % share:
            raise FitError(
                f'the memory does not suffice for a batch of {batch}: lower batch and raise accumulate'
            ) from failure
        self.halved = True
        self.recorder = None
        if self.group.device.type == 'cuda':
            torch.cuda.empty_cache()
        if self.group.first:
            _logger.warning('out of memory: %d instead of %d images at once, twice as often', batch // 2, batch)

    def _any(self, flag: bool) -> bool:
        if self.group.size == 1:
            return flag
        value = torch.tensor(float(flag), device=self.group.device)
        self.group.sum([value])
        return bool(value > 0)

    def _stop_asked(self, signals: _Signals) -> bool:
        return self._any(signals.received)

    def _last_good(self) -> str:
        file = self.folder / checkpoint.NAME
        return f'; the last good checkpoint is {file}' if file.is_file() else ''


class _Signals:
    """Notes Ctrl-C and SIGTERM, so that a run can end between two steps; a second one ends it at once."""

    def __init__(self) -> None:
        self.received = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = True
        signal.signal(number, self._before[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Log:
    """log.csv and TensorBoard; what is in the CSV depends on the run alone, so times are TensorBoard's."""

    def __init__(self, folder: Path, *, enabled: bool) -> None:
        self._folder, self._enabled = folder, enabled
        self._file: Any = None
        self._board: Any = None
        self._columns: list[str] = []

    def start_at(self, size: int, step: int) -> None:
        """Go on after `size` bytes of log.csv and `step` steps; what comes after them is dropped."""
        if not self._enabled:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._file = (self._folder / LOG).open('a+', newline='', encoding='utf-8')
        if self._file.seek(0, 2) < size:
            raise FitError(f'{self._folder / LOG} is shorter than when the checkpoint was written: start anew')
        self._file.truncate(size)
        self._file.seek(0)
        self._columns = self._file.readline().strip().split(',') if size else []
        self._file.seek(0, 2)
        self._board = SummaryWriter(str(self._folder / 'tensorboard'), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        """One step's values; columns are those of the first row and of terms that set in later."""
        if not self._enabled:
            return
        row = {'step': str(step), **{name: f'{value:.9g}' for name, value in values.items()}}
        if any(name not in self._columns for name in row):
            self._widen([*self._columns, *(name for name in row if name not in self._columns)])
        try:
            csv.writer(self._file, lineterminator='\n').writerow([row.get(name, '') for name in self._columns])
        except OSError as error:
            raise FitError(f'{self._folder / LOG} cannot be written: {error}') from error
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._board.add_scalar('seconds', seconds, step)

    def _widen(self, columns: list[str]) -> None:
        """The file anew with more columns; a term that starts late has empty cells before."""
        self._file.flush()
        self._file.seek(0)
        rows = list(csv.reader(self._file))[1:]
        self._file.truncate(0)
        writer = csv.writer(self._file, lineterminator='\n')
        writer.writerow(columns)
        writer.writerows([*row, *[''] * (len(columns) - len(row))] for row in rows)
        self._columns = columns

    def flushed(self) -> int:
        """Size of log.csv with all that was written."""
        self._file.flush()
        return (self._folder / LOG).stat().st_size

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._board.close()


def _student(job: FitJob) -> Any:
    if isinstance(job.student, nn.Module):
        return copy.deepcopy(job.student).float()
    if isinstance(job.student, Path):
        network, classes = load_network(job.student)
        if tuple(classes) != tuple(job.classes):
            raise FitError(
                f'{job.student} knows the classes {", ".join(classes)}, the training {", ".join(job.classes)}'
            )
        return network
    with _seeded(job.seed, -1):
        return build_network(job.student, job.classes)


def _freeze(network: nn.Module, layers: Sequence[str] | int) -> None:
    names = [name for name, _ in network.named_parameters()]
    if isinstance(layers, int):
        prefixes = tuple(f'model.{number}.' for number in range(layers))
        if not any(name.startswith('model.0.') for name in names):
            raise FitError(
                f'freeze: {layers} counts the layers of Ultralytics; name those of this network, like {names[0]}'
            )
    else:
        prefixes = tuple(layers)
        for prefix in prefixes:
            if not any(name.startswith(prefix) for name in names):
                raise FitError(f'freeze: no layer begins with {prefix!r}; names are like {names[0]}')
    for name, parameter in network.named_parameters():
        # The integral of a distribution is fixed, not learned.
        parameter.requires_grad_(not name.startswith(prefixes) and '.dfl.' not in name)
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and f'{name}.'.startswith(prefixes):
            module.eval()


def _penalty(network: nn.Module, settings: SparsitySettings | None) -> Any:
    if settings is None:
        return None
    from training.prune.sparsity import SparsityPenalty

    return SparsityPenalty(network, settings)


def _optimizer(networks: Sequence[nn.Module], settings: FitSettings) -> torch.optim.Optimizer:
    trained = [value for network in networks for value in network.parameters() if value.requires_grad]
    if not trained:
        raise FitError('freeze leaves nothing to train')
    groups = [
        {'params': [value for value in trained if value.ndim > 1], 'weight_decay': settings.weight_decay},
        {'params': [value for value in trained if value.ndim <= 1], 'weight_decay': 0.0},
    ]
    if settings.optimizer == 'sgd':
        nesterov = settings.momentum > 0
        return torch.optim.SGD(groups, settings.learning_rate, momentum=settings.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, settings.learning_rate, betas=(settings.momentum, 0.999))


def _targets(batch: Batch, images: Tensor) -> dict[str, Any]:
    """A batch as Ultralytics' losses want it."""
    return {
        'img': images[: batch.labelled],
        'batch_idx': batch.image_ids.to(images.device, torch.float32),
        'cls': batch.class_ids.to(images.device).view(-1, 1),
        'bboxes': batch.boxes.to(images.device),
    }


def _truth(batch: Batch, size: int, device: torch.device) -> Truth:
    centres, halves = batch.boxes[:, :2], batch.boxes[:, 2:] / 2
    corners = torch.cat([centres - halves, centres + halves], 1).to(device) * size
    ids, class_ids = batch.image_ids.to(device), batch.class_ids.to(device).long()
    of_images = [ids == image for image in range(batch.labelled)]
    return Truth([corners[own] for own in of_images], [class_ids[own] for own in of_images], size)


@contextlib.contextmanager
def _seeded(seed: int, place: int) -> Iterator[None]:
    """torch's random numbers, a function of the seed and the place; put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        drawn = hashlib.sha256(f'{seed} {place}'.encode()).digest()
        torch.manual_seed(int.from_bytes(drawn[:7], 'little'))
        yield


def _autocast(device: torch.device, dtype: torch.dtype | None) -> Any:
    return torch.autocast(device.type, dtype) if dtype is not None else contextlib.nullcontext()


def _is_out_of_memory(error: RuntimeError) -> bool:
    words = ('not enough memory', "can't allocate memory")  # on CPUs it has no type of its own
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def _identity(job: FitJob) -> dict[str, str]:
    """What a run's result depends on, by what people call it."""
    if isinstance(job.student, nn.Module):
        student: Any = fingerprint(job.student)
    else:
        student = _sha256(job.student) if isinstance(job.student, Path) else job.student
    parts = {
        'student': student,
        'classes': job.classes,
        'images': [str(file) for file in job.images],
        'unlabelled images': [str(file) for file in job.unlabelled],
        'seed': job.seed,
        'teacher': None if job.teacher is None else _sha256(job.teacher),
        'kept channels': job.kept,
        'fit settings': counted(job.settings),
        'distillation': counted(job.distill),
        'sparsity': counted(job.sparsity),
    }
    if job.teachers:
        parts['teachers'] = {
            'files': {name: _sha256(file) for name, file in job.teachers.items()},
            'kept of': job.kept_of,
        }
    for name in ('workers', 'checkpoint_minutes', 'checkpoint_steps'):
        parts['fit settings'].pop(name)
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
        for name, value in parts.items()
    }


def _sha256(file: Path) -> str:
    return digest(file) if file.is_file() else 'missing'


def _finished(job: FitJob, folder: Path) -> FitResult | None:
    """The result of a training of this job that came to its end before."""
    record = folder / RECORD
    if not record.is_file():
        return None
    try:
        entries = json.loads(record.read_text(encoding='utf-8'))
        same = entries['job'] == _identity(job) and entries['weights_sha256'] == _sha256(folder / WEIGHTS)
        return FitResult(folder / WEIGHTS, int(entries['steps']), folder / LOG) if same else None
    except (ValueError, KeyError, TypeError) as error:
        raise FitError(f'{record} is not of this trainer: choose another folder') from error


__all__ = ['DataError', 'FitJob', 'FitResult', 'fit']
