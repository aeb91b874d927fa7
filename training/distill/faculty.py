"""Who teaches what in a run: the teachers, their terms, and what these ask of the student."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.distill.confidence import Truth
from training.distill.outputs import Outputs, Shape, layer_names, measure_shape
from training.distill.settings import UNLABELLED, DistillSettings
from training.distill.teacher import Teacher
from training.distill.terms import Term, make_term
from training.distill.weighting import make_weighting
from training.errors import FitError, LossError
from training.schema import nearest

PROOF_EVERY = 100
"""Steps between two proofs that every term pulls at the student."""
Kept = Sequence[Sequence[int]] | None


@dataclass(frozen=True)
class Lesson:
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
class Pull:
    """What a lesson asks of the student in one batch.

    Attributes:
        value: of the loss, not weighted.
        weight: of the term at this step.
        share: of the teacher, the mean over the images.
        lesson: which.
    """

    value: Tensor
    weight: float
    share: float | Tensor
    lesson: Lesson

    @property
    def weighted(self) -> Tensor:
        """The summand of the training's loss."""
        return self.weight * self.share * self.value


class Faculty:
    """The teachers of a run.

    Attributes:
        teachers: by name; the name of a single one is empty.
        lessons: all terms of the first teacher, then those of the next.
        terms: the same as one module, for the optimizer and checkpoints.
        weighting: of the teachers.
        student_layers: whose maps the terms read.
    """

    def __init__(
        self,
        settings: DistillSettings,
        teachers: Mapping[str, Teacher],
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
        own = [layer_names(student, term.student_layers) for term in settings.terms]
        self.student_layers = tuple(name for layers in own for name in layers)
        shape = measure_shape(student, self.student_layers, image_size)
        self.lessons: list[Lesson] = []
        shapes: dict[str, Shape] = {}
        for name, teacher in self.teachers.items():
            try:
                shapes[name] = self._engage(name, teacher, shape, own, image_size, kept.get(name))
            except LossError as error:
                if not name:
                    raise
                raise FitError(
                    f'{error}; name the teacher that this term is for, teacher: NAME, where {name} is none for it'
                ) from error
        self.terms = nn.ModuleList(lesson.term for lesson in self.lessons)
        self._weighed = {name: of for name, of in shapes.items() if name in {lesson.teacher for lesson in self._shared}}
        self.weighting = make_weighting(settings, self._weighed)

    def _engage(
        self, name: str, teacher: Teacher, student: Shape, own: Sequence[tuple[str, ...]], image_size: int, kept: Kept
    ) -> Shape:
        """One teacher's lessons; what it looks like."""
        settings = self._settings
        places = [place for place, term in enumerate(settings.terms) if term.teacher in ('', name)]
        layers = {place: teacher.layer_names(settings.terms[place].teacher_layers) for place in places}
        watched = [layer for of_term in layers.values() for layer in of_term]
        shape = teacher.shape(watched, image_size)
        for place in places:
            of_term = settings.terms[place]
            called = f'{settings.names[place]}/{name}' if name else settings.names[place]
            term = make_term(called, of_term, student, shape, (own[place], layers[place]), kept)
            self.lessons.append(Lesson(called, term, place, name, shared=bool(name) and not of_term.teacher))
        lessons = [lesson for lesson in self.lessons if lesson.teacher == name]
        judged = settings.weighting == 'confidence' and any(lesson.shared for lesson in lessons)
        teacher.watch(watched, with_head=judged or any(lesson.term.needs_head for lesson in lessons))
        return shape

    @property
    def _shared(self) -> list[Lesson]:
        return [lesson for lesson in self.lessons if lesson.shared]

    def weights_at(self, step: int, epoch: float) -> list[float]:
        """The weight of each lesson, without that of its teacher."""
        of_terms = [term.weight_at(step, epoch) for term in self._settings.terms]
        heard = self.weighting.heard
        return [
            of_terms[lesson.place] if not lesson.shared or lesson.teacher in heard else 0.0 for lesson in self.lessons
        ]

    def asked(self, weights: Sequence[float]) -> dict[str, Teacher]:
        """The teachers who have a lesson whose weight is not 0."""
        names = {lesson.teacher for lesson, weight in zip(self.lessons, weights, strict=True) if weight}
        return {name: teacher for name, teacher in self.teachers.items() if name in names}

    def teach(
        self, student: Outputs, said: Mapping[str, Outputs], images: Tensor, truth: Truth, weights: Sequence[float]
    ) -> tuple[dict[str, Pull], dict[str, Tensor]]:
        """What each lesson asks of the student; what it asks of unlabelled images stands apart.

        Args:
            student: what it put out.
            said: what the teachers did.
            images: (N, 3, H, W), labelled ones first.
            truth: of the labelled ones.
            weights: of each lesson.

        Returns:
            Pulls by name, and the mean weights of the teachers, `teacher/<name>`, where there are several.
        """
        weighed = {name: outputs for name, outputs in said.items() if name in self._weighed}
        shares = self.weighting.weigh(weighed, images, truth) if weighed else {}
        parts = {'': slice(truth.images)}
        if truth.images < len(images):
            parts[UNLABELLED] = slice(truth.images, len(images))
        pulls: dict[str, Pull] = {}
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
                for lesson, weight in zip(self.lessons, weights, strict=True):
                    if lesson.teacher != name or not weight or (suffix and lesson.term.needs_boxes):
                        continue
                    value = lesson.term(heard if lesson.shared else own, others, truth.boxes)
                    mean = share.mean() if share is not None and lesson.shared else 1.0
                    pulls[f'{lesson.name}{suffix}'] = Pull(value, weight * factor, mean, lesson)
        return pulls, means

    def prove(self, pulls: Mapping[str, Pull], parameters: Sequence[Tensor], step: int, epochs_per_step: float) -> None:
        """Make sure, at a lesson's first step and from time to time, that it moves the student.

        Raises:
            FitError: a lesson's gradient on all parameters is exactly 0.
        """
        for name, pull in pulls.items():
            before = self._settings.terms[pull.lesson.place].weight_at(step - 1, (step - 1) * epochs_per_step)
            first = step == 0 or before == 0
            if pull.weight == 0 or not (first or step % PROOF_EVERY == 0):
                continue
            if pull.lesson.term.of_objects and float(pull.value.detach()) == 0:
                continue  # no object in this batch
            if pull.value.requires_grad:
                gradients = torch.autograd.grad(pull.value, parameters, retain_graph=True, allow_unused=True)
                if any(bool(gradient.any()) for gradient in gradients if gradient is not None):
                    continue
            raise FitError(
                f'{name} has no effect: its gradient on the student is exactly 0 at step {step + 1}. Do student and '
                'teacher already agree, or is the layer frozen?'
            )

    def learn(self, losses: Mapping[str, float]) -> None:
        """Let the weighting see a step's losses by name."""
        of_teachers: dict[str, dict[str, float]] = {name: {} for name in self._weighed}
        for lesson in self._shared:
            if lesson.name in losses:
                of_teachers[lesson.teacher][lesson.name] = losses[lesson.name]
        self.weighting.learn(of_teachers)

    def check_unchanged(self) -> None:
        """See Teacher."""
        for teacher in self.teachers.values():
            teacher.check_unchanged()


def _check_names(settings: DistillSettings, teachers: Mapping[str, Teacher]) -> None:
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
