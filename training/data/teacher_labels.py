"""A detector's word on labelled pictures, merged with their labels: mends sets whose far or parked objects have none.

The rule, for the train split alone (what judges stays as people labelled it):

- Several teachers, and one that looks at mirror images too, are made one first, see `box_fusion`.
- Labels win: a teacher's box that overlaps a label (IoU, or most of it lies within) says nothing new.
- A label of a coarse class (`refine: {vehicle: car}`) takes the class of the teacher's surest box there, of score
  `sure` or more; where there is none, the class that is written here.
- A box of the teacher without a label, of score `sure` or more, is taught as an object or becomes a region that is not learnt
  (`unlabelled`); below `sure`, and from `doubtful` on, it is always such a region. Where it names several classes at one place,
  the surest counts.
- What is smaller than `least_side` is such a region, whoever says it.

In pictures of the train split such regions are painted grey (`conversion`), so that any loss leaves them alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kd_perception.bags.ground_truth import IGNORED, AnnotatedObject
from kd_perception.detection.overlap import iou, share_inside
from training.data.box_fusion import Answer, Floats
from training.data.picture import Picture, Source
from training.data.teacher_answers import TeacherBundle, Teachers
from training.errors import DataError
from training.ranges import NOT_NEGATIVE, SHARE, one_of
from training.schema import added, nearest


@dataclass(frozen=True)
class TeacherLabels(TeacherBundle):
    """Whose word counts, and how.

    Attributes:
        refine: for each coarse class of the set, the class of its objects where the teacher is sure of none.
        unlabelled: `teach` or `ignore` what the teacher is sure of and has no label.
        sure: score from which the teacher is.
        doubtful: score from which what it sees is not background either.
        overlap: IoU from which a teacher's box and a label are one object.
        least_side: pixels of the longer side below which nothing is learnt.
        also: more detectors that are asked; `box_fusion` makes one answer of all.
    """

    refine: Mapping[str, str] = field(default_factory=dict)
    unlabelled: str = 'ignore'
    sure: float = 0.5
    doubtful: float = 0.25
    overlap: float = 0.45
    least_side: float = 0.0
    also: tuple[TeacherBundle, ...] = added(())

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(('teach', 'ignore'), unlabelled=self.unlabelled)
        SHARE.check(sure=self.sure, doubtful=self.doubtful, overlap=self.overlap)
        NOT_NEGATIVE.check(least_side=self.least_side)
        if self.doubtful > self.sure:
            raise ValueError('doubtful may not be above sure')


def mended(source: Source, settings: TeacherLabels, kept: Path, classes: Sequence[str] = ()) -> Source:
    """A set whose train split also says what a teacher sees there.

    Args:
        source: the set, with its splits.
        settings: the rule.
        kept: folder where the teacher's boxes and scores are kept; pictures whose answers are there are not looked at again.
        classes: that are learnt beside the set's own; the teacher's of these names need no entry in its class map.

    Raises:
        BundleError, EngineError: the teacher cannot be loaded.
        DataError: a class that nobody has, or a picture that cannot be read.
    """
    for name in settings.refine:
        if name not in source.classes:
            raise DataError(f'refine names {name!r}{nearest(name, source.classes)}, which is no class of the set')
    teacher = Teachers((settings, *settings.also), kept, tuple(dict.fromkeys([*source.classes, *classes])))
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
    claimed = (overlap >= settings.overlap).any(0) | (share_inside(answer.boxes, boxes) >= 0.6).any(1)
    said = np.flatnonzero(~claimed & (answer.scores >= settings.doubtful))
    others = iou(answer.boxes, answer.boxes)
    named: list[int] = []
    for place in said[np.argsort(-answer.scores[said], kind='stable')]:
        if any(others[place, one] >= settings.overlap and answer.names[one] != answer.names[place] for one in named):
            continue
        named.append(int(place))
        taught = settings.unlabelled == 'teach' and answer.scores[place] >= settings.sure
        objects.append(_object(answer.boxes[place], answer.names[place] if taught else IGNORED))
    return tuple(_with_least_side(entry, settings.least_side) for entry in objects)


def _object(box: Floats, name: str) -> AnnotatedObject:
    x1, y1, x2, y2 = (float(value) for value in box)
    return AnnotatedObject((x1, y1, x2, y2), name)


def _with_least_side(entry: AnnotatedObject, least: float) -> AnnotatedObject:
    x1, y1, x2, y2 = entry.box
    return replace(entry, class_name=IGNORED) if max(x2 - x1, y2 - y1) < least else entry


def _mended(picture: Picture, teacher: Teachers, settings: TeacherLabels) -> Picture:
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
