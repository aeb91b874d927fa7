"""What a student learns from its teachers: the terms, their weights, and how several teachers share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from training.distill.controls import CONTROLS
from training.distill.losses import loss_class
from training.ranges import NOT_NEGATIVE, Range, one_of
from training.schema import added, aside

BASELINE = 'ultralytics'
"""Ultralytics' own distillation (`distill_model`), as a term to compare with."""
BASELINE_WEIGHT = 6.0
INPUTS = ('auto', 'features', 'scores')
WEIGHTINGS = ('fixed', 'confidence')
NOT_LEARNED = 'no study showed a gain; choose confidence, or fixed with teacher_weights'
UNLABELLED = '/unlabelled'
"""Behind a term's name in the log: its part on images without labels."""
CACHE_PRECISIONS = ('own', 'float16')
ADAPTERS = ('auto', 'identity', 'conv', 'conv_bn', 'conv_bn_relu')


@dataclass(frozen=True)
class GradientRatio:
    """A weight by what it does: the term's gradient on the student shall be this share of the task's in length.

    Attributes:
        ratio: 0.3 is a good start; 1 lets the term weigh as much as the labels.
    """

    ratio: float

    def __post_init__(self) -> None:
        Range(above=0, most=100).check(ratio=self.ratio)


@dataclass(frozen=True)
class TermSettings:
    """One distillation loss.

    Attributes:
        loss: a name of `training.distill.losses.LOSSES`, or `ultralytics` for its own distillation.
        on: what is compared: `features` (maps between layers), `scores` (the head's class logits, for losses of maps), or
            `auto`, what the loss takes.
        weight: factor beside the task's loss, or `{ratio: 0.3}`, which finds the factor in the run; None is the authors'.
        start_step: first step at which it counts; None is the authors'.
        ramp_epochs: over which its weight rises from 0; None is the authors'.
        student_layers: numbers or names of the student's layers whose maps are compared; none: those the head reads.
        teacher_layers: the same of the teacher.
        adapter: from the student's channels to the teacher's; `auto` takes the channels that a pruned student kept, else
            nothing where they are equal, else a 1×1 convolution.
        level_weights: factor of each level; none weighs all alike.
        settings: of the loss, `{temperature: 2}`.
        teacher: of several, the one that it is for; it then has its own weight alone. None: for all, as their weights say.
        revision: of the loss, see `DistillationLoss`; not set by users.
    """

    loss: str
    on: str = 'auto'
    weight: float | GradientRatio | None = None
    start_step: int | None = None
    ramp_epochs: float | None = None
    student_layers: tuple[int | str, ...] = ()
    teacher_layers: tuple[int | str, ...] = ()
    adapter: str = 'auto'
    level_weights: tuple[float, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    teacher: str = added('')
    revision: int = added(0, init=False)

    def __post_init__(self) -> None:
        if self.loss != BASELINE:
            object.__setattr__(self, 'revision', loss_class(self.loss).revision)
        one_of(INPUTS, on=self.on)
        one_of(ADAPTERS, adapter=self.adapter)
        NOT_NEGATIVE.check(weight=None if isinstance(self.weight, GradientRatio) else self.weight)
        NOT_NEGATIVE.check(start_step=self.start_step, ramp_epochs=self.ramp_epochs)
        if len(self.student_layers) != len(self.teacher_layers):
            raise ValueError('name as many student_layers as teacher_layers')

    @property
    def full_weight(self) -> float:
        """The weight after start and ramp; of a ratio, which the lengths of the gradients turn into one."""
        if isinstance(self.weight, GradientRatio):
            return self.weight.ratio
        if self.weight is not None:
            return self.weight
        return BASELINE_WEIGHT if self.loss == BASELINE else loss_class(self.loss).usual.weight

    @property
    def is_initialization(self) -> bool:
        """Whether its authors use it alone, before the task is trained."""
        return self.loss != BASELINE and loss_class(self.loss).usual.initialization_only

    def weight_at(self, step: int, epoch: float) -> float:
        """The weight at a step (from 0) and an epoch (from 0.0); the ramp begins with the run."""
        usual = None if self.loss == BASELINE else loss_class(self.loss).usual
        start = self.start_step if self.start_step is not None else usual.start_step if usual else 0
        ramp = self.ramp_epochs if self.ramp_epochs is not None else usual.ramp_epochs if usual else 0.0
        if step < start:
            return 0.0
        return self.full_weight * (min(epoch / ramp, 1.0) if ramp > 0 else 1.0)


@dataclass(frozen=True)
class DistillSettings:
    """What is learned from the teacher.

    Attributes:
        terms: the losses; all see one forward pass of student and teacher.
        task_weight: factor of the task's own loss.
        unlabelled_weight: factor of every term on unlabelled images, beside its own.
        teacher_control: `none`; in control runs `random` or `shuffled`, see `training.distill.controls`.
        weighting: of several teachers: `fixed`, or `confidence`, image by image, the more the smaller a teacher's own error. See
            `training.distill.weighting`.
        teacher_weights: of each teacher by name where the weighting is fixed, of any sum; none weighs all alike, and one
            whose weight is 0 is not asked.
        class_map: of a teacher that is a bundle, the student's class by the teacher's; equal names need no entry, and what has
            none is not taught.
        cache: keep on disk what the teachers say, so that a later run with the same pictures asks nobody; give all the same
            `fit.data_seed`. Changes no result.
        cache_gb: the most that may be kept.
        cache_precision: `own` keeps what the teacher computes in, bit by bit; `float16` rounds, also what is not kept yet.
    """

    GONE: ClassVar[Mapping[str, str]] = {
        'weight_entropy': f'it was for weighting: learned, of which {NOT_LEARNED}',
        'weight_rate': f'it was for weighting: learned, of which {NOT_LEARNED}',
    }

    terms: tuple[TermSettings, ...]
    task_weight: float = 1.0
    unlabelled_weight: float = 1.0
    teacher_control: str = 'none'
    weighting: str = added('fixed')
    teacher_weights: Mapping[str, float] = added(default_factory=dict)
    class_map: Mapping[str, str] = added(default_factory=dict)
    cache: bool = aside(False)
    cache_gb: float = aside(20.0)
    cache_precision: str = added('own')

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError('there is no term to distil by: name at least one loss')
        NOT_NEGATIVE.check(task_weight=self.task_weight, unlabelled_weight=self.unlabelled_weight)
        one_of(CONTROLS, teacher_control=self.teacher_control)
        one_of(CACHE_PRECISIONS, cache_precision=self.cache_precision)
        NOT_NEGATIVE.check(cache_gb=self.cache_gb)
        if self.cache_precision != 'own' and not self.cache:
            raise ValueError(f'cache_precision: {self.cache_precision} is for cache: true')
        self._check_weighting()

    def _check_weighting(self) -> None:
        if self.weighting == 'learned':
            raise ValueError(f'weighting: learned is gone: {NOT_LEARNED}')
        one_of(WEIGHTINGS, weighting=self.weighting)
        if self.teacher_weights and self.weighting != 'fixed':
            raise ValueError(f'teacher_weights are for weighting: fixed; {self.weighting} finds its own')
        NOT_NEGATIVE.check(**{f'teacher_weights.{name}': weight for name, weight in self.teacher_weights.items()})
        if self.teacher_weights and not any(self.teacher_weights.values()):
            raise ValueError('teacher_weights are all 0: one at least must be above')

    @property
    def names(self) -> tuple[str, ...]:
        """What the log calls each term: its loss, numbered where there are several of one."""
        losses = [term.loss for term in self.terms]
        return tuple(
            loss if losses.count(loss) == 1 else f'{loss}{losses[: place + 1].count(loss)}'
            for place, loss in enumerate(losses)
        )
