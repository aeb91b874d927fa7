"""Methods of distilling a backbone as a classifier, compared: the recipe, the teacher made once, and the job of one cell."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from training.data.crops import CropSettings, folder_name, write_crops
from training.data.image_folder import ImageFolder, PictureFiles, read_splits
from training.data.sources import SourceSettings, prepare
from training.distill.classifier_methods import MethodSettings
from training.errors import StudyError
from training.fit.classifier import (
    ClassifyJob,
    ClassifySettings,
    accuracy,
    fit_classifier,
)
from training.models.yolov4.backbones import BACKBONES, Classifier, is_backbone, mebibytes, parameter_count
from training.models.yolov4.classifier_files import load_classifier
from training.ranges import Range
from training.run.document import override, read_document
from training.schema import added, nearest, read
from training.steps import Result, Step, Steps, fingerprint

PLAIN = 'plain'
"""The arm without a teacher."""
WEIGHTS = 'weights.pt'


@dataclass(frozen=True)
class PictureSource:
    """Pictures to classify: crops of a detection set, or a classification set as it is.

    Attributes:
        detection: a detection set, whose objects are cut out.
        crops: how.
        folder: a classification set, `SPLIT/CLASS/picture.jpg`, relative to the data root.
    """

    detection: SourceSettings | None = None
    crops: CropSettings = field(default_factory=CropSettings)
    folder: str = ''

    def __post_init__(self) -> None:
        if (self.detection is None) == (not self.folder):
            raise ValueError('give either detection or folder')


@dataclass(frozen=True)
class TeacherSettings:
    """The teacher.

    Attributes:
        fit: how it is trained; its size is the students'.
        backbone: see `yolov4.backbones.make_backbone`.
        seed: of its training; one teacher teaches all cells.
        weights: a classifier trained before, instead; relative to the data root.
    """

    fit: ClassifySettings = field(default_factory=ClassifySettings)
    backbone: str = 'cspdarknet53'
    seed: int = 0
    weights: str = ''


@dataclass(frozen=True)
class ComparisonRecipe:
    """A whole comparison.

    Attributes:
        name: of its folder.
        pictures: sets by name, taken together.
        students: backbones.
        methods: by the name of the arm, what is learned from the teacher.
        fit: how the students are trained.
        teacher: who teaches.
        measured: splits on which top-1 is measured; none of them is trained on.
        keep_answers: keep what the teacher says in each step, once for all students and methods of a seed: 4 bytes a value of
            its maps, of CSPDarknet53 29 kB for every picture shown at 32 pixels.
        largest_drop: of top-1 from the teacher, a share, that the choice allows.
        longer: arms of the student alone with so many times the steps: a method takes time, which plain training may spend too.
    """

    name: str
    pictures: Mapping[str, PictureSource]
    students: tuple[str, ...]
    methods: Mapping[str, MethodSettings]
    fit: ClassifySettings = field(default_factory=ClassifySettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    measured: tuple[str, ...] = ('val',)
    keep_answers: bool = False
    largest_drop: float = 0.04
    longer: tuple[float, ...] = added(())

    def __post_init__(self) -> None:
        if not self.pictures or not self.students or not self.measured:
            raise ValueError('pictures, students and measured must each name at least one')
        for backbone in (*self.students, self.teacher.backbone):
            if not is_backbone(backbone):
                raise ValueError(f'there is no backbone {backbone!r}{nearest(backbone, BACKBONES)}')
        Range(above=1, most=100).check(**{f'longer: {factor:g}': factor for factor in self.longer})
        for arm in {PLAIN, *map(longer_arm, self.longer)} & set(self.methods):
            raise ValueError(f'{arm} is the student alone; give the method another name')
        if 'train' in self.measured:
            raise ValueError('the training split cannot be measured')
        if self.teacher.fit.size != self.fit.size:
            raise ValueError(f'teacher.fit.size is {self.teacher.fit.size}, the students see {self.fit.size}')


def longer_arm(factor: float) -> str:
    """Name of the arm of the student alone with so many times the steps."""
    return f'{PLAIN}_{factor:g}'


def load_comparison(file: Path, overrides: Mapping[str, Any] | None = None) -> ComparisonRecipe:
    """Read and check a recipe.

    Raises:
        RecipeError: not readable, or an entry missing, unknown or wrong.
    """
    document = read_document(file)
    for name, value in (overrides or {}).items():
        override(document, name, value)
    return read(ComparisonRecipe, document, file.name)


@dataclass(frozen=True)
class Comparison:
    """What all cells share, as steps that are made once.

    Attributes:
        recipe: what is compared.
        data: folder with the data sets.
        steps: makes the steps in the comparison's folder.
    """

    recipe: ComparisonRecipe
    data: Path
    steps: Steps

    def crops(self, name: str) -> Step:
        """The crops of a detection set."""
        source = self.recipe.pictures[name]
        assert source.detection is not None
        settings = source.detection
        origin = fingerprint(self.data / settings.path) if settings.path else ''

        def make(folder: Path) -> Result:
            prepare(settings, self.data, folder / 'set')
            return dict(write_crops(folder / 'set', folder / 'crops', source.crops))

        return Step(f'crops {name}', [settings, source.crops, origin], (), make)

    def teacher(self) -> Step:
        """The teacher's weights, and its top-1."""
        settings = self.recipe.teacher
        own = self.data / settings.weights
        what = [settings, self.recipe.measured, self._origins(), fingerprint(own) if settings.weights else '']
        return Step('teacher', what, self._needs(), self._make_teacher, resumes=True)

    def pictures(self, *splits: str) -> ImageFolder | PictureFiles:
        """Pictures of some splits of all sets; a set may lack all but the training split.

        Raises:
            DataError: no pictures.
        """
        return _pictures(tuple(self._folders()), splits, self.recipe.fit.size)

    def teacher_weights(self) -> Path:
        """The file, once `teacher` is made."""
        settings = self.recipe.teacher
        return self.data / settings.weights if settings.weights else self.steps.folder(self.teacher()) / WEIGHTS

    def _needs(self) -> tuple[Step, ...]:
        return tuple(self.crops(name) for name, source in self.recipe.pictures.items() if source.detection is not None)

    def _origins(self) -> list[str]:
        folders = [source.folder for source in self.recipe.pictures.values() if source.folder]
        return [fingerprint(self.data / folder) for folder in folders]

    def _folders(self) -> list[Path]:
        return [
            self.data / source.folder if source.folder else self.steps.folder(self.crops(name)) / 'crops'
            for name, source in self.recipe.pictures.items()
        ]

    def _make_teacher(self, folder: Path) -> Result:
        settings = self.recipe.teacher
        if not settings.weights:
            job = ClassifyJob(settings.backbone, settings.fit, settings.seed)
            fit_classifier(job, self.pictures('train'), folder)
        measured = self.pictures(*self.recipe.measured)
        top1 = accuracy(self.teacher_weights(), measured)
        guess = float(measured.class_ids.bincount().max()) / len(measured)
        if top1 <= guess:
            raise StudyError(
                f'the teacher has a top-1 of {top1:.3f}, no better than always naming the most frequent class ({guess:.3f}): it '
                'cannot teach; train it longer'
            )
        network, _ = load_classifier(self.teacher_weights())
        return {'top1': top1, 'guess': guess, 'mib': mebibytes(network.backbone), 'pictures': len(measured)}


