"""Boxes of one picture from several looks at it, by several detectors or at its mirror image, made into one list.

Weighted boxes fusion (Solovyev, Wang and Gabruseva 2021, "Weighted boxes fusion: Ensembling boxes from different object detection
models"), with two differences: a look gives an object one box at most, so that neighbours stay apart; and a look counts only for
classes that it knows, so that a detector that has never heard of a class does not vote against it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kd_perception.detection.overlap import iou

Floats = npt.NDArray[np.float64]
OVERLAP = 0.55
"""IoU from which boxes of one class from two looks are one object, the authors' value."""


@dataclass(frozen=True)
class Answer:
    """What is said of a picture.

    Attributes:
        boxes: (K, 4), x1 y1 x2 y2 in pixels.
        scores: (K), 0 to 1.
        names: the K classes.
    """

    boxes: Floats
    scores: Floats
    names: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """One detector's answer.

    Attributes:
        answer: its boxes, after NMS.
        knows: the classes that it could have named.
        weight: how much it counts, over 0.
    """

    answer: Answer
    knows: Collection[str]
    weight: float = 1.0


@dataclass
class _Object:
    """Boxes that are taken for one object."""

    name: str
    box: Floats
    voices: list[tuple[int, float, Floats]] = field(default_factory=list)
    """The look's number, its weight times its score, its box."""

    def add(self, look: int, share: float, box: Floats) -> None:
        self.voices.append((look, share, box))
        shares = np.array([voice[1] for voice in self.voices])
        self.box = np.average([voice[2] for voice in self.voices], axis=0, weights=shares)


def fused(looks: Sequence[Look], overlap: float = OVERLAP) -> Answer:
    """One box an object: the mean of the looks' boxes, weighted by weight times score.

    The score is the weighted mean of the scores over all looks that know the class; those that do not see the object count as 0.
    So what one of two equal detectors alone sees keeps half of its score.

    Args:
        looks: at the same picture.
        overlap: IoU from which boxes of one class are one object.

    Returns:
        The objects, the surest first.
    """
    every = [
        (look.weight * float(score), number, name, box)
        for number, look in enumerate(looks)
        for box, score, name in zip(look.answer.boxes, look.answer.scores, look.answer.names, strict=True)
        if score > 0
    ]
    objects: list[_Object] = []
    for share, number, name, box in sorted(every, key=lambda entry: -entry[0]):
        _place_of(name, number, box, objects, overlap).add(number, share, box)
    weights = {name: sum(look.weight for look in looks if name in look.knows) for name in {entry[2] for entry in every}}
    scores = [sum(share for _, share, _ in entry.voices) / weights[entry.name] for entry in objects]
    order = np.argsort(-np.array(scores), kind='stable')
    boxes = np.array([objects[place].box for place in order], np.float64).reshape(-1, 4)
    return Answer(boxes, np.array(scores, np.float64)[order], tuple(objects[place].name for place in order))


def _place_of(name: str, look: int, box: Floats, objects: list[_Object], overlap: float) -> _Object:
    """The object that a box belongs to; a new one where no other look has named one there."""
    open_to = [entry for entry in objects if entry.name == name and all(voice[0] != look for voice in entry.voices)]
    if open_to:
        shared = iou(box[None], np.array([entry.box for entry in open_to]))[0]
        if shared.max() >= overlap:
            return open_to[int(shared.argmax())]
    objects.append(_Object(name, box))
    return objects[-1]
