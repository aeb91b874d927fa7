"""The teachers of a run and their terms: each term with each teacher that it is for, and their losses on a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.distill.bundle_teacher import BundleTeacher
from training.distill.confidence import Truth
from training.distill.cross_head import cross_layers
from training.distill.outputs import Outputs, Shape, layer_names, measure_shape
from training.distill.settings import UNLABELLED, DistillSettings, TermSettings
from training.distill.teacher import Teacher
from training.distill.terms import Term, make_term
from training.distill.weighting import make_weighting
from training.errors import FitError, LossError
from training.schema import nearest

CROSS = 'crosskd'
AnyTeacher = Teacher | BundleTeacher
Kept = Sequence[Sequence[int]] | None


@dataclass(frozen=True)
class TeacherTerm:
    """One term with one teacher.

    Attributes:
        name: in logs: the term's, and behind it the teacher's where there are several.
        term: the loss.
        place: of its settings among the terms.
        teacher: its name.
        shared: whether the weighting of the teachers holds for it; a term that names its teacher has its own weight alone.
    """

    name: str
    term: Term
    place: int
    teacher: str
    shared: bool


@dataclass(frozen=True)
class TermLoss:
    """The loss of a term with a teacher on one batch.

    Attributes:
        value: of the loss, not weighted.
        weight: of the term at this step.
        share: of the teacher, the mean over the images.
        pair: of which term and teacher.
    """

    value: Tensor
    weight: float
    share: float | Tensor
    pair: TeacherTerm

    @property
    def weighted(self) -> Tensor:
        """The summand of the training's loss."""
        return self.weight * self.share * self.value


class TeacherTerms:
    """The teachers of a run and all terms.

    Attributes:
        teachers: by name; the name of a single one is empty.
        pairs: terms with their teachers: all of the first teacher, then those of the next.
        terms: the same as one module, for the optimizer and checkpoints.
        weighting: of the teachers.
        student_layers: whose maps the terms read.
    """

    def __init__(
        self,
        settings: DistillSettings,
        teachers: Mapping[str, AnyTeacher],
        student: Any,
        image_size: int,
        kept: Mapping[str, Kept],
    ) -> None:
        """Join terms, teachers and student.

        Args:
            settings: see DistillSettings.
            teachers: by name.
            student: a network.
            image_size: in pixels.
            kept: for each teacher, the channels of each level that a student pruned from it kept.

        Raises:
            LossError: a loss that cannot be used on a teacher and the student.
            FitError: the same, where there are several teachers; a term for a teacher who is not there; a teacher without
                a term; a weighting that cannot weigh these teachers.
        """
        self.teachers = dict(teachers)
        self._settings = settings
        _check_names(settings, self.teachers)
        own = [_own_layers(student, term) for term in settings.terms]
        self.student_layers = tuple(name for layers in own for name in layers)
        shape = measure_shape(student, self.student_layers, image_size)
        self.pairs: list[TeacherTerm] = []
        shapes: dict[str, Shape] = {}
        for name, teacher in self.teachers.items():
            try:
                shapes[name] = self._join(name, teacher, shape, own, image_size, kept.get(name))
            except LossError as error:
                if not name:
                    raise
                raise FitError(
                    f'{error}; name the teacher that this term is for, teacher: NAME, where {name} is none for it'
                ) from error
        self.terms = nn.ModuleList(pair.term for pair in self.pairs)
        self._weighed = {name: of for name, of in shapes.items() if name in {pair.teacher for pair in self._shared}}
        self.weighting = make_weighting(settings, self._weighed)

    def _join(
        self,
        name: str,
        teacher: AnyTeacher,
        student: Shape,
        own: Sequence[tuple[str, ...]],
        image_size: int,
        kept: Kept,
    ) -> Shape:
        """Make one teacher's terms; what the teacher looks like."""
        settings = self._settings
        places = [place for place, term in enumerate(settings.terms) if term.teacher in ('', name)]
        layers = {place: teacher.layer_names(settings.terms[place].teacher_layers) for place in places}
        watched = [layer for of_term in layers.values() for layer in of_term]
        shape = teacher.shape(watched, image_size)
        for place in places:
            of_term = settings.terms[place]
            called = f'{settings.names[place]}/{name}' if name else settings.names[place]
            term = make_term(called, of_term, student, shape, (own[place], layers[place]), kept, teacher.head)
            self.pairs.append(TeacherTerm(called, term, place, name, shared=bool(name) and not of_term.teacher))
        pairs = [pair for pair in self.pairs if pair.teacher == name]
        judged = settings.weighting == 'confidence' and any(pair.shared for pair in pairs)
        teacher.watch(watched, with_head=judged or any(pair.term.needs_head for pair in pairs))
        return shape

    @property
    def _shared(self) -> list[TeacherTerm]:
        return [pair for pair in self.pairs if pair.shared]

    def weights_at(self, step: int, epoch: float) -> list[float]:
        """The weight of each term with a teacher, without that of the teacher."""
        of_terms = [term.weight_at(step, epoch) for term in self._settings.terms]
        heard = self.weighting.heard
        return [of_terms[pair.place] if not pair.shared or pair.teacher in heard else 0.0 for pair in self.pairs]

    def asked(self, weights: Sequence[float]) -> dict[str, AnyTeacher]:
        """The teachers who have a term whose weight is not 0."""
        names = {pair.teacher for pair, weight in zip(self.pairs, weights, strict=True) if weight}
        return {name: teacher for name, teacher in self.teachers.items() if name in names}

    def losses(
        self, student: Outputs, said: Mapping[str, Outputs], images: Tensor, truth: Truth, weights: Sequence[float]
    ) -> tuple[dict[str, TermLoss], dict[str, Tensor]]:
        """The loss of each term with each teacher; that of unlabelled images stands apart.

        Args:
            student: what it put out.
            said: what the teachers did.
            images: (N, 3, H, W), labelled ones first.
            truth: of the labelled ones.
            weights: of each term with a teacher.

        Returns:
            Losses by name, and the mean weights of the teachers, `teacher/<name>`, where there are several.
        """
        weighed = {name: outputs for name, outputs in said.items() if name in self._weighed}
        shares = self.weighting.weigh(weighed, images, truth) if weighed else {}
        parts = {'': slice(truth.images)}
        if truth.images < len(images):
            parts[UNLABELLED] = slice(truth.images, len(images))
        losses: dict[str, TermLoss] = {}
        means: dict[str, Tensor] = {}
        for suffix, part in parts.items():
            whole = len(parts) == 1
            own = student if whole else student.part(part)
            factor = self._settings.unlabelled_weight if suffix else 1.0
            for name, outputs in said.items():
                share = shares[name][part] if name in shares else None
                if share is not None:
                    means[f'teacher/{name}{suffix}'] = share.mean()
                heard = own if share is None or not self.weighting.by_image else scaled(own, share)
                others = outputs if whole else outputs.part(part)
                for pair, weight in zip(self.pairs, weights, strict=True):
                    if pair.teacher != name or not weight or (suffix and pair.term.needs_boxes):
                        continue
                    value = pair.term(heard if pair.shared else own, others, truth.boxes)
                    mean = share.mean() if share is not None and pair.shared else 1.0
                    losses[f'{pair.name}{suffix}'] = TermLoss(value, weight * factor, mean, pair)
        return losses, means

    def check_unchanged(self) -> None:
        """See Teacher."""
        for teacher in self.teachers.values():
            teacher.check_unchanged()


