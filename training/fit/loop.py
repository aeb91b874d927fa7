"""The loop that trains any network: `fit` is its table of contents, a `Task` says what is trained.

A run is a function of its job: the images, their order and augmentation depend on (seed, position), and the random numbers
of a step on (seed, step). So a run that was interrupted anywhere and continued gives the bytes of one that was not (on a
CPU), and two arms of a study that differ in their losses see the same images.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from training.errors import FitError, Interrupted
from training.fit import checkpoint
from training.fit.job import RECORD, WEIGHTS, FitResult, finished, write_record
from training.fit.log import LOG, FitLog
from training.fit.optimizer import AveragedWeights, Rates, is_out_of_memory, make_optimizer
from training.fit.precision import autocast_dtype
from training.fit.processes import Group, joined
from training.fit.signals import Signals
from training.fit.task import Task
from training.fit.validation import BEST, is_due, with_state
from training.prune.sparsity import SparsityPenalty, draw_gammas
from training.seeding import seeded

HISTOGRAM_EVERY = 100  # steps between two histograms of γ
GAMMAS = 'gammas.png'
LAST = 'last.pt'  # where the best weights are the result
_logger = logging.getLogger(__name__)


def fit(
    make_task: Callable[[Group], Task], folder: Path, identity: Mapping[str, str], *, anew: bool = False
) -> FitResult:
    """Train, or go on where an interrupted training of the same job stood.

    Args:
        make_task: what is trained, in one of several processes or alone.
        folder: of its files: weights.pt, log.csv, fit.json, TensorBoard's, and checkpoint.pt until the end.
        identity: what its result depends on, by what people call it, as hashes.
        anew: start from the beginning whatever the folder holds.

    Raises:
        FitError: the job is not possible, a loss became NaN, a term has no effect, the disk or the memory is full, or the
            folder holds an unfinished training of another job.
        Interrupted: by Ctrl-C or SIGTERM, after a checkpoint.
        TrainingError: what the task raises.
    """
    with joined() as group:
        result = None if anew else finished(identity, folder)
        if result is not None:
            return result
        if group.first:
            _make_ready(folder, anew=anew)
        group.wait()
        run = Run(make_task(group), folder, identity, group)
        run.resume()
        with Signals() as signals:
            run.train(signals)
        return run.finish()


def _make_ready(folder: Path, *, anew: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if anew:
        for name in (checkpoint.NAME, LOG, RECORD, WEIGHTS):
            (folder / name).unlink(missing_ok=True)


class Run:
    """The state of a training, and what one step does to it."""

    def __init__(self, task: Task, folder: Path, identity: Mapping[str, str], group: Group) -> None:
        self.task, self.folder, self.identity, self.group = task, folder, identity, group
        self.settings, self.schedule, self.validation = task.settings, task.schedule, task.validation
        self.student, self.terms = task.student, task.terms
        self.step = 0

        self.penalty: SparsityPenalty | None = None
        if task.sparsity is not None:
            self.penalty = SparsityPenalty(self.student, task.sparsity, self.settings.optimizer)
        self.gammas = None if self.penalty is None else self.penalty.values()
        # With the terms' parameters, before the first step: an adapter that joins later would never be trained.
        self.optimizer = make_optimizer([self.student, self.terms], self.settings)
        self.rates = Rates(self.settings, self.schedule.steps, task.first_steps)
        half = autocast_dtype(self.settings.precision, group.device) is torch.float16
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=half)
        self.averaged = AveragedWeights(self.student, self.settings.ema_decay, self.settings.ema_ramp)
        self.log = FitLog(folder, self.settings, enabled=group.first)

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
        self.gammas = state['gammas']
        if self.validation is not None:
            self.validation.restore(state['validation'])
        self.task.restore(state['task'])
        self.averaged.restore(state['averaged'])
        self.log.start_at(state['log'], self.step)
        if self.group.first:
            _logger.info('continued at step %d of %d', self.step, self.schedule.steps)

    def train(self, signals: Signals) -> None:
        """All steps that are left."""
        steps, saved = self.schedule.steps, time.monotonic()
        batches = self.task.batches(self.step)
        bar = tqdm(total=steps, initial=self.step, unit='it', disable=not self.group.first, mininterval=1.0)
        with bar, self.log:
            while self.step < steps:
                started = time.monotonic()
                values = self._step(batches)
                if values is None:  # the memory did not suffice: smaller ones from here on
                    batches = self.task.batches(self.step)
                    continue
                ended = self._validate(values)
                self._write(values, time.monotonic() - started)
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

    def save(self) -> None:
        """Write the checkpoint."""
        if not self.group.first:
            return
        state = {
            'job': dict(self.identity),
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
            'task': self.task.state(),
        }
        checkpoint.write(self.folder, state)

    def finish(self) -> FitResult:
        """Write the result, and prove that the teacher is what it was."""
        teachers = self.task.end()
        result = FitResult(self.folder / WEIGHTS, self.step, self.folder / LOG)
        if self.group.first:
            self.task.save(self._result(), result.weights)
            if self.settings.keep == 'best':
                shutil.copyfile(result.weights, self.folder / LAST)
                shutil.copyfile(self.folder / BEST, result.weights)
            write_record(self.folder, self.identity, result.steps, halved=self.schedule.halved, teachers=teachers)
            (self.folder / checkpoint.NAME).unlink(missing_ok=True)
            if self.penalty is not None and self.gammas is not None:
                draw_gammas({'before': self.gammas, 'after': self.penalty.values()}, self.folder / GAMMAS)
        self.group.wait()
        return result

    def _result(self) -> Any:
        """The network that the training would give if it ended now."""
        state = self.averaged.state if self.settings.ema_decay else self.student.state_dict()
        return with_state(self.task.bare(), state)

    # What a step does.

    def _step(self, batches: Iterator[Any]) -> dict[str, float] | None:
        """One change of the weights, and its row of the log; None where smaller batches must be tried."""
        self.rates.set(self.optimizer, self.step)
        self.task.advance(self.step / self.schedule.steps)
        values = self._accumulate(batches)
        if values is None:
            return None
        values.update(self.task.notes())
        values['gradient'] = self._update()
        if self.penalty is not None:
            values['sparsity'] = self.penalty.value()
        self.step += 1
        return values

    def _accumulate(self, batches: Iterator[Any]) -> dict[str, float] | None:
        """The gradients of one step; None where the memory did not suffice and smaller batches must be tried."""
        self.optimizer.zero_grad(set_to_none=True)
        accumulate = self.schedule.accumulate
        sums: dict[str, Tensor] = {}
        failure: Exception | None = None
        try:
            for part in range(accumulate):
                with seeded(self.task.seed, self.schedule.number(self.step, part)):
                    values = self._backward(next(batches), part)
                for name, value in values.items():
                    sums[name] = sums.get(name, torch.zeros((), device=self.group.device)) + value.detach() / accumulate
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # What its frames hold is the memory that is wanted.
            failure = error.with_traceback(None)
            self.task.drop(halved=False)
        if self.group.any(failure is not None):
            self._halve(failure)
            return None
        self.group.mean(list(sums.values()))
        row = {'epoch': self.step * self.schedule.epochs_per_step, 'learning_rate': self.rates.rate}
        row.update({name: float(value) for name, value in sums.items()})
        for name, mean in row.items():
            if name != 'loss' and not math.isfinite(mean):
                raise FitError(f'{name} became {mean} at step {self.step + 1}{self._last_good()}')
        return row

    def _backward(self, batch: Any, part: int) -> Mapping[str, Tensor]:
        """Forward and backward of the step's batch of that number; the values of the losses."""
        losses = self.task.losses(batch, self.step, part)
        self.scaler.scale(losses.backward).backward()  # type: ignore[no-untyped-call]
        return losses.values

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
            self.penalty.shrink(self.step / self.schedule.steps, self.rates.rate)
        self.group.mean(
            [value for value in [*self.student.buffers(), *self.terms.buffers()] if value.is_floating_point()]
        )
        self.averaged.update(self.student, self.step)
        return float(length)

    def _penalise(self, parameters: Sequence[nn.Parameter]) -> None:
        """The penalty stands beside the mean loss of an image, the gradients are of a step's images."""
        assert self.penalty is not None
        gradients = [value.grad for value in parameters if value.grad is not None]
        images = float(self.settings.images_at_once * self.settings.accumulate)
        torch._foreach_div_(gradients, images)
        self.penalty.add_gradients(self.step / self.schedule.steps)
        torch._foreach_mul_(gradients, images)

    def _halve(self, failure: Exception | None) -> None:
        batch = self.schedule.batch
        if not self.schedule.halve():
            raise FitError(
                f'the memory does not suffice for a batch of {batch}: lower batch and raise accumulate'
            ) from failure
        self.task.drop(halved=True)
        if self.group.device.type == 'cuda':
            torch.cuda.empty_cache()
        if self.group.first:
            _logger.warning('out of memory: %d instead of %d images at once, twice as often', batch // 2, batch)

    # What comes between two steps.

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

    def _write(self, values: Mapping[str, float], seconds: float) -> None:
        self.log.write(self.step, values, seconds)
        if self.penalty is not None and (self.step % HISTOGRAM_EVERY == 0 or self.step == self.schedule.steps):
            self.log.write_spread(self.step, 'gamma', self.penalty.values())

    def _is_due(self, saved: float) -> bool:
        """Whether a checkpoint is, the last one being of that moment of the monotonic clock."""
        every, minutes = self.settings.checkpoint_steps, self.settings.checkpoint_minutes
        return bool(every and self.step % every == 0) or bool(minutes and time.monotonic() - saved > 60 * minutes)

    def _stop_asked(self, signals: Signals) -> bool:
        return self.group.any(signals.received)

    def _last_good(self) -> str:
        file = self.folder / checkpoint.NAME
        return f'; the last good checkpoint is {file}' if file.is_file() else ''