@functools.lru_cache(maxsize=4)
def _pictures(folders: tuple[Path, ...], splits: tuple[str, ...], size: int) -> ImageFolder | PictureFiles:
    return read_splits(folders, splits, size)


def run_cell(
    recipe_file: str,
    overrides: Mapping[str, Any],
    student: str,
    method: Mapping[str, Any] | None,
    seed: int,
    data: str,
    out: str,
    threads: int,
    longer: float = 1.0,
) -> dict[str, float]:
    """One student taught in one way with one seed, for so many times the recipe's steps: the job of a cell.

    Returns:
        `top1` (share), `drop` of it from the teacher's, `parameters` and `mib` of the backbone.
    """
    import torch

    torch.set_num_threads(threads)
    recipe = load_comparison(Path(recipe_file), overrides)
    comparison = Comparison(recipe, Path(data), Steps(Path(out) / recipe.name))
    taught = comparison.steps.made(comparison.teacher())
    settings = replace(recipe.fit, steps=round(longer * recipe.fit.steps))
    job = ClassifyJob(student, settings, seed)
    if method is not None:
        job = ClassifyJob(
            student,
            settings,
            seed,
            teacher=comparison.teacher_weights(),
            method=read(MethodSettings, method, 'method'),
            answers=comparison.steps.root / 'answers' if recipe.keep_answers else None,
        )
    name = f'{folder_name(student)} {PLAIN if method is None else method["loss"]} {seed}'
    step = Step(
        f'student {name}',
        [student, settings, method],
        (comparison.teacher(),),
        lambda folder: _taught(job, comparison, folder),
        resumes=True,
    )
    top1 = float(comparison.steps.made(step)['top1'])
    backbone = Classifier(student, 2).backbone
    return {
        'top1': top1,
        'drop': float(taught['top1']) - top1,
        'parameters': float(parameter_count(backbone)),
        'mib': mebibytes(backbone),
    }


def _taught(job: ClassifyJob, comparison: Comparison, folder: Path) -> Result:
    weights = fit_classifier(job, comparison.pictures('train'), folder)
    return {'top1': accuracy(weights, comparison.pictures(*comparison.recipe.measured))}
