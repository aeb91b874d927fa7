"""A backbone distilled as a classifier: thirteen methods in one loop, of which one line of the settings chooses.

cross-entropy + weight · loss(student, teacher). AB and FSP are trained alone, before the task; FT first trains what it calls its
paraphraser. A run is a function of its seed: one that was interrupted goes on from its checkpoint and ends with the same weights.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import inspect
import json
import logging
import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from training.data.image_folder import Augmentation, ImageFolder, augmented, batch_indices
from training.distill.answers import Answers, Said
from training.distill.losses import OnLevels, loss_class, make
from training.distill.losses.factor import FT
from training.errors import FitError, WeightsError
from training.models.yolov4.backbones import Classifier
from training.models.yolov4.network import YOLOv4
from training.models.yolov4.pretrained import load_backbone
from training.steps import digest

_logger = logging.getLogger(__name__)
METHODS = ('kd', 'fitnet', 'at', 'sp', 'cc', 'vid', 'rkd', 'pkt', 'ab', 'ft', 'fsp', 'nst', 'crd')
"""The comparison of CRD's authors (Tian 2020, table 1)."""


@dataclass(frozen=True)
class MethodSettings:
    """What is learned from the teacher beside the labels.

    Attributes:
        loss: one of METHODS.
        weight: factor of the loss; None is its authors'.
        settings: of the loss, `{temperature: 2}`.
    """

    loss: str
    weight: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        loss_class(self.loss)
        if self.loss not in METHODS:
            raise ValueError(f'{self.loss} does not distil classifiers; methods are {", ".join(METHODS)}')

    @property
    def factor(self) -> float:
        """The weight in use."""
        return loss_class(self.loss).usual.weight if self.weight is None else self.weight


@dataclass(frozen=True)
class ClassifySettings:
    """How a classifier is trained.

    Attributes:
        size: side of a picture in pixels.
        steps: of the task.
        first_steps: of the stage before it, for methods that have one (ab, fsp, ft).
        batch: pictures in a step.
        learning_rate: of AdamW, falling to 0 along a cosine.
        weight_decay: of AdamW, on matrices only.
        warmup_steps: over which the rate rises.
        augment: see Augmentation.
        checkpoint_steps: between checkpoints.
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

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            raise ValueError(f'size must be a multiple of 32, not {self.size}')
        if min(self.steps, self.batch, self.checkpoint_steps) < 1:
            raise ValueError('steps, batch and checkpoint_steps must be 1 or more')


class _Method(nn.Module):
    """A loss with the parts of student and teacher that it compares."""

    def __init__(self, settings: MethodSettings, student: Classifier, teacher: Classifier, data: ImageFolder) -> None:
        super().__init__()
        self.name, self.factor = settings.loss, settings.factor
        kind = loss_class(settings.loss)
        self.takes = kind.takes
        channels = {'student_channels': student.channels, 'teacher_channels': teacher.channels}
        self.loss: nn.Module
        if self.takes == 'map':
            self.loss = OnLevels(
                [make(self.name, **settings.settings, **of_level) for of_level in _each(kind, channels)]
            )
        elif self.name == 'ab':
            self.loss = make(self.name, **settings.settings, **channels)
        elif self.name in ('cc', 'crd'):
            sizes = {
                'student_features': channels['student_channels'][-1],
                'teacher_features': channels['teacher_channels'][-1],
            }
            more = {'class_ids': data.class_ids} if self.name == 'crd' else {}
            self.loss = make(self.name, **settings.settings, **sizes, **more)
        elif self.name == 'fsp':
            self.loss = _Projected(make(self.name, **settings.settings), **channels)
        else:
            self.loss = make(self.name, **settings.settings)
        self.only_first = kind.usual.initialisation_only

    def forward(self, student: Said, teacher: Said, indices: Tensor) -> Tensor:
        """The loss, not weighted, of what both classifiers gave."""
        (logits, maps, vector), (wanted_logits, wanted_maps, wanted_vector) = student, teacher
        if self.takes == 'logits':
            return self._of(logits, wanted_logits)
        if self.takes in ('map', 'maps'):
            return self._of(maps, wanted_maps)
        more = (indices,) if 'indices' in self.takes else ()
        return self._of(vector, wanted_vector, *more)

    def _of(self, *values: Any) -> Tensor:
        result: Tensor = self.loss(*values)
        return result

    def reconstruction(self, teacher: Said) -> Tensor:
        """FT's first stage, on all levels."""
        assert isinstance(self.loss, OnLevels)
        parts = [
            loss.reconstruction(value)
            for loss, value in zip(self.loss.losses, teacher[1], strict=True)
            if isinstance(loss, FT)
        ]
        return torch.stack(parts).sum()


