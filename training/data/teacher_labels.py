"""A detector's word on labelled pictures, merged with their labels: mends sets whose far or parked objects have none.

The rule, for the train split alone (what judges stays as people labelled it):

- Labels win: a teacher's box that overlaps a label (IoU, or most of it lies within) says nothing new.
- A label of a coarse class (`refine: {vehicle: car}`) takes the class of the teacher's surest box there, of score
  `sure` or more; where there is none, the class that is written here.
- A box of the teacher without a label, of score `sure` or more, is taught as an object or becomes a region that is not learnt
  (`unlabelled`); below `sure`, and from `doubtful` on, it is always such a region.
- What is smaller than `least_side` is such a region, whoever says it.

In pictures of the train split such regions are painted grey (`conversion`), so that any loss leaves them alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from kd_perception import engines
from kd_perception.bags.ground_truth import IGNORED, AnnotatedObject
from kd_perception.bundles.bundle import load_bundle
from kd_perception.detection import tiles
from kd_perception.detection.detector import Detector
from kd_perception.detection.overlap import iou
from kd_perception.engines.options import EngineOptions
from training.data.picture import Picture, Source
from training.errors import DataError
from training.ranges import NOT_NEGATIVE, SHARE, one_of
from training.schema import nearest
from training.steps import fingerprint

LEAST_SCORE = 0.05
"""From here on boxes are kept on disk, whatever the rule then makes of them."""
MOST = 300
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TeacherLabels:
    """Whose word counts, and how.

    Attributes:
        bundle: folder of the teacher's bundle, relative to where the training runs.
        class_map: a class of the set by the teacher's; equal names need no entry, others of the teacher's say nothing.
        tiles: how the teacher looks at pictures, `off`, or `2x2+whole`, see `kd_perception.detection.tiles`.
        refine: for each coarse class of the set, the class of its objects where the teacher is sure of none.
        unlabelled: `teach` or `ignore` what the teacher is sure of and has no label.
        sure: score from which the teacher is.
        doubtful: score from which what it sees is not background either.
        overlap: IoU from which a teacher's box and a label are one object.
        least_side: pixels of the longer side below which nothing is learnt.
    """

    bundle: str
    class_map: Mapping[str, str] = field(default_factory=dict)
    tiles: str = 'off'
    refine: Mapping[str, str] = field(default_factory=dict)
    unlabelled: str = 'ignore'
    sure: float = 0.5
    doubtful: float = 0.25
    overlap: float = 0.45
    least_side: float = 0.0

    def __post_init__(self) -> None:
        one_of(('teach', 'ignore'), unlabelled=self.unlabelled)
        SHARE.check(sure=self.sure, doubtful=self.doubtful, overlap=self.overlap)
        NOT_NEGATIVE.check(least_side=self.least_side)
        if self.doubtful > self.sure:
            raise ValueError('doubtful may not be above sure')


@dataclass(frozen=True)
class Answer:
    """What the teacher says of a picture.

    Attributes:
        boxes: (K, 4), x1 y1 x2 y2 in pixels.
        scores: (K).
        names: the classes in the set's words.
    """

    boxes: Floats
    scores: Floats
    names: tuple[str, ...]


def mended(source: Source, settings: TeacherLabels, kept: Path) -> Source:
    """A set whose train split also says what a teacher sees there.

    Args:
        source: the set, with its splits.
        settings: the rule.
        kept: folder where the teacher's boxes and scores are kept; pictures whose answers are there are not looked at again.

    Raises:
        BundleError, EngineError: the teacher cannot be loaded.
        DataError: a class that nobody has, or a picture that cannot be read.
    """
    for name in settings.refine:
        if name not in source.classes:
            raise DataError(f'refine names {name!r}{nearest(name, source.classes)}, which is no class of the set')
    teacher = _Teacher(settings, kept)
    pictures = []
    for picture in tqdm(source.pictures, unit='picture', disable=None, desc='teacher'):
        if picture.split == 'train':
            pictures.append(_mended(picture, teacher, settings))
        else:
            pictures.append(_of_fallback_classes(picture, settings.refine))
    own = [settings.refine.get(name, name) for name in source.classes]
    classes = tuple(dict.fromkeys([*own, *teacher.classes]))
    return replace(source, pictures=tuple(pictures), classes=classes)


def merged(labels: Sequence[AnnotatedObject], answer: Answer, settings: TeacherLabels) -> tuple[AnnotatedObject, ...]:
    """The labels of a picture and what the teacher says, by the rule of this module."""
    boxes = np.array([entry.box for entry in labels], np.float64).reshape(-1, 4)
    overlap = iou(boxes, answer.boxes)
    objects = []
    for entry, row in zip(labels, overlap, strict=True):
        name = entry.class_name
        if name in settings.refine:
            there = np.flatnonzero((row >= settings.overlap) & (answer.scores >= settings.sure))
            best = int(there[answer.scores[there].argmax()]) if len(there) else -1
            name = answer.names[best] if best >= 0 else settings.refine[name]
        objects.append(replace(entry, class_name=name))
    claimed = (overlap >= settings.overlap).any(0) | (_share_within(answer.boxes, boxes) >= 0.6).any(0)
    for place in np.flatnonzero(~claimed & (answer.scores >= settings.doubtful)):
        taught = settings.unlabelled == 'teach' and answer.scores[place] >= settings.sure
        name = answer.names[place] if taught else IGNORED
        objects.append(_object(answer.boxes[place], name))
    return tuple(_with_least_side(entry, settings.least_side) for entry in objects)


def _object(box: Floats, name: str) -> AnnotatedObject:
    x1, y1, x2, y2 = (float(value) for value in box)
    return AnnotatedObject((x1, y1, x2, y2), name)


def _with_least_side(entry: AnnotatedObject, least: float) -> AnnotatedObject:
    x1, y1, x2, y2 = entry.box
    return replace(entry, class_name=IGNORED) if max(x2 - x1, y2 - y1) < least else entry


def _share_within(inner: Floats, outer: Floats) -> Floats:
    """(M, K): the share of each inner box (K, 4) that lies within each outer one (M, 4)."""
    near = np.maximum(outer[:, None, :2], inner[None, :, :2])
    far = np.minimum(outer[:, None, 2:], inner[None, :, 2:])
    area = (inner[:, 2:] - inner[:, :2]).clip(1e-9).prod(1)
    return np.asarray((far - near).clip(0).prod(2) / area)


def _mended(picture: Picture, teacher: _Teacher, settings: TeacherLabels) -> Picture:
    image_size = picture.size
    if image_size is None:
        height, width = picture.read().shape[:2]
        image_size = width, height
    labels = picture.objects_in(*image_size)
    objects = merged(labels, teacher.answer(picture), settings)
    return replace(picture, objects=objects, relative=())


def _of_fallback_classes(picture: Picture, refine: Mapping[str, str]) -> Picture:
    def renamed(objects: Sequence[AnnotatedObject]) -> tuple[AnnotatedObject, ...]:
        return tuple(replace(entry, class_name=refine.get(entry.class_name, entry.class_name)) for entry in objects)

    return replace(picture, objects=renamed(picture.objects), relative=renamed(picture.relative))


class _Teacher:
    """A bundle that is asked about pictures, and what it said before."""

    def __init__(self, settings: TeacherLabels, kept: Path) -> None:
        folder = Path(settings.bundle)
        self._bundle = load_bundle(folder)
        self._names = [settings.class_map.get(name, name) for name in self._bundle.classes]
        unknown = [name for name in settings.class_map if name not in self._bundle.classes]
        if unknown:
            raise DataError(f'{folder} has no class {unknown[0]!r}{nearest(unknown[0], self._bundle.classes)}')
        self._taught = set(settings.class_map.values())
        self.classes = tuple(dict.fromkeys(settings.class_map.values()))
        how = settings.tiles.replace('+', '_')
        self._file = kept / f'teacher-{fingerprint(folder)[:12]}-{how}.jsonl'
        self._tiling = tiles.parse(settings.tiles)
        self._detector: Detector | None = None
        self._known = _read_answers(self._file)

    def answer(self, picture: Picture) -> Answer:
        """Boxes of the taught classes in that picture."""
        identity = _identity(picture)
        said = self._known.get(identity)
        if said is None:
            said = self._ask(picture)
            self._known[identity] = said
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open('a', encoding='utf-8') as stream:
                stream.write(json.dumps({'picture': identity, **said}) + '\n')
        names = [self._names[index] for index in said['class_ids']]
        chosen = [place for place, name in enumerate(names) if name in self._taught]
        boxes = np.array(said['boxes'], np.float64).reshape(-1, 4)[chosen]
        return Answer(boxes, np.array(said['scores'], np.float64)[chosen], tuple(names[place] for place in chosen))

    def _ask(self, picture: Picture) -> dict[str, Any]:
        if self._detector is None:
            artifact = self._bundle.artifact('onnxruntime', 'auto')
            engine = engines.load(self._bundle, artifact, EngineOptions(threads=1))
            thresholds = replace(self._bundle.thresholds_of(artifact), score=LEAST_SCORE)
            self._detector = Detector(self._bundle, engine, thresholds, MOST, self._tiling)
        found, _ = self._detector.detect(picture.read())
        return {
            'boxes': found.boxes.round(1).tolist(),
            'scores': found.scores.round(4).tolist(),
            'class_ids': found.class_ids.tolist(),
        }


def _identity(picture: Picture) -> str:
    size = picture.file.stat().st_size if picture.file is not None and picture.file.is_file() else 0
    return f'{picture.session}/{picture.name}/{size}'


def _read_answers(file: Path) -> dict[str, dict[str, Any]]:
    """Whole lines; the last one may have been cut off."""
    known: dict[str, dict[str, Any]] = {}
    if file.is_file():
        for line in file.read_text(encoding='utf-8').splitlines():
            try:
                entry = json.loads(line)
                known[entry.pop('picture')] = entry
            except (ValueError, KeyError, AttributeError):
                break
    return known
