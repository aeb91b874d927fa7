"""Training a backbone as a classifier, alone or by one of thirteen methods of distillation: a task that `fit.loop` trains.

cross-entropy + weight · loss(student, teacher). AB and FSP are trained alone, before the task; FT first trains what it calls its
paraphraser.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from training.data.augment import AugmentSettings
from training.data.image_folder import Augmentation, Pictures, augmented, batch_indices
from training.data.loader import start_worker
from training.distill.classifier_methods import Method, MethodSettings, Said, as_outputs, as_said, of_others
from training.distill.controls import other_images
from training.distill.outputs import Outputs, to_float32
from training.distill.teacher_cache import HEAD, Recorder, Replay, hash_of, key_of
from training.errors import FitError
from training.fit.job import WITHOUT_EFFECT, file_hash, hashed
from training.fit.loop import fit
from training.fit.precision import PRECISIONS, autocast, autocast_dtype
from training.fit.processes import Group
from training.fit.schedule import Schedule
from training.fit.settings import FitSettings
from training.fit.task import NOBODY, Losses, Measuring
from training.models.yolov4.backbones import Classifier
from training.models.yolov4.classifier_files import load_classifier, save_classifier
from training.prune.sparsity import SparsitySettings
from training.ranges import NOT_NEGATIVE, SHARE, one_of
from training.schema import added, aside, counted

CACHE_BYTES = 100e9
"""The most that is kept of what teachers say."""


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

    def of_loop(self, first: int) -> FitSettings:
        """The same as the loop is asked for, with so many steps before the task's own."""
        return FitSettings(
            image_size=self.size,
            batch=self.batch,
            steps=first + self.steps,
            learning_rate=self.learning_rate,
            final_share=0.0,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            ema_decay=0.0,
            gradient_clip=0.0,
            precision=self.precision,
            checkpoint_minutes=0.0,
            checkpoint_steps=self.checkpoint_steps,
            workers=self.workers,
            augment=AugmentSettings(mosaic=0.0, close_mosaic=0.0),
        )


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
        answers: folder where what the teacher says is kept for all students and methods; None keeps nothing.
    """

    backbone: str
    settings: ClassifySettings
    seed: int
    start: Path | None = None
    teacher: Path | None = None
    method: MethodSettings | None = None
    answers: Path | None = None


def fit_classifier(job: ClassifyJob, data: Pictures, folder: Path) -> Path:
    """Train; goes on from the folder's checkpoint, and does nothing where a training of this job came to its end.

    Returns:
        The weights file.

    Raises:
        FitError: the teacher has other classes, or the processes cannot share a batch; see `fit.loop.fit`.
        WeightsError: weights that cannot be read.
        DataError: fewer pictures than a batch.
        Interrupted: by Ctrl-C or SIGTERM, after a checkpoint.
    """
    return fit(lambda group: ClassifierTask(job, data, group), folder, _identity(job, data)).weights


def _identity(job: ClassifyJob, data: Pictures) -> dict[str, str]:
    """What a run's result depends on, by what people call it."""
    settings = {name: value for name, value in counted(job.settings).items() if name not in WITHOUT_EFFECT}
    files = {
        name: file_hash(file) for name, file in (('teacher', job.teacher), ('start', job.start)) if file is not None
    }
    return hashed(
        {
            'backbone': job.backbone,
            'fit settings': settings,
            'seed': job.seed,
            'method': None if job.method is None else counted(job.method),
            'pictures': data.fingerprint(),
            **files,
        }
    )


