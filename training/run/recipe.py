"""Recipes: one YAML file with every setting from the pictures to the bundle, checked when it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from kd_perception.detection.thresholds import PER_CLASS, SUPPRESSIONS
from training.data.crops import CropSettings
from training.data.protocols import PROTOCOLS
from training.data.sampling import ALL, SAMPLES, SESSIONS, ImageRange
from training.data.sources import SourceSettings
from training.data.unlabelled import UnlabelledSettings
from training.distill.classifier_methods import MethodSettings
from training.distill.settings import UNLABELLED, DistillSettings
from training.errors import RecipeError
from training.export.parity import QUANTIZED, ParityLimits
from training.fit.classifier import ClassifySettings
from training.fit.settings import FitSettings
from training.models.yolov4.backbones import BACKBONES, is_backbone
from training.prune.settings import PruneSettings
from training.prune.sparsity import SparsitySettings
from training.quantize.qdq import QuantizeSettings
from training.ranges import Range, one_of
from training.run.document import WEIGHTS_FILES, merged, override, read_document, with_iterations, with_weights
from training.schema import added, nearest, read

MAX_DETECTIONS = 300
COCO = 'coco'


def is_folder(source: str) -> bool:
    """Whether a teacher is a bundle's folder, `models/aerial_traffic`; names of stages hold no slash."""
    return '/' in source and not source.endswith(('.yaml', *WEIGHTS_FILES))


@dataclass(frozen=True)
class ClassifyRecipe:
    """How a stage trains a classifier, whose backbone a detector takes over.

    Attributes:
        fit: how it is trained.
        crops: data sets of the recipe whose objects, cut out, are the pictures.
        folder: a classification set instead, SPLIT/CLASS/picture.jpg, relative to the data root.
        method: what is learned from the stage's teacher, another classifier.
    """

    fit: ClassifySettings = field(default_factory=ClassifySettings)
    crops: Mapping[str, CropSettings] = field(default_factory=dict)
    folder: str = ''
    method: MethodSettings | None = None

    def __post_init__(self) -> None:
        if bool(self.crops) == bool(self.folder):
            raise ValueError('give either crops, the sets whose objects are classified, or folder')