class _Projected(nn.Module):
    """FSP compares equal channels: 1×1 convolutions bring the student's to the teacher's."""

    def __init__(self, loss: nn.Module, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        super().__init__()
        self.loss = loss
        pairs = zip(student_channels, teacher_channels, strict=True)
        self.projections = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in pairs)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The loss of two lists of maps."""
        result: Tensor = self.loss([p(value) for p, value in zip(self.projections, student, strict=True)], teacher)
        return result


def _each(kind: type[nn.Module], channels: Mapping[str, Sequence[int]]) -> list[dict[str, int]]:
    """The channels of each level for losses that have regressors of their own; nothing for the others."""
    names = [name for name in channels if name in inspect.signature(kind).parameters]
    count = len(next(iter(channels.values())))
    return [{name: channels[name][level] for name in names} for level in range(count)]


@dataclass(frozen=True)
class ClassifyJob:
    """One run.

    Attributes:
        backbone: the student's, a name in `yolov4.backbones.BACKBONES`.
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


def fit_classifier(job: ClassifyJob, data: ImageFolder, folder: Path, *, say: bool = True) -> Path:
    """Train; goes on from the folder's checkpoint where it is of the same job, and does nothing where that came to its end.

    Returns:
        The weights file.

    Raises:
        FitError: the teacher has other classes, or a loss is not a number; the last checkpoint stays.
        WeightsError: weights that cannot be read.
        DataError: fewer pictures than a batch.
    """
    target = folder / 'weights.pt'
    identity = _identity(job, data)
    if target.is_file() and _read(target).get('job') == identity:
        return target
    torch.manual_seed(job.seed)
    student = Classifier(job.backbone, len(data.classes))
    if job.start is not None:
        student, _ = load_classifier(job.start)
    teacher = _teacher(job, data)
    method = None
    if job.method is not None and teacher is not None:
        with torch.random.fork_rng():  # a loss's own parameters must not change what the plain run draws
            method = _Method(job.method, student, teacher, data)
    run = _Run(job, data, student, teacher, method, folder, identity)
    run.resume()
    run.all(say)
    save_classifier(student, job.backbone, data.classes, target, identity)
    run.checkpoint.unlink(missing_ok=True)
    return target


