"""A recipe as a graph of steps: prepare the data, make weights stage by stage, export, quantize, measure, bundle, report."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from kd_perception.detection.thresholds import PER_CLASS
from training.data.crops import CropSettings, write_crops
from training.data.dataset import Image
from training.data.sampling import ALL, NAMES
from training.data.sources import require
from training.errors import RecipeError
from training.models.yolov4.backbones import is_backbone
from training.quantize.qdq import qat_form
from training.run import bundling, stages
from training.run.document import WEIGHTS_FILES
from training.run.recipe import COCO, MAX_DETECTIONS, ClassifyRecipe, Recipe, StageRecipe, is_folder
from training.schema import counted
from training.steps import Result, Step, Steps, fingerprint, in_order

PRECISIONS = ('int8', 'fp32')
"""In the bundle's order of preference."""
Named = ParamSpec('Named')


def _once(name_step: Callable[Concatenate[Pipeline, Named], Step]) -> Callable[Concatenate[Pipeline, Named], Step]:
    """One step object for each name: it knows its key, which hashes whole data sets, and others come back to it many times."""

    @functools.wraps(name_step)
    def named_once(pipeline: Pipeline, /, *args: Named.args, **kwargs: Named.kwargs) -> Step:
        key = (name_step.__name__, *args, *kwargs.items())
        if key not in pipeline.named:
            pipeline.named[key] = name_step(pipeline, *args, **kwargs)
        return pipeline.named[key]

    return named_once