class ClassifierTask:
    """See `fit.task.Task`."""

    validation: Measuring | None = None
    sparsity: SparsitySettings | None = None

    def __init__(self, job: ClassifyJob, data: Pictures, group: Group) -> None:
        self.job, self.data, self.group, self.seed = job, data, group, job.seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.seed)
            student = Classifier(job.backbone, len(data.classes), small=job.settings.small_stem)
            if job.start is not None:
                student, _ = load_classifier(job.start)
            self.teacher = self._load_teacher()
            self.method: Method | None = None
            if job.method is not None and self.teacher is not None:
                self.method = Method(job.method, student, self.teacher, data, job.settings.size).to(group.device)
        # In this memory layout MobileNetV2 trains about twice as fast on a CPU.
        self.student: Any = student.train().to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.terms: nn.Module = nn.ModuleList() if self.method is None else nn.ModuleList([self.method])
        has_first = self.method is not None and (self.method.only_first or self.method.name == 'ft')
        self.first_steps = job.settings.first_steps if has_first else 0
        self.settings = job.settings.of_loop(self.first_steps)
        self.schedule = Schedule(self.settings, len(data), unlabelled=False, group=group)
        self._class_ids = data.class_ids.to(group.device)
        self._precision = autocast_dtype(self.settings.precision, group.device)
        self._recorder: Recorder | None = None

    def _load_teacher(self) -> Classifier | None:
        job = self.job
        if job.method is None:
            return None
        if job.teacher is None:
            raise FitError(f'{job.method.loss} needs a teacher')
        teacher, classes = load_classifier(job.teacher)
        if classes != self.data.classes:
            raise FitError(f'the teacher knows {", ".join(classes)}, the data set has {", ".join(self.data.classes)}')
        if job.method.teacher_control == 'random':
            torch.manual_seed(
                job.seed + 1
            )  # with the student's seed one of the same backbone would be the student at first
            teacher = Classifier(teacher.name, len(classes), small=teacher.small)
        return teacher.requires_grad_(False).eval().to(self.group.device)

    # What the loop asks for.

    def batches(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures of each batch, and their places in the set."""
        settings, parts = self.job.settings, self._parts(step)
        shows = _Batches(self.data, settings, self.seed)
        if not settings.workers:
            return (shows[place] for place in parts)
        loader: DataLoader[Any] = DataLoader(
            shows,
            batch_size=None,
            sampler=list(parts),
            num_workers=settings.workers,
            worker_init_fn=start_worker,
            pin_memory=self.group.device.type == 'cuda',
            generator=torch.Generator(),  # its own: the loader may not touch the random numbers of the training
        )
        return iter(loader)

    def _parts(self, first: int) -> Iterator[tuple[int, slice]]:
        """This process's share of each batch: the step, and which of the step's pictures."""
        group, batch = self.group, self.schedule.batch
        own = batch // group.size
        for step in range(first, self.schedule.steps):
            for part in range(self.schedule.accumulate):
                start = part * batch + group.rank * own
                yield step, slice(start, start + own)

    def advance(self, progress: float) -> None:
        """See Task."""

    def losses(self, batch: tuple[Tensor, Tensor], step: int, part: int) -> Losses:
        """Cross-entropy, and the method's loss beside it or before it."""
        images, indices = batch
        images = images.to(self.group.device, non_blocking=True, memory_format=torch.channels_last)
        values = self._values(images, indices.to(self.group.device), step, part)
        total = torch.stack(list(values.values())).sum()
        return Losses(total / (self.group.size * self.schedule.accumulate), {'loss': total, **values})

    def _values(self, images: Tensor, indices: Tensor, step: int, part: int) -> dict[str, Tensor]:
        method, in_first = self.method, step < self.first_steps
        if method is not None and method.name == 'ft' and in_first:
            return {'reconstruction': method.reconstruction(self._taught(images, step, part))}
        given = self._computed(self.student, images)
        if method is not None and in_first:
            return {method.name: method.factor * method(given, self._taught(images, step, part), indices)}
        smoothing = self.job.settings.label_smoothing
        task = functional.cross_entropy(given[0], self._class_ids[indices], label_smoothing=smoothing)
        if method is None or method.only_first:
            return {'task': task}
        return {'task': task, method.name: method.factor * method(given, self._taught(images, step, part), indices)}

    def _computed(self, network: Any, images: Tensor) -> Said:
        """In the run's precision; what comes out is float32, as losses want it."""
        if self._precision is None:
            plain: Said = network(images)
            return plain
        with autocast(self.group.device, self._precision):
            given = network(images)
        wide: Said = to_float32(given)
        return wide

    def notes(self) -> Mapping[str, float]:
        """See Task."""
        return {}

    def drop(self, *, halved: bool) -> None:
        """See Task: smaller batches have other answers."""
        self._recorder = None

    def state(self) -> dict[str, Any]:
        """See Task."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Task."""

    def bare(self) -> Classifier:
        """See Task."""
        student: Classifier = copy.deepcopy(self.student)
        return student

    def save(self, network: Classifier, file: Path) -> None:
        """See Task."""
        save_classifier(network, self.job.backbone, self.data.classes, file)

    def end(self) -> Mapping[str, Any]:
        """See Task."""
        if self.job.teacher is None or self.job.method is None:
            return NOBODY
        return {'teacher': str(self.job.teacher), 'teacher_sha256': file_hash(self.job.teacher)}

    # What the teacher says.

    def _taught(self, images: Tensor, step: int, part: int) -> Said:
        said = self._answers(images, step, part)
        if self.job.method is None or self.job.method.teacher_control != 'shuffled':
            return said
        return of_others(said, other_images(len(images), self.seed, step))

    def _answers(self, images: Tensor, step: int, part: int) -> Said:
        ask = functools.partial(self._asked, images)
        if self.job.answers is None:
            return as_said(ask())
        if self._recorder is None:
            self._recorder = self._open_answers(self.job.answers)
        later = functools.partial(self.schedule.names_from, step)
        place = self.schedule.names(step)[part]
        return as_said(self._recorder('', place, hash_of(images.cpu()), images.device, ask, later))

    @torch.no_grad()
    def _asked(self, images: Tensor) -> Outputs:
        return as_outputs(self._computed(self.teacher, images))

    def _open_answers(self, folder: Path) -> Recorder:
        """What is kept of the teacher, the pictures and the size of batches of this run."""
        settings, group = self.job.settings, self.group
        assert self.job.teacher is not None
        assert self.teacher is not None
        asked = [file_hash(self.job.teacher), str(self._precision), group.device.type, torch.__version__]
        assert self.job.method is not None
        if self.job.method.teacher_control == 'random':
            asked.append(f'random {self.seed}')
        who = key_of(*asked)
        pictures = [self.data.fingerprint(), settings.size, settings.batch, counted(settings.augment), self.seed]
        own = key_of(*pictures, self.schedule.batch, group.rank, group.size)
        maps = [f'map {number}' for number in range(len(self.teacher.strides))]
        replay = Replay(folder / who / own, [*maps, HEAD], torch.float32)
        return Recorder(folder, {'': replay}, CACHE_BYTES, group.size)


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """Parts of the batch of each step, for worker processes."""

    def __init__(self, data: Pictures, settings: ClassifySettings, seed: int) -> None:
        self._of = (data, settings, seed)

    def __getitem__(self, place: tuple[int, slice]) -> tuple[Tensor, Tensor]:
        return shown(*self._of, *place)


def shown(
    data: Pictures, settings: ClassifySettings, seed: int, step: int, part: slice = slice(None)
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
