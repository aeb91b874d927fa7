"""A recipe as a graph of steps: prepare the data, make weights stage by stage, export, quantize, measure, bundle, report.

What each kind of step needs and does is in its class: `run.data`, `run.fit`, `run.compress`, `run.report`.
"""

from __future__ import annotations

import shutil
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.data.crops import CropSettings
from training.data.dataset import Image
from training.data.spread import letterboxed, spread_images
from training.errors import RecipeError
from training.run.compress import Average, Export, ExportFile, Prune, Quantize
from training.run.data import Crops, Extract, Prepare
from training.run.document import WEIGHTS_FILES
from training.run.fit import TrainClassifier, TrainDetector
from training.run.recipe import Recipe, StageRecipe, is_folder
from training.run.report import MakeBundle, Measure, MeasureFile, Report
from training.run.work import WEIGHTS, Work
from training.steps import Step, Steps, fingerprint, in_order


@dataclass(frozen=True)
class Plan:
    """The steps of a recipe, by name. Nothing is done before `Steps.made`.

    Attributes:
        recipe: what is made.
        data: folder with the data sets.
        steps: makes the steps, in the recipe's working folder.
        planning: only names steps: data and files that are not there are no error.
        named: the steps that were named so far: a step knows its key, which hashes whole data sets, and others come back to it
            many times.
    """

    recipe: Recipe
    data: Path
    steps: Steps
    planning: bool = False
    named: dict[Hashable, Step] = field(default_factory=dict, init=False, repr=False, compare=False)

    # The steps.

    def prepare(self, name: str) -> Step:
        """A labelled set in our form."""
        return self._once(Prepare, name)

    def extract(self, name: str) -> Step:
        """Pictures from an unlabelled source."""
        return self._once(Extract, name)

    def images(self, name: str) -> Step:
        """One of the two."""
        return self.prepare(name) if name in self.recipe.data else self.extract(name)

    def crops(self, name: str, how: CropSettings) -> Step:
        """The objects of a labelled set as pictures to classify."""
        return self._once(Crops, name, how)

    def weights(self, name: str) -> Step:
        """The weights of a stage, by training, pruning or averaging."""
        stage = self.recipe.stages[name]
        if stage.classify is not None:
            return self._once(TrainClassifier, name)
        if stage.prune is not None:
            return self._once(Prune, name)
        return self._once(TrainDetector if stage.average is None else Average, name)

    def export(self, name: str) -> Step:
        """The float network of a stage as ONNX."""
        return self._once(Export, name)

    def export_file(self, source: str) -> Step:
        """The same of a weights file."""
        return self._once(ExportFile, source)

    def quantize(self, name: str) -> Step:
        """The INT8 network of a stage."""
        return self._once(Quantize, name)

    def measure(self, name: str, precision: str) -> Step:
        """Accuracy of a stage's network."""
        return self._once(Measure, name, precision)

    def measure_file(self, source: str) -> Step:
        """The same of a weights file, in float."""
        return self._once(MeasureFile, source)

    def bundle(self) -> Step:
        """The bundle of the final stage."""
        return self._once(MakeBundle, self.recipe.final)

    def report(self) -> Step:
        """The table of stages."""
        return self._once(Report)

    def all(self) -> list[Step]:
        """Every step of a run, needs first."""
        return in_order([*(self.weights(name) for name in self.recipe.stages), self.bundle(), self.report()])

    def _once(self, kind: type[Work], *of: Any) -> Step:
        if (kind, *of) not in self.named:
            self.named[(kind, *of)] = kind(self, *of).step()
        return self.named[(kind, *of)]

    # What becomes of a run.

    def publish(self, target: Path) -> None:
        """Copy the finished bundle to `target`, whose other files stay."""
        target.mkdir(parents=True, exist_ok=True)
        for file in (self.folder(self.bundle()) / 'bundle').iterdir():
            shutil.copyfile(file, target / file.name)

    def leave_weights(self) -> None:
        """Copy the bundle's weights to where other recipes start from."""
        shutil.copyfile(self.weights_file(self.recipe.final), self.steps.root / WEIGHTS)

    # Where the files of steps that were made lie.

    def folder(self, step: Step) -> Path:
        """Of a step."""
        return self.steps.folder(step)

    def set(self, name: str) -> Path:
        """Of an image set."""
        return self.folder(self.images(name)) / 'set'

    def network(self, name: str, precision: str) -> Path:
        """A stage's ONNX file."""
        step = self.export(name) if precision == 'fp32' else self.quantize(name)
        return self.folder(step) / f'{precision}.onnx'

    def weights_file(self, source: str) -> Path:
        """The file behind a stage's name or a path; paths are relative to the recipe."""
        if source in self.recipe.stages:
            return self.folder(self.weights(source)) / WEIGHTS
        return self.file(source)

    def file(self, source: str) -> Path:
        """A file or folder, relative to the recipe or to here.

        Raises:
            RecipeError: it is not there.
        """
        beside = self.recipe.file.parent / source
        file = beside if beside.exists() else Path(source)
        if not file.exists() and not self.planning:
            raise RecipeError(f'{self.recipe.file.name}: there is no file {source}')
        return file

    def start(self, stage: StageRecipe) -> Path | str:
        """Weights, or an architecture: a model file beside the recipe, or the name of one of Ultralytics'."""
        if not stage.start.endswith('.yaml'):
            return self.weights_file(stage.start)
        beside = self.recipe.file.parent / stage.start
        return str(beside) if beside.is_file() else stage.start

    # What steps depend on.

    def seed(self, stage: StageRecipe) -> int:
        """The stage's own, or the recipe's."""
        return self.recipe.seed if stage.seed is None else stage.seed

    def fingerprint(self, place: Path) -> str:
        """Hash of a data set; a plan does without it."""
        return 'not there' if self.planning and not place.exists() else fingerprint(place)

    def file_hashes(self, stage: StageRecipe) -> list[str]:
        """Of the files that a stage reads beside the data: weights, and model files of one's own."""
        sources = (stage.start, *stage.taught_by.values(), stage.backbone, stage.average, stage.bundle)
        hashes = [
            self.fingerprint(self.file(source))
            for source in filter(None, sources)
            if source.endswith(WEIGHTS_FILES) or is_folder(source)
        ]
        own = self.recipe.file.parent / stage.start
        return [*hashes, *([fingerprint(own)] if stage.start.endswith('.yaml') and own.is_file() else [])]

    def calibration(self) -> list[Image]:
        """So many training images of each set, evenly spread, as the runtime shows them to the network."""
        size, sets = self.recipe.export, self.recipe.calibration.images
        taken = (image for name, count in sets.items() for image in spread_images(self.set(name), 'train', count))
        return list(letterboxed(taken, size.width, size.height))
