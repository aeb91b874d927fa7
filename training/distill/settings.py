"""What a training run may be told: how it fits, how it augments, and what it learns from a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from training.distill.controls import CONTROLS
from training.distill.losses import loss_class
from training.distill.precision import PRECISIONS
from training.ranges import NOT_NEGATIVE, POSITIVE, SHARE, Range, one_of
from training.schema import added, aside

BASELINE = 'ultralytics'
"""Ultralytics' own distillation (`distill_model`), as a term to compare with."""
BASELINE_WEIGHT = 6.0
INPUTS = ('auto', 'features', 'scores')
OPTIMIZERS = ('adamw', 'sgd')
CACHES = ('memory', 'disk', 'none')
WEIGHTINGS = ('fixed', 'confidence', 'learned')
UNLABELLED = '/unlabelled'
"""Behind a term's name in the log: its part on images without labels."""
CACHE_PRECISIONS = ('own', 'float16')
ADAPTERS = ('auto', 'identity', 'conv', 'conv_bn', 'conv_bn_relu')


@dataclass(frozen=True)
class AugmentSettings:
    """Ultralytics' augmentations.

    Attributes:
        mosaic: share of the samples that are made of four images.
        close_mosaic: share of the run at its end without mosaics.
        scale: zoom by 1 ± this.
        translate: shift by up to this share of the image.
        degrees: rotation by up to this.
        fliplr: share flipped left to right.
        flipud: share flipped upside down; 0.5 suits what is seen from above.
        hsv_h: change of hue, a share of the circle.
        hsv_s: change of saturation, a share.
        hsv_v: change of brightness, a share.
    """

    mosaic: float = 1.0
    close_mosaic: float = 0.1
    scale: float = 0.5
    translate: float = 0.1
    degrees: float = 0.0
    fliplr: float = 0.5
    flipud: float = 0.0
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4

    def __post_init__(self) -> None:
        SHARE.check(mosaic=self.mosaic, close_mosaic=self.close_mosaic, translate=self.translate)
        SHARE.check(fliplr=self.fliplr, flipud=self.flipud)
        SHARE.check(hsv_h=self.hsv_h, hsv_s=self.hsv_s, hsv_v=self.hsv_v)
        Range(least=0, most=0.99).check(scale=self.scale)
        Range(least=0, most=180).check(degrees=self.degrees)