@dataclass(frozen=True)
class StageRecipe:
    """One stage that makes weights: by training a detector or a classifier, or by pruning.

    Attributes:
        start: what it starts from: a stage before it; a weights file, ours, Ultralytics' (`yolov8n.pt`) or Darknet's of YOLOv4
            (`yolov4.weights`), whose outputs for other classes begin afresh; or a model file for random weights: one of
            Ultralytics' (`yolov8n.yaml`) or one beside the recipe (`networks/m_yolo.yaml`). For a classifier: the name of a
            backbone.
        classify: trains a classifier instead of a detector.
        backbone: a classifier whose backbone the detector of a model file begins with: a stage, a weights file, or the same
            network's from timm, torchvision or Darknet (`mobilenet_v2.pth`, `yolov4.conv.137`).
        anchors: find the anchors of the model file's YOLOv4 by k-means on the boxes of the images.
        average: a detector with whose weights those of `start` are averaged, half and half; such a stage does not train.
        qat: quantization-aware: it trains as INT8 will compute, its ranges set by the recipe's calibration images.
        bundle: a bundle of ours (`models/aerial_traffic`) with whose float network that of the model file begins, which must be
            the architecture that it was exported from; outputs of classes that both have go over by name.
        images: labelled images by data set: how many, `[from, to]`, or `all`; the recipe's `sample` says which.
        unlabelled: images by data set of which only the teacher's word is taken: sets without labels, or with labels that are
            left aside.
        fit: how it is trained; the recipe's own `fit` holds what all stages have in common.
        teacher: a stage, a weights file, or a bundle's folder (`models/aerial_traffic`), for `distill`.
        teachers: several, by names that the log shows: `{large: teacher, other: networks/v5.pt}`.
        distill: what is learned from the teacher.
        sparsity: drives batch-norm scales to zero while it trains.
        prune: removes channels; such a stage does not train. `{ratio: 0.5, steps: 3}` with `tune: {images, fit, …}` beside it
            prunes in three steps and trains after each, see `run.document.with_iterations`.
        seed: of this stage; the recipe's by default.
    """

    GONE: ClassVar[Mapping[str, str]] = {
        'widen': 'no study showed a gain; start from a weights file of the wider network, or let the narrower one be its teacher'
    }

    start: str
    images: Mapping[str, ImageRange] = field(default_factory=dict)
    unlabelled: Mapping[str, ImageRange] = field(default_factory=dict)
    fit: FitSettings | None = None
    teacher: str | None = None
    distill: DistillSettings | None = None
    sparsity: SparsitySettings | None = None
    prune: PruneSettings | None = None
    seed: int | None = None
    classify: ClassifyRecipe | None = None
    backbone: str | None = None
    anchors: bool = False
    qat: bool = added(False)
    average: str | None = added(None)
    teachers: Mapping[str, str] = added(default_factory=dict)
    bundle: str | None = added(None)

    def __post_init__(self) -> None:
        if self.classify is not None:
            self._check_classifier(self.classify)
            return
        still = self.prune is not None or self.average is not None
        if not still and (self.fit is None or not self.images):
            raise ValueError('a stage that trains needs images and fit; one that prunes needs prune')
        training = ('images', 'unlabelled', 'teacher', 'teachers', 'distill', 'sparsity', 'qat')
        trains = [name for name in training if getattr(self, name)]
        if still and trains:
            raise ValueError(f'a stage that prunes or averages does not train: leave out {", ".join(trains)}')
        if self.average is not None and (self.prune is not None or self.start.endswith('.yaml')):
            raise ValueError(
                'a stage that averages does so with what was trained: name a stage or weights as start, no prune'
            )
        if self.teacher and self.teachers:
            raise ValueError('give teacher, or several by name as teachers, not both')
        for name in self.teachers:
            if not name.replace('_', '').isalnum() or f'/{name}' == UNLABELLED:
                raise ValueError(f'a teacher cannot be called {name!r}: letters, digits and _ suit the log')
        if (not self.taught_by) != (self.distill is None):
            raise ValueError('teacher and distill belong together: the one says who teaches, the other what')
        if (self.backbone or self.anchors or self.bundle) and not self.start.endswith('.yaml'):
            raise ValueError('backbone, anchors and bundle go with a fresh network: start from a model file (.yaml)')
        if self.bundle and (self.backbone or self.anchors):
            raise ValueError('a bundle brings its backbone and anchors along: leave out backbone and anchors')
        if self.qat and self.start.endswith(('.yaml', *WEIGHTS_FILES)):
            raise ValueError('qat goes on from a stage that was trained in float: name it as start')
        if self.unlabelled and self.distill is None:
            raise ValueError('unlabelled images teach nothing without teacher and distill')

    @property
    def taught_by(self) -> Mapping[str, str]:
        """The teachers by name; a single one's name is empty."""
        return self.teachers if self.teacher is None else {'': self.teacher}

    def _check_classifier(self, classify: ClassifyRecipe) -> None:
        names = (
            'images',
            'unlabelled',
            'fit',
            'distill',
            'sparsity',
            'prune',
            'backbone',
            'anchors',
            'qat',
            'average',
            'teachers',
            'bundle',
        )
        if others := [name for name in names if getattr(self, name)]:
            raise ValueError(f'a stage that trains a classifier takes none of {", ".join(others)}')
        if (self.teacher is None) != (classify.method is None):
            raise ValueError('teacher and classify.method belong together: the one says who teaches, the other what')


@dataclass(frozen=True)
class UnlabelledSource:
    """Frames without labels.

    Attributes:
        path: a rosbag2, a video or a folder of pictures, relative to the data root.
        frames: which of them are taken.
    """

    path: str
    frames: UnlabelledSettings = field(default_factory=UnlabelledSettings)


