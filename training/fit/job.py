"""The training of a detector as it is asked for, what its result depends on, and what any training leaves behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from training.distill.settings import DistillSettings
from training.distill.teacher import fingerprint
from training.errors import FitError
from training.fit.log import LOG
from training.fit.settings import FitSettings
from training.schema import counted
from training.steps import digest
from training.steps import fingerprint as folder_hash

if TYPE_CHECKING:
    from training.prune.sparsity import SparsitySettings

WEIGHTS, RECORD = 'weights.pt', 'fit.json'
WITHOUT_EFFECT = ('workers', 'checkpoint_minutes', 'checkpoint_steps')
"""Settings on which no result depends."""


@dataclass(frozen=True)
class FitJob:
    """One training of a detector.

    Attributes:
        student: a network, its weights file, or an architecture (see `training.models.weights`) for fresh weights.
        classes: their names.
        images: with labels, see ImageSet.
        settings: see FitSettings.
        seed: of fresh weights, order, augmentation and everything else.
        unlabelled: images without labels, taught by the teacher alone.
        teacher: its weights file, or a bundle's folder; `distill` needs this or `teachers`.
        teacher_map: its measured mAP50-95, for the record.
        distill: what is learned from the teacher.
        sparsity: see SparsitySettings.
        kept: for each level that the head reads, the teacher's channels that a pruned student kept.
        teachers: several, by names that the log shows, their weights files.
        teacher_maps: what was measured of them, by name.
        kept_of: the one of several from which the student was pruned, whose channels `kept` names.
        answers: folder where what teachers say is kept, for all trainings that may share it, if `distill` says so; the
            training's own by default.
        validation: a prepared set, on whose `val` split `fit.validate_epochs` measures.
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
    validation: Path | None = None

    def __post_init__(self) -> None:
        if self.teacher is not None and self.teachers:
            raise FitError('give teacher, or several by name as teachers, not both')
        if (not self.all_teachers) != (self.distill is None):
            raise FitError('teacher and distill belong together: give both or none')
        if self.unlabelled and (self.distill is None or not self.settings.unlabelled_batch):
            raise FitError('unlabelled images need a teacher, terms to distil by, and unlabelled_batch above 0')

    @property
    def all_teachers(self) -> Mapping[str, Path]:
        """The teachers' weights files by name; a single one's name is empty."""
        return self.teachers if self.teacher is None else {'': self.teacher}

    @property
    def measured(self) -> Mapping[str, float]:
        """What was measured of the teachers, by the same names."""
        return self.teacher_maps if self.teacher_map is None else {'': self.teacher_map}

    @property
    def data_seed(self) -> int:
        """Of order and augmentation of the images."""
        return self.seed if self.settings.data_seed is None else self.settings.data_seed


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


def identity(job: FitJob) -> dict[str, str]:
    """What a run's result depends on, by what people call it."""
    if isinstance(job.student, nn.Module):
        student: Any = fingerprint(job.student)
    else:
        student = file_hash(job.student) if isinstance(job.student, Path) else job.student
    parts: dict[str, Any] = {
        'student': student,
        'classes': job.classes,
        'images': [str(file) for file in job.images],
        'unlabelled images': [str(file) for file in job.unlabelled],
        'seed': job.seed,
        'teacher': None if job.teacher is None else file_hash(job.teacher),
        'kept channels': job.kept,
        'fit settings': counted(job.settings),
        'distillation': counted(job.distill),
        'sparsity': counted(job.sparsity),
    }
    if job.teachers:
        parts['teachers'] = {
            'files': {name: file_hash(file) for name, file in job.teachers.items()},
            'kept of': job.kept_of,
        }
    if job.settings.validate_epochs:
        parts['validation set'] = str(job.validation)
    for name in WITHOUT_EFFECT:
        parts['fit settings'].pop(name)
    return hashed(parts)


def hashed(parts: Mapping[str, Any]) -> dict[str, str]:
    """Each part of an identity as a hash."""
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
        for name, value in parts.items()
    }


def write_record(
    folder: Path, of_job: Mapping[str, str], steps: int, *, halved: bool, teachers: Mapping[str, Any]
) -> None:
    """Say whose result the weights in the folder are.

    Args:
        folder: of the training.
        of_job: its identity.
        steps: how many were made.
        halved: whether the memory sufficed for half a batch only.
        teachers: who they were.
    """
    record = {
        'job': of_job,
        'steps': steps,
        'halved_batch': halved,
        'weights_sha256': file_hash(folder / WEIGHTS),
        **teachers,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding='utf-8')


def finished(of_job: Mapping[str, str], folder: Path) -> FitResult | None:
    """The result of a training of that identity that came to its end before.

    Raises:
        FitError: the folder's record is of something else.
    """
    record = folder / RECORD
    if not record.is_file():
        return None
    try:
        entries = json.loads(record.read_text(encoding='utf-8'))
        same = entries['job'] == of_job and entries['weights_sha256'] == file_hash(folder / WEIGHTS)
        return FitResult(folder / WEIGHTS, int(entries['steps']), folder / LOG) if same else None
    except (ValueError, KeyError, TypeError) as error:
        raise FitError(f'{record} is not of this trainer: choose another folder') from error


def file_hash(file: Path) -> str:
    """Of a file or a folder."""
    if file.is_dir():
        return folder_hash(file)
    return digest(file) if file.is_file() else 'missing'
