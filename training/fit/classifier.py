"""A backbone distilled as a classifier: thirteen methods in one loop, of which one line of the settings chooses.

cross-entropy + weight · loss(student, teacher). AB and FSP are trained alone, before the task; FT first trains what it calls its
paraphraser. A run is a function of its seed: one that was interrupted goes on from its checkpoint and ends with the same weights.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from training.data.image_folder import Augmentation, Pictures, augmented, batch_indices
from training.data.loader import start_worker
from training.distill.answers import Answers, Said
from training.distill.classifier_methods import Method, MethodSettings
from training.distill.outputs import to_float32
from training.errors import FitError, Interrupted, WeightsError
from training.fit.precision import PRECISIONS, autocast, autocast_dtype
from training.fit.processes import Group, joined
from training.fit.signals import Signals
from training.models.yolov4.backbones import Classifier
from training.models.yolov4.classifier_files import load_classifier, read_file, save_classifier, write_file
from training.ranges import NOT_NEGATIVE, SHARE, one_of
from training.schema import added, aside, counted
from training.steps import digest

_logger = logging.getLogger(__name__)
WHOLE_BATCH = slice(None)


@dataclass(frozen=True)
class ClassifySettings:
    """How a classifier is trained.

    Attributes:
        size: side of a picture in pixels.
        steps: of the task.
        first_steps: of the stage before it, for methods that have one (ab, fsp, ft).
        batch: pictures in a step, of all processes together.
        learning_rate: of AdamW, falling to 0 along a cosine.
        weight_decay: of AdamW, on matrices only.
        warmup_steps: over which the rate rises.
        augment: see Augmentation.
        checkpoint_steps: between checkpoints.
        label_smoothing: share of a label that is spread over all classes; 0.1 is usual on ImageNet.
        precision: of the layers: float32, bfloat16, float16, or `auto`, bfloat16 where the machine computes in it.
        workers: processes that decode and augment; 0 does it in the training process.
        small_stem: for pictures of 32 to 64 pixels: the network's first halving is left out, or its last map has one cell. A
            detector takes the weights as they are.
    """

    size: int = 64
    steps: int = 1000
    first_steps: int = 200
    batch: int = 64
    learning_rate: float = 0.002
    weight_decay: float = 0.02
    warmup_steps: int = 50
    augment: Augmentation = field(default_factory=Augmentation)
    checkpoint_steps: int = 200
    label_smoothing: float = added(0.0)
    precision: str = added('float32')
    workers: int = aside(0)
    small_stem: bool = added(False)

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            raise ValueError(f'size must be a multiple of 32, not {self.size}')
        if min(self.steps, self.batch, self.checkpoint_steps) < 1:
            raise ValueError('steps, batch and checkpoint_steps must be 1 or more')
        SHARE.check(label_smoothing=self.label_smoothing)
        NOT_NEGATIVE.check(workers=self.workers)
        one_of(PRECISIONS, precision=self.precision)


@dataclass(frozen=True)
class ClassifyJob:
    """One run.

    Attributes:
        backbone: the student's, see `yolov4.backbones.make_backbone`.
        settings: how it is trained.
        seed: of the weights at first, the order of the pictures and their augmentation.
        start: weights to begin with; None begins at random.
        teacher: weights of the teacher, for `method`.
        method: what is learned from it; None trains plainly.
        answers: folder of what the teacher says in each step, where that was kept (`training.distill.answers`).
    """

    backbone: str
    settings: ClassifySettings
    seed: int
    start: Path | None = None
    teacher: Path | None = None
    method: MethodSettings | None = None
    answers: Path | None = None


def fit_classifier(job: ClassifyJob, data: Pictures, folder: Path, *, say: bool = True) -> Path:
    """Train; goes on from the folder's checkpoint where it is of the same job, and does nothing where that came to its end.

    Returns:
        The weights file.

    Raises:
        FitError: the teacher has other classes, a loss is not a number, or the processes cannot share a batch; the last
            checkpoint stays.
        WeightsError: weights that cannot be read.
        DataError: fewer pictures than a batch.
        Interrupted: by Ctrl-C or SIGTERM, after a checkpoint.
    """
    target = folder / 'weights.pt'
    identity = _identity(job, data)
    if target.is_file() and read_file(target).get('job') == identity:
        return target
    with joined() as group:
        if job.settings.batch % group.size:
            raise FitError(f'batch {job.settings.batch} cannot be shared by {group.size} processes: choose a multiple')
        torch.manual_seed(job.seed)
        student = Classifier(job.backbone, len(data.classes), small=job.settings.small_stem)
        if job.start is not None:
            student, _ = load_classifier(job.start)
        teacher = _teacher(job, data)
        method = None
        if job.method is not None and teacher is not None:
            with torch.random.fork_rng():  # a loss's own parameters must not change what the plain run draws
                method = Method(job.method, student, teacher, data, job.settings.size)
        run = _Run(job, data, student, teacher, method, folder, identity, group)
        run.resume()
        with Signals() as signals:
            run.all(say and group.first, signals)
        if group.first:
            save_classifier(student, job.backbone, data.classes, target, identity)
            run.checkpoint.unlink(missing_ok=True)
        group.wait()
    return target


def _identity(job: ClassifyJob, data: Pictures) -> str:
    """Hash of all that a run's result depends on."""
    files = {name: digest(file) if file else '' for name, file in (('teacher', job.teacher), ('start', job.start))}
    settings = {name: value for name, value in counted(job.settings).items() if name != 'checkpoint_steps'}
    method = None if job.method is None else asdict(job.method)
    parts = [job.backbone, settings, job.seed, files, method, data.fingerprint()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _teacher(job: ClassifyJob, data: Pictures) -> Classifier | None:
    if job.method is None:
        return None
    if job.teacher is None:
        raise FitError(f'{job.method.loss} needs a teacher')
    teacher, classes = load_classifier(job.teacher)
    if classes != data.classes:
        raise FitError(f'the teacher knows {", ".join(classes)}, the data set has {", ".join(data.classes)}')
    return teacher.requires_grad_(False).eval()


class _Run:
    """The state of a run, and its steps."""

    def __init__(
        self,
        job: ClassifyJob,
        data: Pictures,
        student: Classifier,
        teacher: Classifier | None,
        method: Method | None,
        folder: Path,
        identity: str,
        group: Group,
    ) -> None:
        # In this memory layout MobileNetV2 trains about twice as fast on a CPU.
        self.student = student.to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.method = None if method is None else method.to(group.device)
        self.job, self.data, self.group = job, data, group
        self.folder, self.identity = folder, identity
        self.checkpoint = folder / 'checkpoint.pt'
        self.class_ids = data.class_ids.to(group.device)
        self.trained = [*student.parameters(), *(method.parameters() if method else [])]
        decayed = [value for value in self.trained if value.ndim > 1]
        plain = [value for value in self.trained if value.ndim <= 1]
        groups = [
            {'params': decayed, 'weight_decay': job.settings.weight_decay},
            {'params': plain, 'weight_decay': 0.0},
        ]
        networks = [student, *([method] if method else [])]
        norms = [layer for network in networks for layer in network.modules() if isinstance(layer, _BatchNorm)]
        self.statistics = [value for norm in norms for value in norm.buffers() if value.is_floating_point()]
        self.optimizer = torch.optim.AdamW(groups, lr=job.settings.learning_rate)
        self.precision = autocast_dtype(job.settings.precision, group.device)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=self.precision is torch.float16)
        has_first = method is not None and (method.only_first or method.name == 'ft')
        self.first = job.settings.first_steps if has_first else 0
        self.answers = None if teacher is None else Answers(teacher.to(group.device), job.answers)
        self.step = 0
        self.rows: list[dict[str, float]] = []

    @property
    def last(self) -> int:
        """Number of steps in all."""
        return self.first + self.job.settings.steps

    def all(self, say: bool, signals: Signals) -> None:
        """Every step that is left."""
        self.student.train()
        batches = self._batches()
        for _ in tqdm(range(self.step, self.last), initial=self.step, total=self.last, disable=not say, leave=False):
            self._one(*next(batches))
            stop = self._stop_asked(signals)
            if stop or self.step % self.job.settings.checkpoint_steps == 0:
                self._save()
            if stop and self.step < self.last:
                raise Interrupted(f'stopped at step {self.step} of {self.last}: run the same again to go on from there')
        self._log()

    def _stop_asked(self, signals: Signals) -> bool:
        return self.group.any(signals.received)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the pictures of each step, and their places in the set."""
        settings, group = self.job.settings, self.group
        own = settings.batch // group.size
        part = WHOLE_BATCH if group.size == 1 else slice(group.rank * own, (group.rank + 1) * own)
        if not settings.workers:
            for step in range(self.step, self.last):
                yield shown(self.data, settings, self.job.seed, step, part)
            return
        yield from DataLoader(
            _Batches(self.data, settings, self.job.seed, part),
            batch_size=None,
            sampler=range(self.step, self.last),
            num_workers=settings.workers,
            worker_init_fn=start_worker,
            pin_memory=group.device.type == 'cuda',
            generator=torch.Generator(),  # its own: the loader may not touch the random numbers of the training
        )

    def _one(self, images: Tensor, indices: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group['lr'] = self._rate()
        images = images.to(self.group.device, non_blocking=True, memory_format=torch.channels_last)
        terms = self._terms(images, indices.to(self.group.device))
        for name, term in terms.items():
            if not bool(torch.isfinite(term)):
                raise FitError(
                    f'{name} is {term.item()} in step {self.step + 1}; lower learning_rate or the weight of the loss'
                )
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad()
        self.scaler.scale(total / self.group.size).backward()
        self.group.sum_gradients(self.trained)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.group.mean(self.statistics)
        self.step += 1
        if self.step % 20 == 0 or self.step == self.last:
            self.rows.append({'step': self.step, **{name: term.item() for name, term in terms.items()}})

    def _terms(self, images: Tensor, indices: Tensor) -> dict[str, Tensor]:
        method, in_first = self.method, self.step < self.first
        if method is not None and method.name == 'ft' and in_first:
            return {'reconstruction': method.reconstruction(self._taught(images))}
        given = self._computed(self.student, images)
        if method is not None and in_first:
            return {method.name: method.factor * method(given, self._taught(images), indices)}
        smoothing = self.job.settings.label_smoothing
        task = functional.cross_entropy(given[0], self.class_ids[indices], label_smoothing=smoothing)
        if method is None or method.only_first:
            return {'task': task}
        return {'task': task, method.name: method.factor * method(given, self._taught(images), indices)}

    def _computed(self, network: Any, *inputs: Any) -> Said:
        """In the run's precision; what comes out is float32, as losses want it."""
        if self.precision is None:
            plain: Said = network(*inputs)
            return plain
        with autocast(self.group.device, self.precision):
            given = network(*inputs)
        widened: Said = to_float32(given)
        return widened

    def _taught(self, images: Tensor) -> Said:
        assert self.answers is not None
        return self._computed(self.answers, self.step, images)

    def _rate(self) -> float:
        settings = self.job.settings
        if self.step < self.first:
            return settings.learning_rate
        done = self.step - self.first
        warm = min((done + 1) / max(settings.warmup_steps, 1), 1.0)
        cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done / settings.steps)).item())
        return settings.learning_rate * warm * cosine

    def _save(self) -> None:
        if not self.group.first:
            return
        state = {
            'job': self.identity,
            'step': self.step,
            'student': self.student.state_dict(),
            'method': self.method.state_dict() if self.method else {},
            'optimizer': self.optimizer.state_dict(),
            'scaler': self.scaler.state_dict(),
            'random': torch.get_rng_state(),
            'rows': self.rows,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_file(state, self.checkpoint)
        self._log()

    def _log(self) -> None:
        if not self.group.first:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with (self.folder / 'log.csv').open('w', newline='', encoding='utf-8') as file:
            writer = csv.DictWriter(file, columns, lineterminator='\n')
            writer.writeheader()
            writer.writerows(self.rows)

    def resume(self) -> None:
        """Take up the checkpoint, where there is one of this job; a damaged one is not used."""
        if not self.checkpoint.is_file():
            return
        try:
            state = read_file(self.checkpoint)
        except WeightsError as error:
            _logger.warning('%s; the run begins anew', error)
            return
        if state.get('job') != self.identity:
            return
        self.student.load_state_dict(state['student'])
        if self.method is not None:
            self.method.load_state_dict(state['method'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.scaler.load_state_dict(state.get('scaler', {}))
        torch.set_rng_state(state['random'])
        self.step, self.rows = state['step'], state['rows']


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """The batch of each step, for worker processes."""

    def __init__(self, data: Pictures, settings: ClassifySettings, seed: int, part: slice) -> None:
        self._of = (data, settings, seed)
        self._part = part

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        data, settings, seed = self._of
        return shown(data, settings, seed, step, self._part)


def shown(
    data: Pictures, settings: ClassifySettings, seed: int, step: int, part: slice = WHOLE_BATCH
) -> tuple[Tensor, Tensor]:
    """The pictures of a step, float32 (N, 3, S, S), and their places in the set: the same for every student and method.

    Args:
        part: of the batch; a picture is the same whichever process shows it.
    """
    indices = batch_indices(len(data), settings.batch, step, seed)
    images, indices = augmented(data, indices, settings.augment, seed, step, part)
    return images.contiguous(memory_format=torch.channels_last), indices


@torch.no_grad()
def accuracy(file: Path, data: Pictures, batch: int = 128) -> float:
    """Share of the pictures whose best class is the true one (top-1), 0 … 1."""
    device = torch.device('cuda') if torch.cuda.is_available() else torch.device('cpu')
    classifier, _ = load_classifier(file)
    network: nn.Module = classifier.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    right = 0
    for first in range(0, len(data), batch):
        images, indices = data.whole(torch.arange(first, min(first + batch, len(data))))
        given = network((images.float() / 255).to(device).contiguous(memory_format=torch.channels_last))[0]
        right += int((given.argmax(1).cpu() == data.class_ids[indices]).sum())
    return right / len(data)