def _own_layers(student: Any, term: TermSettings) -> tuple[str, ...]:
    if term.loss == CROSS:
        return cross_layers(student)
    return layer_names(student, term.student_layers)


def _check_names(settings: DistillSettings, teachers: Mapping[str, AnyTeacher]) -> None:
    for term in settings.terms:
        if term.teacher and term.teacher not in teachers:
            known = ', '.join(filter(None, teachers))
            raise FitError(
                f'{term.loss} is for the teacher {term.teacher!r}{nearest(term.teacher, list(teachers))}; '
                + (f'teachers are {known}' if known else 'the only one has no name: name it under teachers')
            )
    for name in filter(None, teachers):
        if not any(term.teacher in ('', name) for term in settings.terms):
            raise FitError(f'the teacher {name} teaches nothing: no term is for it or for all')


class _Scaled(torch.autograd.Function):
    """The identity whose gradient is scaled image by image."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(factors)
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (factors,) = ctx.saved_tensors
        return gradient * factors.view(-1, *[1] * (gradient.ndim - 1)), None


def scaled(outputs: Outputs, shares: Tensor) -> Outputs:
    """A student's outputs whose images hear a teacher by their own shares (N), relative to the mean share.

    A loss of a batch has one value, not one an image, and some compare images with each other. So it is the gradient of each
    image that is scaled: for a loss that is a mean over images, that is the gradient of the mean weighted by the shares. What a
    term trains of its own, an adapter, learns from all images alike.
    """
    mean = shares.mean()
    factors = torch.where(mean > 0, shares / mean, torch.zeros_like(shares))

    apply: Any = _Scaled.apply

    def of(value: Tensor) -> Tensor:
        return apply(value, factors) if value.requires_grad else value

    maps = {name: of(value) for name, value in outputs.maps.items()}
    branches = {
        name: {key: of(value) if isinstance(value, Tensor) else value for key, value in branch.items()}
        for name, branch in outputs.branches.items()
    }
    return dataclasses.replace(outputs, maps=maps, branches=branches)