@dataclass(frozen=True)
class FitSettings:
    """How a network is fitted.

    A step is one change of the weights, after `batch · accumulate` labelled images. Gradients are summed over the images of
    a step, as in Ultralytics' trainer, whose learning rates hold here.

    Attributes:
        image_size: pixels of the square input, a multiple of 32.
        batch: labelled images at once, of all processes together.
        unlabelled_batch: unlabelled images beside them, where there are any.
        epochs: passes over the labelled images; give this or `steps`.
        steps: number of steps; give this or `epochs`.
        optimizer: `adamw` or `sgd` (with Nesterov momentum).
        learning_rate: after warm-up; about 0.001 for adamw, 0.01 for sgd.
        final_share: of the learning rate, at the end of its cosine.
        momentum: of sgd; the first beta of adamw.
        weight_decay: not of biases and normalisations, of a step, or of `nominal_batch` images where that is given.
        warmup_steps: over which the learning rate rises from 0.
        ema_decay: of the averaged weights, which are the result; 0 takes the last weights.
        ema_ramp: steps over which the decay approaches its value.
        precision: of the layers; `auto` is bfloat16 where the machine computes in it. Losses are always float32.
        accumulate: batches that are added up to one step.
        gradient_clip: largest length of the gradient; 0 does not clip.
        checkpoint_minutes: between checkpoints; 0 writes none by time.
        checkpoint_steps: between checkpoints; 0 writes none by steps.
        workers: processes that make batches; 0 makes them in the training process.
        freeze: layers that are not trained, by the beginning of their names, `[model.0., model.22.]`, or so many from the
            image on, `10` for the backbone of YOLOv8. The statistics of their normalisations stay, too.
        augment: see AugmentSettings.
        broken_images: `refuse` ends the run at an image that cannot be decoded; `skip` reports it and takes the next one.
        nominal_batch: images for which `weight_decay` is meant: a step of fewer decays less. Ultralytics' 0.0005 is for 64, so
            that recipes of theirs hold here with `nominal_batch: 64`; 0: of every step.
        data_seed: of order and augmentation; None: the run's. Runs of different seeds that give the same one see the same
            pictures in the same order.
        validate_epochs: epochs between two measurements on the validation set; 0 measures none during training.
        validate_images: of that set at most, evenly spread.
        patience: so many measurements without a better mAP50-95 end the training; 0 never does.
        keep: the result, `last` or `best` by those measurements; a best one is chosen on the very images that judge it.
        cache: where decoded and scaled pictures are kept: `memory`, as many as `cache_gb` holds; `disk`, in the recipe's
            working folder, for sets that memory does not hold; `none`. Changes no result.
        cache_gb: the most that is kept.
    """

    image_size: int = 640
    batch: int = 16
    unlabelled_batch: int = 0
    epochs: float = 0.0
    steps: int = 0
    optimizer: str = 'adamw'
    learning_rate: float = 0.001
    final_share: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.01
    warmup_steps: int = 100
    ema_decay: float = 0.9999
    ema_ramp: int = 2000
    precision: str = 'auto'
    accumulate: int = 1
    gradient_clip: float = 10.0
    checkpoint_minutes: float = 10.0
    checkpoint_steps: int = 0
    workers: int = 0
    freeze: tuple[str, ...] | int = ()
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    data_seed: int | None = added(None)
    broken_images: str = added('refuse')
    nominal_batch: int = added(0)
    validate_epochs: float = added(0.0)
    validate_images: int = added(500)
    patience: int = added(0)
    keep: str = added('last')
    cache: str = aside('memory')
    cache_gb: float = aside(2.0)

    def __post_init__(self) -> None:
        if self.image_size < 32 or self.image_size % 32:
            raise ValueError(f'image_size must be a multiple of 32, not {self.image_size}')
        if (self.epochs > 0) == (self.steps > 0):
            raise ValueError('give either epochs or steps, above 0')
        Range(least=1, most=100_000).check(batch=self.batch, accumulate=self.accumulate)
        many = Range(least=0, most=10_000_000)
        many.check(unlabelled_batch=self.unlabelled_batch, workers=self.workers)
        many.check(warmup_steps=self.warmup_steps, ema_ramp=self.ema_ramp, checkpoint_steps=self.checkpoint_steps)
        NOT_NEGATIVE.check(weight_decay=self.weight_decay, gradient_clip=self.gradient_clip)
        NOT_NEGATIVE.check(checkpoint_minutes=self.checkpoint_minutes)
        if isinstance(self.freeze, int):
            Range(least=1, most=10_000).check(freeze=self.freeze)
        SHARE.check(final_share=self.final_share, momentum=self.momentum, ema_decay=self.ema_decay)
        POSITIVE.check(learning_rate=self.learning_rate)
        one_of(OPTIMIZERS, optimizer=self.optimizer)
        one_of(PRECISIONS, precision=self.precision)
        one_of(('refuse', 'skip'), broken_images=self.broken_images)
        one_of(CACHES, cache=self.cache)
        one_of(('last', 'best'), keep=self.keep)
        NOT_NEGATIVE.check(validate_epochs=self.validate_epochs, patience=self.patience)
        Range(least=1).check(validate_images=self.validate_images)
        if not self.validate_epochs and (self.patience or self.keep == 'best'):
            raise ValueError('patience and keep: best go by measurements: set validate_epochs')
        many.check(nominal_batch=self.nominal_batch)
        NOT_NEGATIVE.check(cache_gb=self.cache_gb)

    @property
    def decay(self) -> float:
        """The weight decay of a step."""
        images = self.batch * self.accumulate
        return self.weight_decay * images / self.nominal_batch if self.nominal_batch else self.weight_decay


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
    def is_initialisation(self) -> bool:
        """Whether its authors use it alone, before the task is trained."""
        return self.loss != BASELINE and loss_class(self.loss).usual.initialisation_only

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
        weighting: of several teachers: `fixed`; `confidence`, image by image, the more the smaller a teacher's own error;
            `learned` with the student. See `training.distill.weighting`.
        teacher_weights: of each teacher by name where the weighting is fixed, of any sum; none weighs all alike, and one
            whose weight is 0 is not asked.
        weight_entropy: of a learned weighting, in the unit of the losses' shares: the larger, the more even.
        weight_rate: of a learned weighting, the step of its logits.
        class_map: of a teacher that is a bundle, the student's class by the teacher's; equal names need no entry, and what has
            none is not taught.
        cache: keep on disk what the teachers say, so that a later run with the same pictures asks nobody; give all the same
            `fit.data_seed`. Changes no result.
        cache_gb: the most that may be kept.
        cache_precision: `own` keeps what the teacher computes in, bit by bit; `float16` rounds, also what is not kept yet.
    """

    terms: tuple[TermSettings, ...]
    task_weight: float = 1.0
    unlabelled_weight: float = 1.0
    teacher_control: str = 'none'
    weighting: str = added('fixed')
    teacher_weights: Mapping[str, float] = added(default_factory=dict)
    weight_entropy: float = added(0.5)
    weight_rate: float = added(0.02)
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
        one_of(WEIGHTINGS, weighting=self.weighting)
        Range(least=0.1, most=100).check(weight_entropy=self.weight_entropy)
        Range(least=0, most=1 / self.weight_entropy).check(weight_rate=self.weight_rate)
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
