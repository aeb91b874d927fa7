"""Steps that train: detectors and classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.dataset import read_classes
from training.data.sampling import ALL, NAMES, ImageRange, training_images
from training.errors import RecipeError
from training.models.yolov4.backbones import is_backbone
from training.quantize.qdq import qat_form
from training.run.recipe import ClassifyRecipe
from training.run.work import WEIGHTS, Work
from training.schema import counted
from training.steps import Result, Step, digest

LEAST_TEACHER_MAP = 0.001
"""A teacher below it was not trained, or not on these classes."""


@dataclass(frozen=True)
class TrainDetector(Work):
    """A stage that trains a detector; goes on from its last checkpoint."""

    resumes = True
    together = True

    @property
    def name(self) -> str:
        """See Work."""
        return f'train {self.of}'

    @property
    def settings(self) -> Any:
        """See Work."""
        settings = [*detector_settings(self), *self._sample]
        if self.stage.qat:
            settings += [self.recipe.calibration, self.recipe.export, *qat_form(self.recipe.quantize)]
        return settings

    @property
    def needs(self) -> Sequence[Step]:
        """See Work."""
        plan, stage, stages = self.plan, self.stage, self.recipe.stages
        return [
            *([plan.weights(stage.start)] if stage.start in stages else []),
            *(plan.measure(source, 'fp32') for source in stage.taught_by.values() if source in stages),
            *([plan.weights(str(stage.backbone))] if stage.backbone in stages else []),
            *(plan.images(name) for name in [*stage.images, *stage.unlabelled]),
            *(plan.prepare(name) for name in (self.recipe.calibration.images if stage.qat else ())),
            plan.prepare(self.recipe.validation),
        ]

    @property
    def _sample(self) -> list[Any]:
        """How images are drawn, where that matters; the first ones by name are what all recipes took at first."""
        recipe, stage = self.recipe, self.stage
        draws = any(wanted != ALL for wanted in [*stage.images.values(), *stage.unlabelled.values()])
        return [{'sample': recipe.sample, 'seed': recipe.seed}] if draws and recipe.sample != NAMES else []

    def make(self, folder: Path) -> Result:
        """See Work."""
        from training.fit.detector import fit_detector
        from training.fit.job import FitJob
        from training.models.weights import read_kept

        stage, plan = self.stage, self.plan
        assert stage.fit is not None
        validation = plan.set(self.recipe.validation)
        classes = read_classes(validation)
        self._check_classes(classes)
        maps = self._teacher_maps()
        images = self._images_of(stage.images)
        start, unpruned = plan.start(stage), self._unpruned()
        teachers = {name: plan.weights_file(source) for name, source in stage.taught_by.items()}
        job = FitJob(
            student=self._student(start, classes, images),
            classes=classes,
            images=images,
            unlabelled=self._images_of(stage.unlabelled),
            settings=stage.fit,
            seed=plan.seed(stage),
            teacher=teachers.get(''),
            teacher_map=maps.get(''),
            distill=stage.distill,
            sparsity=stage.sparsity,
            kept=read_kept(start) if isinstance(start, Path) and unpruned is not None else None,
            teachers={name: file for name, file in teachers.items() if name},
            teacher_maps={name: measured for name, measured in maps.items() if name},
            kept_of=unpruned or '',
            answers=plan.steps.root / 'answers',
            validation=validation,
        )
        result = fit_detector(job, folder)
        notes: Result = {'steps': result.steps, 'weights': digest(result.weights)}
        if '' in maps:
            notes['teacher_map'] = maps['']
        elif maps:
            notes['teacher_maps'] = dict(maps)
        return notes

    def _student(self, start: Path | str, classes: Sequence[str], images: Sequence[Path]) -> Any:
        """The network with which the training begins, or the file or architecture of it."""
        from training.models.starts import fresh_yolov4, of_bundle
        from training.models.weights import load_network

        stage, plan = self.stage, self.plan
        assert stage.fit is not None
        size = stage.fit.image_size
        if stage.backbone is not None or stage.anchors:
            backbone = None if stage.backbone is None else plan.weights_file(stage.backbone)
            return fresh_yolov4(str(start), classes, backbone, images if stage.anchors else [], size, plan.seed(stage))
        if stage.bundle is not None:
            return of_bundle(str(start), classes, plan.file(stage.bundle), images, size, plan.seed(stage))
        if stage.qat:
            from training.quantize.qat import prepare_qat  # it imports Ultralytics, whose networks alone it trains

            return prepare_qat(load_network(Path(start))[0], plan.calibration(), self.recipe.quantize)
        return start

    def _unpruned(self) -> str | None:
        """The teacher that the student was pruned from, so that channels can be matched by index; None: none."""
        ancestors = [self.stage.start]
        while ancestors[-1] in self.recipe.stages:
            ancestors.append(self.recipe.stages[ancestors[-1]].start)
        return next((name for name, source in self.stage.taught_by.items() if source in ancestors), None)

    def _teacher_maps(self) -> dict[str, float]:
        """mAP50-95 of the teachers that were measured, 0 … 1."""
        sources = {name: of for name, of in self.stage.taught_by.items() if of in self.recipe.stages}
        maps = {name: self.plan.steps.known(self.plan.measure(of, 'fp32'))['map'] for name, of in sources.items()}
        for name, accuracy in maps.items():
            if accuracy < LEAST_TEACHER_MAP:
                raise RecipeError(
                    f'the teacher {name + " " if name else ""}finds next to nothing on the validation pictures (mAP50-95 '
                    f'{100 * accuracy:.2f} %): it cannot teach; train it longer'
                )
        return maps

    def _check_classes(self, classes: Sequence[str]) -> None:
        for name in self.stage.images:
            known = read_classes(self.plan.set(name))
            if tuple(known) != tuple(classes):
                raise RecipeError(f'the set {name} has the classes {", ".join(known)}, not {", ".join(classes)}')

    def _images_of(self, wanted: Mapping[str, ImageRange]) -> list[Path]:
        sample = self.recipe.sample, self.recipe.seed
        return [path for name, some in wanted.items() for path in training_images(self.plan.set(name), some, *sample)]


@dataclass(frozen=True)
class TrainClassifier(Work):
    """A stage that trains a classifier, whose backbone a detector takes over; goes on from its last checkpoint."""

    resumes = True
    together = True

    @property
    def name(self) -> str:
        """See Work."""
        return f'classify {self.of}'

    @property
    def settings(self) -> Any:
        """See Work."""
        plan, stage = self.plan, self.stage
        origin = [plan.fingerprint(plan.data / self._classify.folder)] if self._classify.folder else []
        return [stage, plan.seed(stage), *plan.file_hashes(stage), *origin]

    @property
    def needs(self) -> Sequence[Step]:
        """See Work."""
        sources = [source for source in (self.stage.start, self.stage.teacher) if source in self.recipe.stages]
        return [*(self.plan.weights(str(source)) for source in sources), *self._crops]

    @property
    def _classify(self) -> ClassifyRecipe:
        assert self.stage.classify is not None
        return self.stage.classify

    @property
    def _crops(self) -> list[Step]:
        return [self.plan.crops(name, how) for name, how in self._classify.crops.items()]

    def make(self, folder: Path) -> Result:
        """See Work."""
        from training.data.image_folder import read_splits
        from training.fit.classifier import ClassifyJob, accuracy, fit_classifier
        from training.models.yolov4.classifier_files import load_classifier

        plan, stage, settings = self.plan, self.stage, self._classify.fit
        file = None if is_backbone(stage.start) else plan.weights_file(stage.start)
        backbone = stage.start if file is None else load_classifier(file)[0].name
        teacher = None if stage.teacher is None else plan.weights_file(stage.teacher)
        job = ClassifyJob(backbone, settings, plan.seed(stage), file, teacher, self._classify.method)
        pictures = [plan.folder(step) / 'crops' for step in self._crops] or [plan.data / self._classify.folder]
        centered = settings.augment.crop is not None
        weights = fit_classifier(job, read_splits(pictures, ('train',), settings.size, centered=centered), folder)
        measured = read_splits(pictures, ('val',), settings.size, centered=centered)
        return {'top1': accuracy(weights, measured), 'weights': digest(weights)}


def detector_settings(work: Work) -> list[Any]:
    """What the weights of a detector's stage depend on, beside the steps before it.

    Without what is left out and came later than the first recipes: what was made with them stays made.
    """
    plan, stage = work.plan, work.stage
    entries = {
        name: value
        for name, value in counted(stage).items()
        if value or name not in ('classify', 'backbone', 'anchors')
    }
    return [entries, plan.seed(stage), *plan.file_hashes(stage)]


__all__ = ['LEAST_TEACHER_MAP', 'WEIGHTS', 'TrainClassifier', 'TrainDetector', 'detector_settings']