@dataclass(frozen=True)
class ExportRecipe:
    """Export: input size in pixels, and the number of validation images on which torch and ONNX must agree."""

    width: int
    height: int
    parity_images: int = 4


@dataclass(frozen=True)
class CalibrationRecipe:
    """How many training images of every set, evenly spread, set the INT8 ranges, as the runtime shows them to the network."""

    images: Mapping[str, int]


@dataclass(frozen=True)
class BundleRecipe:
    """What the bundle says of itself, and its default operating point.

    Attributes:
        name: of the bundle; the recipe's by default.
        family: bundles of one family stand in for each other; the recipe's name by default.
        stage: the stage whose weights go into the bundle; the last by default.
        max_detections: of a frame at most; crowded scenes may need more.
        suppression: which boxes NMS compares, those of one class (`per_class`) or all (`all_classes`).
        half_weights: store the weights of the float network in float16; it computes in float32 all the same.
    """

    description: str
    licence: str
    attribution: tuple[str, ...]
    data: str
    method: str
    score: float = 0.25
    iou: float = 0.6
    name: str = ''
    family: str = ''
    stage: str | None = None
    max_detections: int = added(MAX_DETECTIONS)
    suppression: str = added(PER_CLASS)
    half_weights: bool = added(False)

    def __post_init__(self) -> None:
        Range(least=1, most=10_000).check(max_detections=self.max_detections)
        if self.suppression not in SUPPRESSIONS:
            raise ValueError(f'suppression {self.suppression!r} is not one of {", ".join(SUPPRESSIONS)}')


@dataclass(frozen=True)
class ReportRecipe:
    """The table of stages.

    Attributes:
        stages: in order; all by default.
        baseline: what the others are compared with; the first by default.
        rounds: timed inferences of each network and precision, one after the other in turn.
        threads: of an inference.
    """

    stages: tuple[str, ...] = ()
    baseline: str | None = None
    rounds: int = 40
    threads: int = 1


@dataclass(frozen=True)
class StudyRecipe:
    """Arms of `python -m training study paired`.

    Attributes:
        arms: by name, what each sets: `stages.distilled.distill: null`.
        baseline: the arm that the others are compared with.
        seeded: stages that get the seed of the cell; the others are made once and shared.
        measure: the stage that is measured; the bundle's by default.
    """

    arms: Mapping[str, Mapping[str, Any]]
    baseline: str
    seeded: tuple[str, ...]
    measure: str | None = None

    def __post_init__(self) -> None:
        if self.baseline not in self.arms:
            raise ValueError(f'the baseline {self.baseline!r} is none of the arms{nearest(self.baseline, self.arms)}')