@dataclass(frozen=True)
class Pipeline:
    """The steps of a recipe. Each method names one step and what it needs; nothing is done before `Steps.made`.

    Attributes:
        recipe: what is made.
        data: folder with the data sets.
        steps: makes the steps, in the recipe's working folder.
        planning: only names steps: data and files that are not there are no error.
        named: the steps that were named so far, by method and arguments; the data are hashed once a pipeline.
    """

    recipe: Recipe
    data: Path
    steps: Steps
    planning: bool = False
    named: dict[Hashable, Step] = field(default_factory=dict, init=False, repr=False, compare=False)

    @_once
    def prepare(self, name: str) -> Step:
        """A labelled set in our form."""
        settings = self.recipe.data[name]
        if not self.planning:
            require(settings, self.data / settings.path)
        source = self._fingerprint(self.data / settings.path) if settings.path else ''
        grounds = settings.tiles.grounds if settings.tiles else ''
        beside = [self._fingerprint(self.data / grounds)] if grounds else []
        return Step(
            f'prepare {name}',
            [settings, source, *beside],
            (),
            lambda folder: stages.prepare(settings, self.data, folder / 'set'),
        )

    @_once
    def extract(self, name: str) -> Step:
        """Pictures from an unlabelled source."""
        settings = self.recipe.unlabelled[name]
        source = self.data / settings.path
        return Step(
            f'extract {name}',
            [settings.frames, self._fingerprint(source)],
            (),
            lambda folder: stages.extract(settings.frames, source, folder / 'set'),
        )

    @_once
    def weights(self, name: str) -> Step:
        """The weights of a stage, by training or by pruning."""
        stage = self.recipe.stages[name]
        if stage.classify is not None:
            return self._classifier(name, stage, stage.classify)
        settings = [self._detector_settings(stage), self._seed(stage), *self._file_hashes(stage)]
        start = [self.weights(stage.start)] if stage.start in self.recipe.stages else []
        if stage.prune is not None:
            needs = tuple(start)
            settings += [self.recipe.export.width, self.recipe.export.height]
            return Step(f'prune {name}', settings, needs, lambda folder: self._prune(stage, folder))
        if stage.average is not None:
            others = [self.weights(stage.average)] if stage.average in self.recipe.stages else []
            return Step(f'average {name}', settings, (*start, *others), lambda folder: self._average(stage, folder))
        teachers = [self.measure(source, 'fp32') for source in stage.taught_by.values() if source in self.recipe.stages]
        backbone = [self.weights(str(stage.backbone))] if stage.backbone in self.recipe.stages else []
        images = [self._images(image_set) for image_set in [*stage.images, *stage.unlabelled]]
        rounded = [self.prepare(image_set) for image_set in self.recipe.calibration.images] if stage.qat else []
        settings += self._sample(stage)
        if stage.qat:
            settings += [self.recipe.calibration, self.recipe.export, *qat_form(self.recipe.quantize)]
        needs = (*start, *teachers, *backbone, *images, *rounded, self.prepare(self.recipe.validation))
        return Step(f'train {name}', settings, needs, lambda folder: self._train(stage, folder), True, True)

    def _classifier(self, name: str, stage: StageRecipe, classify: ClassifyRecipe) -> Step:
        before = [source for source in (stage.start, stage.teacher) if source in self.recipe.stages]
        crops = [self.crops(image_set, settings) for image_set, settings in classify.crops.items()]
        origin = [self._fingerprint(self.data / classify.folder)] if classify.folder else []
        settings = [stage, self._seed(stage), *self._file_hashes(stage), *origin]
        needs = (*(self.weights(str(source)) for source in before), *crops)
        return Step(f'classify {name}', settings, needs, lambda folder: self._classify(stage, folder), True, True)

    @_once
    def crops(self, name: str, settings: CropSettings) -> Step:
        """The objects of a labelled set as pictures to classify."""
        return Step(
            f'crops {name}',
            settings,
            (self.prepare(name),),
            lambda folder: dict(write_crops(self._set(name), folder / 'crops', settings)),
        )

    @_once
    def export(self, name: str) -> Step:
        """The float network of a stage as ONNX."""
        needs = (self.weights(name), self.prepare(self.recipe.validation))
        return Step(f'export {name}', self.recipe.export, needs, lambda folder: self._export(name, folder))

    @_once
    def quantize(self, name: str) -> Step:
        """The INT8 network of a stage."""
        calibration = self.recipe.calibration
        stage = self.recipe.stages[name]
        began = [self.export(stage.start)] if stage.qat else []
        needs = (self.export(name), *began, *(self.prepare(image_set) for image_set in calibration.images))
        settings = [self.recipe.quantize, calibration]
        return Step(f'quantize {name}', settings, needs, lambda folder: self._quantize(name, folder))

    @_once
    def measure(self, name: str, precision: str) -> Step:
        """Accuracy of a stage's network on the validation pictures, on the runtime's path."""
        networks = (self.export(name),) if precision == 'fp32' else (self.quantize(name), self.export(name))
        bundle, protocol = self.recipe.bundle, self.recipe.protocol
        settings = [bundle.score, bundle.iou]
        if (bundle.max_detections, protocol) != (MAX_DETECTIONS, COCO):
            settings += [bundle.max_detections, protocol]
        if bundle.suppression != PER_CLASS:
            settings.append(bundle.suppression)
        return Step(
            f'measure {name} {precision}',
            settings,
            (*networks, self.prepare(self.recipe.validation)),
            lambda folder: self._measure(name, precision, folder),
        )

    @_once
    def bundle(self) -> Step:
        """The bundle of the final stage."""
        final = self.recipe.final
        needs = tuple(self.measure(final, precision) for precision in PRECISIONS)
        return Step(f'bundle {final}', self.recipe.bundle, needs, self._bundle)

    @_once
    def report(self) -> Step:
        """The table of stages, with latencies taken side by side."""
        settings = self.recipe.report
        needs = tuple(
            self.measure(name, precision)
            for name in settings.stages or self.recipe.detectors
            for precision in PRECISIONS
        )
        return Step('report', settings, needs, self._report)

    def all(self) -> list[Step]:
        """Every step of a run, needs first."""
        return in_order([*(self.weights(name) for name in self.recipe.stages), self.bundle(), self.report()])

    def publish(self, target: Path) -> None:
        """Copy the finished bundle to `target`, whose other files stay."""
        target.mkdir(parents=True, exist_ok=True)
        for file in (self._folder(self.bundle()) / 'bundle').iterdir():
            shutil.copyfile(file, target / file.name)

    def leave_weights(self) -> None:
        """Copy the bundle's weights to where other recipes start from."""
        source = self._folder(self.weights(self.recipe.final)) / stages.WEIGHTS
        shutil.copyfile(source, self.steps.root / stages.WEIGHTS)

    # What the steps do, with the files of those they need

    def _folder(self, step: Step) -> Path:
        return self.steps.folder(step)

    def _images(self, name: str) -> Step:
        return self.prepare(name) if name in self.recipe.data else self.extract(name)

    def _set(self, name: str) -> Path:
        return self._folder(self._images(name)) / 'set'

    def _detector_settings(self, stage: StageRecipe) -> dict[str, Any]:
        """Without what is left out and came later than the first recipes: what was made with them stays made."""
        return {
            name: value
            for name, value in counted(stage).items()
            if value or name not in ('classify', 'backbone', 'anchors')
        }

    def _sample(self, stage: StageRecipe) -> list[Any]:
        """How images are drawn, where that matters; the first ones by name are what all recipes took at first."""
        draws = any(wanted != ALL for wanted in [*stage.images.values(), *stage.unlabelled.values()])
        return (
            [{'sample': self.recipe.sample, 'seed': self.recipe.seed}] if draws and self.recipe.sample != NAMES else []
        )

    def _seed(self, stage: StageRecipe) -> int:
        return self.recipe.seed if stage.seed is None else stage.seed

    def weights_file(self, source: str) -> Path:
        """The file behind a stage's name or a path; paths are relative to the recipe."""
        if source in self.recipe.stages:
            return self._folder(self.weights(source)) / stages.WEIGHTS
        return self._file(source)

    def _fingerprint(self, place: Path) -> str:
        return 'not there' if self.planning and not place.exists() else fingerprint(place)

    def _file(self, source: str) -> Path:
        beside = self.recipe.file.parent / source
        file = beside if beside.exists() else Path(source)
        if not file.exists() and not self.planning:
            raise RecipeError(f'{self.recipe.file.name}: there is no file {source}')
        return file

    def _start(self, stage: StageRecipe) -> Path | str:
        """Weights, or an architecture: a model file beside the recipe, or the name of one of Ultralytics'."""
        if not stage.start.endswith('.yaml'):
            return self.weights_file(stage.start)
        beside = self.recipe.file.parent / stage.start
        return str(beside) if beside.is_file() else stage.start

    def _ancestors(self, stage: StageRecipe) -> list[str]:
        """What the stage's weights come from, nearest first: stages, and a file or an architecture at the end."""
        found = [stage.start]
        while found[-1] in self.recipe.stages:
            found.append(self.recipe.stages[found[-1]].start)
        return found

    def _file_hashes(self, stage: StageRecipe) -> list[str]:
        """Of the files that a stage reads beside the data: weights, and model files of one's own."""
        hashes = [
            self._fingerprint(self._file(source))
            for source in (
                stage.start,
                *stage.taught_by.values(),
                stage.backbone or '',
                stage.average or '',
                stage.bundle or '',
            )
            if source.endswith(WEIGHTS_FILES) or is_folder(source)
        ]
        own = self.recipe.file.parent / stage.start
        return [*hashes, *([fingerprint(own)] if stage.start.endswith('.yaml') and own.is_file() else [])]

    def _train(self, stage: StageRecipe, folder: Path) -> Result:
        sources, ancestors = stage.taught_by, self._ancestors(stage)
        measured = {name: source for name, source in sources.items() if source in self.recipe.stages}
        return stages.train(
            stage,
            folder,
            start=self._start(stage),
            teachers={name: self.weights_file(source) for name, source in sources.items()},
            teacher_maps={name: self.steps.known(self.measure(of, 'fp32'))['map'] for name, of in measured.items()},
            unpruned=next((name for name, source in sources.items() if source in ancestors), None),
            sets={name: self._set(name) for name in [*stage.images, *stage.unlabelled]},
            classes_of=self._set(self.recipe.validation),
            seed=self._seed(stage),
            sample=(self.recipe.sample, self.recipe.seed),
            backbone=None if stage.backbone is None else self.weights_file(stage.backbone),
            bundle=None if stage.bundle is None else self._file(stage.bundle),
            answers=self.steps.root / 'answers',
            calibration=self._calibration() if stage.qat else None,
            quantized=self.recipe.quantize,
        )

    def _classify(self, stage: StageRecipe, folder: Path) -> Result:
        assert stage.classify is not None
        crops = [self._folder(self.crops(*item)) / 'crops' for item in stage.classify.crops.items()]
        return stages.classify(
            stage,
            folder,
            start=stage.start if is_backbone(stage.start) else self.weights_file(stage.start),
            teacher=None if stage.teacher is None else self.weights_file(stage.teacher),
            pictures=crops or [self.data / stage.classify.folder],
            seed=self._seed(stage),
        )

    def _prune(self, stage: StageRecipe, folder: Path) -> Result:
        assert stage.prune is not None
        return stages.prune(stage.prune, self.weights_file(stage.start), folder, self.recipe.export)

    def _average(self, stage: StageRecipe, folder: Path) -> Result:
        files = [self.weights_file(source) for source in (stage.start, str(stage.average))]
        return stages.average(files, folder / stages.WEIGHTS)

    def _export(self, name: str, folder: Path) -> Result:
        weights = self._folder(self.weights(name)) / stages.WEIGHTS
        return stages.export(weights, folder / 'fp32.onnx', self.recipe.export, self._set(self.recipe.validation))

    def _quantize(self, name: str, folder: Path) -> Result:
        stage = self.recipe.stages[name]
        return stages.quantize(
            self._network(name, 'fp32'),
            folder / 'int8.onnx',
            self.recipe.quantize,
            self._calibration(),
            began=self._network(stage.start, 'fp32') if stage.qat else None,
        )

    def _calibration(self) -> list[Image]:
        sets = {self._set(image_set): count for image_set, count in self.recipe.calibration.images.items()}
        return stages.calibration_images(sets, self.recipe.export)

    def _network(self, name: str, precision: str) -> Path:
        step = self.export(name) if precision == 'fp32' else self.quantize(name)
        return self._folder(step) / f'{precision}.onnx'

    def _measure(self, name: str, precision: str, folder: Path) -> Result:
        # The float network beside it, to compare with.
        networks = {each: self._network(name, each) for each in dict.fromkeys((precision, 'fp32'))}
        bundle = bundling.write_plain_bundle(
            folder / 'bundle', networks, self._set(self.recipe.validation), self.recipe
        )
        return stages.measure(bundle, precision, self._set(self.recipe.validation), self.recipe.protocol)

    def _bundle(self, folder: Path) -> Result:
        final = self.recipe.final
        records = {
            step.name: {'result': self.steps.known(step), 'key': step.key[:10]}
            for step in in_order([self.bundle()])[:-1]
        }
        metrics = {precision: self.steps.known(self.measure(final, precision)) for precision in PRECISIONS}
        networks = {precision: self._network(final, precision) for precision in PRECISIONS}
        weights = self._folder(self.weights(final)) / stages.WEIGHTS
        return bundling.write_finished_bundle(
            folder / 'bundle', weights, networks, metrics, self._set(self.recipe.validation), self.recipe, records
        )

    def _report(self, folder: Path) -> Result:
        names = self.recipe.report.stages or self.recipe.detectors
        networks = {name: {precision: self._network(name, precision) for precision in PRECISIONS} for name in names}
        records = {
            name: {
                'export': self.steps.known(self.export(name)),
                **{precision: self.steps.known(self.measure(name, precision)) for precision in PRECISIONS},
            }
            for name in names
        }
        return stages.report(folder, networks, records, self.recipe)
