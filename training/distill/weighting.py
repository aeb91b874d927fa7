"""How much each of several teachers counts: fixed, by how right it is about an image, or learned.

All weights of an image add up to 1, so that more teachers do not weigh more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from training.distill.confidence import Truth, doubts, errors, rank
from training.distill.outputs import Outputs, Shape
from training.distill.settings import DistillSettings
from training.errors import FitError
from training.schema import nearest

REFERENCE_STEPS = 10
"""Steps whose mean loss is what `learned` compares the later ones with."""
FURTHEST = 2.0
"""The most that a loss counts for in `learned`, as a multiple of its beginning."""
Weights = dict[str, Tensor]
"""Of each teacher by name, one weight an image (N)."""


class Weighting:
    """Fixed weights.

    Attributes:
        by_image: whether an image's weights are its own.
    """

    by_image = False

    def __init__(self, teachers: Sequence[str], settings: DistillSettings) -> None:
        """Normalise the weights.

        Raises:
            FitError: a weight for somebody who is no teacher, or none for one who is.
        """
        given = dict(settings.teacher_weights) or dict.fromkeys(teachers, 1.0)
        for name in given.keys() - set(teachers):
            raise FitError(f'teacher_weights names {name!r}{nearest(name, teachers)}; teachers are {_listed(teachers)}')
        if lacking := [name for name in teachers if name not in given]:
            raise FitError(f'teacher_weights lacks {_listed(lacking)}: weigh all teachers, with 0 for those left out')
        self.shares = {name: given[name] / sum(given.values()) for name in teachers}

    @property
    def heard(self) -> tuple[str, ...]:
        """The teachers whose weight is not 0 for good."""
        return tuple(name for name, share in self.shares.items() if share)

    def weigh(self, said: Mapping[str, Outputs], images: Tensor, truth: Truth) -> Weights:
        """The weights of each teacher that spoke, for each image (N, 3, H, W)."""
        return {name: images.new_full((len(images),), self.shares[name]) for name in said}

    def learn(self, losses: Mapping[str, Mapping[str, float]]) -> None:
        """What a step's losses were, by teacher and term: nothing changes."""

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""


class ByConfidence(Weighting):
    """CA-MKD (Zhang, Chen and Wang 2022, "Confidence-aware multi-teacher knowledge distillation", eq. 3), image by image:

        w_k = (1 − exp(L_k) / Σ_j exp(L_j)) / (K − 1)

    L_k is teacher k's own error on the image, K the number of teachers. The paper's L is the cross-entropy of a classifier; a
    detector's is that of `confidence.errors`. An image without labels has no error: there L_k is the teacher's entropy for
    each object that it finds (`confidence.doubts`), after Kwon et al. 2020, "Adaptive knowledge distillation based on
    entropy".
    """

    by_image = True

    def __init__(self, teachers: Sequence[str], settings: DistillSettings, shapes: Mapping[str, Shape]) -> None:
        """Take note of what the heads look like.

        Raises:
            FitError: a teacher whose head says neither classes nor boxes that could be right or wrong.
        """
        super().__init__(teachers, settings)
        for name, shape in shapes.items():
            if not shape.branches:
                raise FitError(
                    f'weighting: confidence reads the head of each teacher, and that of {name} is neither a YOLO of '
                    "Ultralytics' nor RT-DETR's: choose fixed or learned"
                )
        self._shapes = shapes

    @torch.no_grad()
    def weigh(self, said: Mapping[str, Outputs], images: Tensor, truth: Truth) -> Weights:
        """See Weighting."""
        labelled, rest = slice(truth.images), slice(truth.images, None)
        found = [
            torch.cat([errors(outputs.part(labelled), self._shapes[name], truth), doubts(outputs.part(rest))])
            for name, outputs in said.items()
        ]
        return dict(zip(said, rank(torch.stack(found)), strict=True))


class Learned(Weighting):
    """Logits that are learned with the student, by mirror descent on the loss with an entropy guard.

    The logits α minimise, step by step, Σ_k w_k r_k − τ H(w) with w = softmax(α) and H the entropy of w: by exponentiated
    gradient (Kivinen and Warmuth 1997), α_k ← (1 − ητ) α_k − η r_k. The r_k is how much of teacher k's loss at the beginning
    is left, the mean over its terms, and not the loss itself: that of a wide or unsure teacher may be small by nature, and
    would draw all weight to it. In rest w_k ∝ exp(−r_k / τ); as r lies in 0 … 2, no weight is ever exp(2 / τ) times as large as
    another, so that nobody falls silent.

    Attributes:
        logits: α by teacher.
    """

    def __init__(self, teachers: Sequence[str], settings: DistillSettings) -> None:
        super().__init__(teachers, settings)
        self._entropy, self._rate = settings.weight_entropy, settings.weight_rate
        self.logits = dict.fromkeys(teachers, 0.0)
        self._beginnings: dict[str, dict[str, list[float]]] = {name: {} for name in teachers}

    def weigh(self, said: Mapping[str, Outputs], images: Tensor, truth: Truth) -> Weights:
        """See Weighting."""
        largest = max(self.logits[name] for name in said)
        powers = {name: math.exp(self.logits[name] - largest) for name in said}
        return {name: images.new_full((len(images),), power / sum(powers.values())) for name, power in powers.items()}

    def learn(self, losses: Mapping[str, Mapping[str, float]]) -> None:
        """Move the logits.

        Raises:
            FitError: a loss that begins at or below 0, of which nothing can be left.
        """
        left = {name: self._left(name, values) for name, values in losses.items() if values}
        if left.keys() != self.logits.keys():
            return  # a teacher whose terms have not set in cannot be compared
        for name, share in left.items():
            self.logits[name] -= self._rate * (share + self._entropy * self.logits[name])

    def _left(self, teacher: str, losses: Mapping[str, float]) -> float:
        shares = []
        for term, value in losses.items():
            beginning = self._beginnings[teacher].setdefault(term, [])
            if len(beginning) < REFERENCE_STEPS:
                beginning.append(value)
            mean = sum(beginning) / len(beginning)
            if mean < 0 or (mean == 0 and value):
                raise FitError(
                    f'{term} begins at {mean:g}: weighting: learned asks how much of a loss is left, which must begin '
                    'above 0; leave this term out, or choose fixed or confidence'
                )
            shares.append(min(max(value / mean, 0.0), FURTHEST) if mean and len(beginning) == REFERENCE_STEPS else 1.0)
        return sum(shares) / len(shares)

    def state(self) -> dict[str, Any]:
        """See Weighting."""
        return {'logits': dict(self.logits), 'beginnings': {name: dict(of) for name, of in self._beginnings.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See Weighting."""
        self.logits = dict(state['logits'])
        self._beginnings = {name: dict(of) for name, of in state['beginnings'].items()}


def make_weighting(settings: DistillSettings, shapes: Mapping[str, Shape]) -> Weighting:
    """The weighting of that name.

    Args:
        settings: see DistillSettings.
        shapes: of each teacher by name.

    Raises:
        FitError: it cannot weigh these teachers.
    """
    teachers = tuple(shapes)
    if not teachers:
        if settings.weighting != 'fixed' or settings.teacher_weights:
            raise FitError('there is nothing to weigh: no term is for several teachers; leave out weighting')
        return Weighting((), settings)
    if settings.weighting == 'confidence':
        return ByConfidence(teachers, settings, shapes)
    return Learned(teachers, settings) if settings.weighting == 'learned' else Weighting(teachers, settings)


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names)
