"""How much each of several teachers counts: fixed, or by how right it is about an image.

All weights of an image add up to 1, so that more teachers do not weigh more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from training.distill.confidence import Truth, doubts, errors, rank
from training.distill.outputs import Outputs, Shape
from training.distill.settings import DistillSettings
from training.errors import FitError
from training.schema import nearest

Weights = dict[str, Tensor]
"""Of each teacher by name, one weight an image (N)."""


class Weighting:
    """Fixed weights.

    Attributes:
        by_image: whether an image's weights are its own.
    """

    by_image = False

    def __init__(self, teachers: Sequence[str], settings: DistillSettings) -> None:
        """Normalize the weights.

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
                    "Ultralytics' nor RT-DETR's: choose fixed"
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
    return Weighting(teachers, settings)


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names)
