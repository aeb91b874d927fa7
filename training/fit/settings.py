"""How a network is fitted: what the loop is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from training.data.augment import AugmentSettings
from training.fit.precision import PRECISIONS
from training.ranges import NOT_NEGATIVE, POSITIVE, SHARE, Range, one_of
from training.schema import added, aside

OPTIMIZERS = ('adamw', 'sgd')
CACHES = ('memory', 'disk', 'none')
LOGGERS = ('tensorboard', 'wandb', 'mlflow')
AUTO = 'auto'
USUAL_BATCH = 16


@dataclass(frozen=True)
class FitSettings:
    """How a network is fitted.

    A step is one change of the weights, after `batch · accumulate` labelled images. Gradients are summed over the images of
    a step, as in Ultralytics' trainer, whose learning rates hold here.

    Attributes:
        image_size: pixels of the square input, a multiple of 32.
        batch: labelled images at once, of all processes together; `auto` finds out what memory or, on a CPU, time allows, see
            `training.fit.auto_batch`, and keeps it in the training's folder.
        unlabelled_batch: unlabelled images beside them, where there are any.
        epochs: passes over the labelled images; give this or `steps`.
        steps: number of steps; give this or `epochs`.
        optimizer: `adamw` or `sgd` (with Nesterov momentum).
        learning_rate: after warm-up; about 0.001 for adamw, 0.01 for sgd.
        final_share: of the learning rate, at the end of its cosine.
        momentum: of sgd; the first beta of adamw.
        weight_decay: not of biases and normalizations, of a step, or of `nominal_batch` images where that is given.
        warmup_steps: over which the learning rate rises from 0.
        warmup_bias_lr: from which that of biases moves to the common one meanwhile, 0.1 in Ultralytics' recipes of sgd; None: 0.
        warmup_momentum: from which the momentum moves to its value meanwhile, 0.8 in those recipes; None: it has it at once.
        ema_decay: of the averaged weights, which are the result; 0 takes the last weights.
        ema_ramp: steps over which the decay approaches its value.
        precision: of the layers; `auto` is bfloat16 where the machine computes in it. Losses are always float32.
        accumulate: batches that are added up to one step.
        gradient_clip: largest length of the gradient; 0 does not clip.
        checkpoint_minutes: between checkpoints; 0 writes none by time.
        checkpoint_steps: between checkpoints; 0 writes none by steps.
        workers: processes that make batches; 0 makes them in the training process.
        freeze: layers that are not trained, by the beginning of their names, `[model.0., model.22.]`, or so many from the
            image on, `10` for the backbone of YOLOv8. The statistics of their normalizations stay, too.
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
        loggers: who gets the figures beside log.csv: `tensorboard`, `wandb`, `mlflow`; see `training.fit.log`.
        cache: where decoded and scaled pictures are kept: `memory`, as many as `cache_gb` holds; `disk`, in the recipe's
            working folder, for sets that memory does not hold; `none`. Changes no result.
        cache_gb: the most that is kept.
    """

    image_size: int = 640
    batch: int | Literal['auto'] = 16
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
    warmup_bias_lr: float | None = added(None)
    warmup_momentum: float | None = added(None)
    loggers: tuple[str, ...] = aside(('tensorboard',))
    cache: str = aside('memory')
    cache_gb: float = aside(2.0)

    def __post_init__(self) -> None:
        if self.image_size < 32 or self.image_size % 32:
            raise ValueError(f'image_size must be a multiple of 32, not {self.image_size}')
        if (self.epochs > 0) == (self.steps > 0):
            raise ValueError('give either epochs or steps, above 0')
        if isinstance(self.batch, str):
            one_of((AUTO,), batch=self.batch)
        Range(least=1, most=100_000).check(batch=self.images_at_once, accumulate=self.accumulate)
        many = Range(least=0, most=10_000_000)
        many.check(unlabelled_batch=self.unlabelled_batch, workers=self.workers)
        many.check(warmup_steps=self.warmup_steps, ema_ramp=self.ema_ramp, checkpoint_steps=self.checkpoint_steps)
        NOT_NEGATIVE.check(weight_decay=self.weight_decay, gradient_clip=self.gradient_clip)
        NOT_NEGATIVE.check(checkpoint_minutes=self.checkpoint_minutes)
        if isinstance(self.freeze, int):
            Range(least=1, most=10_000).check(freeze=self.freeze)
        SHARE.check(final_share=self.final_share, momentum=self.momentum, ema_decay=self.ema_decay)
        POSITIVE.check(learning_rate=self.learning_rate)
        SHARE.check(warmup_momentum=self.warmup_momentum)
        NOT_NEGATIVE.check(warmup_bias_lr=self.warmup_bias_lr)
        one_of(OPTIMIZERS, optimizer=self.optimizer)
        one_of(PRECISIONS, precision=self.precision)
        one_of(('refuse', 'skip'), broken_images=self.broken_images)
        one_of(CACHES, cache=self.cache)
        for name in self.loggers:
            one_of(LOGGERS, loggers=name)
        one_of(('last', 'best'), keep=self.keep)
        NOT_NEGATIVE.check(validate_epochs=self.validate_epochs, patience=self.patience)
        Range(least=1).check(validate_images=self.validate_images)
        if not self.validate_epochs and (self.patience or self.keep == 'best'):
            raise ValueError('patience and keep: best go by measurements: set validate_epochs')
        many.check(nominal_batch=self.nominal_batch)
        NOT_NEGATIVE.check(cache_gb=self.cache_gb)

    @property
    def images_at_once(self) -> int:
        """The batch; the usual one where it is not known yet."""
        return USUAL_BATCH if isinstance(self.batch, str) else self.batch

    @property
    def decay(self) -> float:
        """The weight decay of a step."""
        images = self.images_at_once * self.accumulate
        return self.weight_decay * images / self.nominal_batch if self.nominal_batch else self.weight_decay