def _identity(job: ClassifyJob, data: ImageFolder) -> str:
    """Hash of all that a run's result depends on."""
    files = {name: digest(file) if file else '' for name, file in (('teacher', job.teacher), ('start', job.start))}
    pictures = hashlib.sha256(data.images.numpy().tobytes() + data.class_ids.numpy().tobytes()).hexdigest()
    settings = {name: value for name, value in asdict(job.settings).items() if name != 'checkpoint_steps'}
    parts = [job.backbone, settings, job.seed, files, None if job.method is None else asdict(job.method), pictures]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _teacher(job: ClassifyJob, data: ImageFolder) -> Classifier | None:
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
        data: ImageFolder,
        student: Classifier,
        teacher: Classifier | None,
        method: _Method | None,
        folder: Path,
        identity: str,
    ) -> None:
        # In this memory layout MobileNetV2 trains about twice as fast on a CPU.
        self.student = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.job, self.data, self.method = job, data, method
        self.folder, self.identity = folder, identity
        self.checkpoint = folder / 'checkpoint.pt'
        trained = [*student.parameters(), *(method.parameters() if method else [])]
        decayed = [value for value in trained if value.ndim > 1]
        plain = [value for value in trained if value.ndim <= 1]
        groups = [
            {'params': decayed, 'weight_decay': job.settings.weight_decay},
            {'params': plain, 'weight_decay': 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=job.settings.learning_rate)
        has_first = method is not None and (method.only_first or method.name == 'ft')
        self.first = job.settings.first_steps if has_first else 0
        self.answers = None if teacher is None else Answers(teacher, job.answers)
        self.step = 0
        self.rows: list[dict[str, float]] = []

    @property
    def last(self) -> int:
        """Number of steps in all."""
        return self.first + self.job.settings.steps

    def all(self, say: bool) -> None:
        """Every step that is left."""
        self.student.train()
        try:
            for _ in tqdm(
                range(self.step, self.last), initial=self.step, total=self.last, disable=not say, leave=False
            ):
                self._one()
                if self.step % self.job.settings.checkpoint_steps == 0:
                    self._save()
        except KeyboardInterrupt:
            self._save()
            raise
        self._log()

    def _one(self) -> None:
        for group in self.optimizer.param_groups:
            group['lr'] = self._rate()
        images, indices = shown(self.data, self.job.settings, self.job.seed, self.step)
        terms = self._terms(images, indices)
        for name, term in terms.items():
            if not bool(torch.isfinite(term)):
                raise FitError(
                    f'{name} is {term.item()} in step {self.step + 1}; lower learning_rate or the weight of the loss'
                )
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self.step += 1
        if self.step % 20 == 0 or self.step == self.last:
            self.rows.append({'step': self.step, **{name: term.item() for name, term in terms.items()}})

    def _terms(self, images: Tensor, indices: Tensor) -> dict[str, Tensor]:
        method, in_first = self.method, self.step < self.first
        if method is not None and method.name == 'ft' and in_first:
            return {'reconstruction': method.reconstruction(self._taught(images))}
        given = self.student(images)
        if method is not None and in_first:
            return {method.name: method.factor * method(given, self._taught(images), indices)}
        task = functional.cross_entropy(given[0], self.data.class_ids[indices])
        if method is None or method.only_first:
            return {'task': task}
        return {'task': task, method.name: method.factor * method(given, self._taught(images), indices)}

    def _taught(self, images: Tensor) -> Said:
        assert self.answers is not None
        return self.answers(self.step, images)

    def _rate(self) -> float:
        settings = self.job.settings
        if self.step < self.first:
            return settings.learning_rate
        done = self.step - self.first
        warm = min((done + 1) / max(settings.warmup_steps, 1), 1.0)
        cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done / settings.steps)).item())
        return settings.learning_rate * warm * cosine

    def _save(self) -> None:
        state = {
            'job': self.identity,
            'step': self.step,
            'student': self.student.state_dict(),
            'method': self.method.state_dict() if self.method else {},
            'optimizer': self.optimizer.state_dict(),
            'random': torch.get_rng_state(),
            'rows': self.rows,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(state, self.checkpoint)
        self._log()

    def _log(self) -> None:
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
            state = _read(self.checkpoint)
        except WeightsError as error:
            _logger.warning('%s; the run begins anew', error)
            return
        if state.get('job') != self.identity:
            return
        self.student.load_state_dict(state['student'])
        if self.method is not None:
            self.method.load_state_dict(state['method'])
        self.optimizer.load_state_dict(state['optimizer'])
        torch.set_rng_state(state['random'])
        self.step, self.rows = state['step'], state['rows']


def shown(data: ImageFolder, settings: ClassifySettings, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """The pictures of a step, float32 (N, 3, S, S), and their places in the set: the same for every student and method."""
    indices = batch_indices(len(data), settings.batch, step, seed)
    images = augmented(data.images[indices], settings.augment, seed, step)
    return images.contiguous(memory_format=torch.channels_last), indices


@torch.no_grad()
def accuracy(file: Path, data: ImageFolder, batch: int = 128) -> float:
    """Share of the pictures whose best class is the true one (top-1), 0 … 1."""
    classifier, _ = load_classifier(file)
    classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    right = 0
    for first in range(0, len(data), batch):
        images = data.images[first : first + batch].float() / 255
        logits = classifier(images.contiguous(memory_format=torch.channels_last))[0]
        right += int((logits.argmax(1) == data.class_ids[first : first + batch]).sum())
    return right / len(data)


def save_classifier(classifier: Classifier, backbone: str, classes: tuple[str, ...], file: Path, job: str = '') -> None:
    """Write a classifier as plain tensors and names.

    Args:
        classifier: of that backbone.
        backbone: its name.
        classes: their names.
        file: where; it is there whole or not at all.
        job: hash of the run that made it.

    Raises:
        FitError: it cannot be written.
    """
    state = {name: value.contiguous() for name, value in classifier.state_dict().items()}
    _write({'backbone': backbone, 'classes': list(classes), 'job': job, 'state': state}, file)


def load_classifier(file: Path) -> tuple[Classifier, tuple[str, ...]]:
    """A classifier in evaluation mode, and its classes.

    Raises:
        WeightsError: not a file of `save_classifier`.
    """
    saved = _read(file)
    try:
        classifier = Classifier(saved['backbone'], len(saved['classes']))
        classifier.load_state_dict(saved['state'])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f'{file} is not a classifier of this toolkit: {error}') from error
    return classifier.eval(), tuple(saved['classes'])


def take_backbone(network: YOLOv4, file: Path) -> None:
    """Let a detector begin with the backbone of a classifier, or with one that others trained on ImageNet.

    Raises:
        WeightsError: not such a file, or of another backbone.
    """
    if not _is_classifier(file):
        load_backbone(network.backbone, file)
        return
    classifier, _ = load_classifier(file)
    if classifier.name != network.yaml['backbone']:
        raise WeightsError(f'{file} has the backbone {classifier.name}, the detector {network.yaml["backbone"]}')
    network.backbone.load_state_dict(classifier.backbone.state_dict())


def _is_classifier(file: Path) -> bool:
    """Whether it is of `save_classifier`."""
    try:
        return {'backbone', 'classes', 'state'} <= _read(file).keys()
    except WeightsError:
        return False


def _write(content: Mapping[str, Any], file: Path) -> None:
    partial = file.with_suffix('.partial')
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, partial)
        os.replace(partial, file)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise FitError(f'{file} cannot be written: {error}; is the disk full?') from error


def _read(file: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file):  # torch's older format is read by a parser that fails in more ways
            content = torch.load(file, map_location='cpu', weights_only=True)
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise WeightsError(f'{file} cannot be read: {error}') from error
    if not isinstance(content, dict):
        raise WeightsError(f'{file} is not a file of this toolkit')
    return content