@dataclass(frozen=True)
class Recipe:
    """A whole recipe.

    Attributes:
        name: of its working folder, and of the bundle unless that has its own.
        seed: of everything drawn in training, unless a stage has its own.
        sample: which images a stage takes that asks for fewer than a set has: `sessions` draws them, each session in
            proportion, by the recipe's seed; `names` takes the first by name.
        data: labelled sets by name.
        validation: the set whose `val` split is measured; also the set whose classes are trained.
        unlabelled: bags, videos and folders of pictures without labels, by name.
        parity: how far INT8 may be from the float network; a bundle beyond it is not written.
        stages: in order; what a stage names must stand before it.
        protocol: whose rules measurements follow: `coco`, or `visdrone` for that data set's own.
        file: where it was read.
    """

    name: str
    data: Mapping[str, SourceSettings]
    validation: str
    stages: Mapping[str, StageRecipe]
    export: ExportRecipe
    calibration: CalibrationRecipe
    quantize: QuantizeSettings
    bundle: BundleRecipe
    unlabelled: Mapping[str, UnlabelledSource] = field(default_factory=dict)
    parity: ParityLimits = QUANTIZED
    report: ReportRecipe = field(default_factory=ReportRecipe)
    study: StudyRecipe | None = None
    seed: int = 0
    sample: str = SESSIONS
    protocol: str = COCO
    file: Path = Path()

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError('stages is empty: name at least one')
        one_of(SAMPLES, sample=self.sample)
        one_of(tuple(PROTOCOLS), protocol=self.protocol)
        self._known('validation', self.validation, self.data)
        for name in self.calibration.images:
            self._known('calibration.images', name, self.data)
        for name in [*self.report.stages, *filter(None, [self.report.baseline, self.bundle.stage])]:
            self._known('report or bundle', name, self.stages)
        before: dict[str, StageRecipe] = {}
        for name, stage in self.stages.items():
            for image_set in stage.images:
                self._known(f'stages.{name}.images', image_set, self.data)
            for image_set, wanted in [*stage.images.items(), *stage.unlabelled.items()]:
                if isinstance(wanted, str) and wanted != ALL:
                    raise ValueError(
                        f'stages.{name}: {image_set}: {wanted!r} is no number of images; `all` takes what there is'
                    )
            for image_set in stage.unlabelled:
                self._known(f'stages.{name}.unlabelled', image_set, {**self.data, **self.unlabelled})
            classifiers = {key: item for key, item in before.items() if item.classify is not None}
            detectors = {key: item for key, item in before.items() if item.classify is None}
            if stage.classify is None:
                self._check_sources(f'stages.{name}', [stage.start, *stage.taught_by.values()], detectors)
                self._check_sources(f'stages.{name}', [stage.average], detectors)
                self._check_sources(f'stages.{name}.backbone', [stage.backbone], classifiers)
            else:
                self._check_sources(f'stages.{name}', [stage.start], {**classifiers, **BACKBONES})
                self._check_sources(f'stages.{name}', [stage.teacher], classifiers)
                for image_set in stage.classify.crops:
                    self._known(f'stages.{name}.classify.crops', image_set, self.data)
            before[name] = stage
        if self.stages[self.final].classify is not None:
            raise ValueError(
                f'the stage of the bundle, {self.final}, is a classifier: let a detector take its backbone'
            )

    def _check_sources(self, where: str, sources: Sequence[str | None], known: Mapping[str, Any]) -> None:
        for source in filter(None, sources):
            if not source.endswith(('.yaml', *WEIGHTS_FILES)) and not is_backbone(source) and not is_folder(source):
                self._known(where, source, known)

    @staticmethod
    def _known(where: str, name: str, known: Mapping[str, Any]) -> None:
        if name not in known:
            raise ValueError(
                f'{where} names {name!r}{nearest(name, known)}; known there are {", ".join(known) or "none"}'
            )

    @property
    def bundle_name(self) -> str:
        """The bundle's own, or the recipe's."""
        return self.bundle.name or self.name

    @property
    def detectors(self) -> tuple[str, ...]:
        """The stages that make detectors."""
        return tuple(name for name, stage in self.stages.items() if stage.classify is None)

    @property
    def final(self) -> str:
        """The stage whose weights go into the bundle."""
        return self.bundle.stage or list(self.stages)[-1]


def load_recipe(file: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        overrides: dotted name → value, set before the recipe is checked; a None takes the entry out.

    Raises:
        RecipeError: not readable, an entry missing, unknown or of the wrong type, a name that leads nowhere.
    """
    document = read_document(file)
    for name, value in (overrides or {}).items():
        override(document, name, value)
    document = with_weights(document)
    common = document.pop('fit', {})
    stages = document.get('stages')
    if isinstance(stages, Mapping):
        stages = document['stages'] = with_iterations(stages)
    if isinstance(stages, Mapping) and isinstance(common, Mapping):
        for stage in stages.values():
            if (
                isinstance(stage, dict)
                and not {'prune', 'classify', 'average'} & stage.keys()
                and isinstance(stage.get('fit', {}), Mapping)
            ):
                stage['fit'] = merged(common, stage.get('fit', {}))
    if 'file' in document:
        raise RecipeError(f'{file} has no entry "file"')
    return read(Recipe, {**document, 'file': file}, file.name)
