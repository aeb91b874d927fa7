"""Training a detector, from labels alone or from a teacher too: `fit` is the table of contents.

A run is a function of its job: the images, their order and augmentation depend on (seed, position), and the random numbers
of a step on (seed, step). So a run that was interrupted anywhere and continued gives the bytes of one that was not (on a
CPU), and two arms of a study that differ in their losses see the same images.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.data.loader import Batch, Batches
from training.distill.distiller import NOBODY, Distiller
from training.distill.outputs import measure_shape, part_of, to_float32
from training.distill.teacher_terms import TermLoss
from training.errors import DataError, FitError, Interrupted
from training.fit import checkpoint
from training.fit.families import family_of, targets_of
from training.fit.job import RECORD, WEIGHTS, FitJob, FitResult, finished, identity, write_record
from training.fit.log import LOG, FitLog
from training.fit.optimizer import AveragedWeights, is_out_of_memory, make_optimizer, sparsity_penalty
from training.fit.pictures import image_set
from training.fit.precision import autocast, autocast_dtype
from training.fit.processes import Group, joined
from training.fit.schedule import Schedule
from training.fit.signals import Signals
from training.fit.student import freeze, make_student
from training.fit.validation import BEST, Validation, is_due, with_state
from training.models.weights import save_weights
from training.seeding import seeded

HISTOGRAM_EVERY = 100  # steps between two histograms of γ
GAMMAS = 'gammas.png'
LAST = 'last.pt'  # where the best weights are the result
_logger = logging.getLogger(__name__)


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
        result = finished(job, folder) if not anew else None
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
        with Signals() as signals:
            run.train(signals)
        return run.finish()


class _Run:
    """The state of a training, and what one step does to it."""

    def __init__(self, job: FitJob, folder: Path, group: Group) -> None:
        self.job, self.folder, self.group = job, folder, group
        self.settings = job.settings
        self.identity = identity(job)
        self.step = 0

        images = image_set(job, folder, job.images, labelled=True)
        unlabelled = image_set(job, folder, job.unlabelled, labelled=False) if job.unlabelled else None
        self.schedule = Schedule(self.settings, len(images), unlabelled=unlabelled is not None, group=group)
        self.batches = Batches(images, unlabelled, job.data_seed, self.settings.workers)

        self.student = make_student(job).to(group.device, memory_format=torch.channels_last)
        self.student.train()
        freeze(self.student, self.settings.freeze)
        self.penalty = sparsity_penalty(self.student, job.sparsity, self.settings.optimizer)
        self.gammas = None if self.penalty is None else self.penalty.values()
        self.family = family_of(self.student)
        if job.unlabelled and not self.family.takes_unlabelled:
            raise FitError(f'{self.family.name} is trained on labelled images only: leave the unlabelled ones out')

        self.precision = autocast_dtype(self.settings.precision, group.device)
        self.distiller = self._distiller()
        self.terms = nn.ModuleList() if self.distiller is None else self.distiller.terms.terms
        self.terms.to(group.device)

        # With the terms' parameters, before the first step: an adapter that joins later would never be trained.
        self.optimizer = make_optimizer([self.student, self.terms], self.settings)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=self.precision is torch.float16)
        self.averaged = AveragedWeights(self.student, self.settings.ema_decay, self.settings.ema_ramp)
        self.log = FitLog(folder, enabled=group.first)
        self.validation = self._validation()

    def _validation(self) -> Validation | None:
        job, settings = self.job, self.settings
        if not settings.validate_epochs:
            return None
        if job.validation is None:
            raise FitError('validate_epochs needs a validation set')
        measured = (settings.image_size, settings.validate_images, self.group.device)
        return Validation(self.folder, job.validation, job.classes, *measured)

    def _distiller(self) -> Distiller | None:
        job, dtype = self.job, self.precision or torch.float32
        if job.distill is None:
            # As with terms: what a head keeps from its first pass must be the same in both arms of a study.
            measure_shape(self.student, (), self.settings.image_size)
            return None
        answers = job.answers or self.folder / 'answers'
        return Distiller(job, job.distill, self.student, self.schedule, self.group, dtype, answers)

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
        self.step, self.schedule.halved = state['step'], state['halved']
        self.student.load_state_dict(state['student'])
        self.terms.load_state_dict(state['terms'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.scaler.load_state_dict(state['scaler'])
        self.gammas = state.get('gammas', self.gammas)
        if self.validation is not None:
            self.validation.restore(state['validation'])
        if self.distiller is not None:
            self.distiller.restore(state.get('distiller', state))
        self.averaged.restore(state['averaged'])
        self.log.start_at(state['log'], self.step)
        if self.group.first:
            _logger.info('continued at step %d of %d', self.step, self.schedule.steps)

    def train(self, signals: Signals) -> None:
        """All steps that are left."""
        steps, saved = self.schedule.steps, time.monotonic()
        batches = self._batches_from(self.step)
        bar = tqdm(total=steps, initial=self.step, unit='it', disable=not self.group.first, mininterval=1.0)
        with bar, self.log:
            while self.step < steps:
                started = time.monotonic()
                values = self._step(batches)
                if values is None:  # the memory did not suffice: smaller ones from here on
                    batches = self._batches_from(self.step)
                    continue
                ended = self._validate(values)
                self.log.write(self.step, values, time.monotonic() - started)
                if self.penalty is not None and (self.step % HISTOGRAM_EVERY == 0 or self.step == steps):
                    self.log.write_spread(self.step, 'gamma', self.penalty.values())
                bar.set_postfix({name: f'{value:.4g}' for name, value in values.items() if name in ('loss', 'task')})
                bar.update()
                if ended:
                    break
                stop = self._stop_asked(signals)
                if (stop or self._is_due(saved)) and self.step < steps:
                    self.save()
                    saved = time.monotonic()
                    if stop:
                        raise Interrupted(
                            f'stopped at step {self.step} of {steps}: run the same again to go on from there'
                        )

    def _validate(self, values: dict[str, float]) -> bool:
        """Measure where that is due, into the step's row; whether the training is at its end because it gets no better."""
        validation, settings = self.validation, self.settings
        if validation is None or not is_due(
            self.step, self.schedule.steps, self.schedule.epochs_per_step, settings.validate_epochs
        ):
            return False

        def measured() -> bool:
            values.update(validation.measure(self._result(), self.step))
            return bool(settings.patience) and validation.worse >= settings.patience

        return self.group.first_does(measured)

    def _result(self) -> Any:
        """The network that the training would give if it ended now."""
        state = self.averaged.state if self.settings.ema_decay else self.student.state_dict()
        return with_state(self.family.bare(self.student), state)

    def save(self) -> None:
        """Write the checkpoint."""
        if not self.group.first:
            return
        state = {
            'job': self.identity,
            'step': self.step,
            'halved': self.schedule.halved,
            'student': self.student.state_dict(),
            'averaged': self.averaged.state,
            'terms': self.terms.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'scaler': self.scaler.state_dict(),
            'log': self.log.flushed(),
            'gammas': self.gammas,
            'validation': {} if self.validation is None else self.validation.state(),
            'distiller': {} if self.distiller is None else self.distiller.state(),
        }
        checkpoint.write(self.folder, state)

    def finish(self) -> FitResult:
        """Write the result, and prove that the teacher is what it was."""
        if self.distiller is not None:
            self.distiller.end()
        result = FitResult(self.folder / WEIGHTS, self.step, self.folder / LOG)
        if self.group.first:
            save_weights(self._result(), result.weights, self.job.classes)
            if self.settings.keep == 'best':
                shutil.copyfile(result.weights, self.folder / LAST)
                shutil.copyfile(self.folder / BEST, result.weights)
            teachers = NOBODY if self.distiller is None else self.distiller.record()
            write_record(self.folder, self.identity, result.steps, halved=self.schedule.halved, teachers=teachers)
            (self.folder / checkpoint.NAME).unlink(missing_ok=True)
            if self.penalty is not None:
                from training.prune.sparsity import draw_gammas

                draw_gammas({'before': self.gammas, 'after': self.penalty.values()}, self.folder / GAMMAS)
        self.group.wait()
        return result

    # What a step does.

    def _batches_from(self, step: int) -> Iterator[Batch]:
        return self.batches.iterate(self.schedule.plans(step))

    def _step(self, batches: Iterator[Batch]) -> dict[str, float] | None:
        """One change of the weights, and its row of the log; None where smaller batches must be tried."""
        self._set_rates()
        values = self._accumulate(batches)
        if values is None:
            return None
        if self.distiller is not None:
            self.distiller.terms.learn(values)
            values.update(self.distiller.gradients.newest)
        values['gradient'] = self._update()
        if self.penalty is not None:
            values['sparsity'] = self.penalty.value()
        self.step += 1
        return values

    def _set_rates(self) -> None:
        """Learning rate, and YOLO26's shift from its one branch to the other, as the step says."""
        settings, progress = self.settings, self.step / self.schedule.steps
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
        accumulate = self.schedule.accumulate
        sums: dict[str, Tensor] = {}
        failure: Exception | None = None
        try:
            for part in range(accumulate):
                with seeded(self.job.seed, self.schedule.number(self.step, part)):
                    values = self._backward(next(batches), part)
                for name, value in values.items():
                    sums[name] = sums.get(name, torch.zeros((), device=self.group.device)) + value.detach() / accumulate
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # What its frames hold is the memory that is wanted.
            failure = error.with_traceback(None)
            if self.distiller is not None:
                self.distiller.drop()
        if self.group.any(failure is not None):
            self._halve(failure)
            return None
        self.group.mean(list(sums.values()))
        row = {'epoch': self.step * self.schedule.epochs_per_step, 'learning_rate': self.rate}
        row.update({name: float(value) for name, value in sums.items()})
        for name, mean in row.items():
            if name != 'loss' and not math.isfinite(mean):
                raise FitError(f'{name} became {mean} at step {self.step + 1}{self._last_good()}')
        return row

    def _backward(self, batch: Batch, part: int) -> dict[str, Tensor]:
        """Forward and backward of the step's batch of that number; the values of the losses."""
        images = batch.images.to(self.group.device, non_blocking=True)
        images = images.to(memory_format=torch.channels_last).float() / 255
        targets = targets_of(batch, images)
        with autocast(self.group.device, self.precision):
            predictions = self.family.predict(self.student, images, targets)
        predictions = to_float32(predictions)

        own = part_of(predictions, slice(batch.labelled)) if batch.labelled < len(images) else predictions
        task, parts = self.family.loss(self.student, targets, own)
        values = {'task': task, **{f'task/{name}': value for name, value in parts.items()}}

        losses: dict[str, TermLoss] = {}
        shares: dict[str, Tensor] = {}
        if self.distiller is not None:
            losses, shares = self.distiller.losses(predictions, task, images, batch, self.step, part)
        values.update({name: loss.value for name, loss in losses.items()})
        total = task * (self.job.distill.task_weight if self.job.distill is not None else 1.0)
        for loss in losses.values():
            total = total + loss.weighted
        # Of all images of a step, like Ultralytics', so that its learning rates hold.
        self.scaler.scale(total * batch.labelled).backward()
        return {'loss': total, **values, **shares}

    def _update(self) -> float:
        """One step of the optimizer and of the averaged weights; the length of the gradient before it was cut."""
        own, others = list(self.student.parameters()), list(self.terms.parameters())
        # Summed first: what one process finds infinite must be so for all, or they would take different steps.
        self.group.sum_gradients([*own, *others])
        self.scaler.unscale_(self.optimizer)
        if self.penalty is not None and not self.penalty.proximal:
            self._penalise(own)
        # Apart, so that the adapters' gradients do not shorten the student's.
        limit = self.settings.gradient_clip or float('inf')
        length = nn.utils.clip_grad_norm_(own, limit)
        nn.utils.clip_grad_norm_(others, limit)
        if not bool(length.isfinite()) and not self.scaler.is_enabled():
            raise FitError(f'the gradient became {float(length)} at step {self.step + 1}{self._last_good()}')
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.penalty is not None and self.penalty.proximal:
            self.penalty.shrink(self.step / self.schedule.steps, self.rate)
        self.group.mean(
            [value for value in [*self.student.buffers(), *self.terms.buffers()] if value.is_floating_point()]
        )
        self.averaged.update(self.student, self.step)
        return float(length)

    def _penalise(self, parameters: Sequence[nn.Parameter]) -> None:
        """The penalty stands beside the mean loss of an image, the gradients are of a step's images."""
        gradients = [value.grad for value in parameters if value.grad is not None]
        images = float(self.settings.batch * self.settings.accumulate)
        torch._foreach_div_(gradients, images)
        self.penalty.add_gradients(self.step / self.schedule.steps)
        torch._foreach_mul_(gradients, images)

    def _halve(self, failure: Exception | None) -> None:
        batch = self.schedule.batch
        if not self.schedule.halve():
            raise FitError(
                f'the memory does not suffice for a batch of {batch}: lower batch and raise accumulate'
            ) from failure
        if self.distiller is not None:
            self.distiller.restart()
        if self.group.device.type == 'cuda':
            torch.cuda.empty_cache()
        if self.group.first:
            _logger.warning('out of memory: %d instead of %d images at once, twice as often', batch // 2, batch)

    def _is_due(self, saved: float) -> bool:
        """Whether a checkpoint is, the last one being of that moment of the monotonic clock."""
        every, minutes = self.settings.checkpoint_steps, self.settings.checkpoint_minutes
        return bool(every and self.step % every == 0) or bool(minutes and time.monotonic() - saved > 60 * minutes)

    def _stop_asked(self, signals: Signals) -> bool:
        return self.group.any(signals.received)

    def _last_good(self) -> str:
        file = self.folder / checkpoint.NAME
        return f'; the last good checkpoint is {file}' if file.is_file() else ''


__all__ = ['DataError', 'FitJob', 'FitResult', 'fit']
