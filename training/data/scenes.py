"""Frames of the synthetic drone flights (`kd_perception.scene`) as a data set with exact boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kd_perception.scene import Scene, draw_settings
from training.data.aerial_traffic import CLASSES
from training.data.class_rules import ClassRules, class_rules, reclassed
from training.data.dataset import LabeledImage, write_split
from training.ranges import Range
from training.schema import added


@dataclass(frozen=True)
class SceneSetSettings:
    """Which frames are written.

    Attributes:
        count: frames in all.
        size: width and height of a frame in pixels.
        frames_per_scene: frames of one flight, far apart.
        step: frames between them.
        first_seed: of the first scene; the others count up. Seeds below 10000 are left to demos and tests.
        mix: shares of the classes among moving vehicles, in the order of the class list; None leaves them to the scene.
        clutter: least and most of what looks like a vehicle and is none, see `SceneSettings`; drawn for each scene.
    """

    count: int = 1000
    size: int = 480
    frames_per_scene: int = 2
    step: int = 90
    first_seed: int = 10_000
    mix: tuple[float, float, float, float, float] | None = None
    clutter: tuple[float, float] = added((0.0, 0.0))

    def __post_init__(self) -> None:
        Range(least=0, most=3).check(clutter_least=self.clutter[0], clutter_most=self.clutter[1])
        if self.clutter[0] > self.clutter[1]:
            raise ValueError(f'clutter is least and most: {list(self.clutter)} has the larger first')


def prepare(target: Path, settings: SceneSetSettings, rules: ClassRules | None = None, split: str = 'train') -> int:
    """Write the frames as a split of a data set, with the classes as the rules say; returns their number."""
    rules = rules or class_rules(CLASSES)
    return write_split(target, split, rules.classes, reclassed(frames(settings), CLASSES, rules))


def prepare_splits(
    target: Path, settings: SceneSetSettings, val_share: float, rules: ClassRules | None = None
) -> dict[str, int]:
    """Write the frames as training split, and of further flights `val_share` times as many for validation."""
    counts = {'train': prepare(target, settings, rules)}
    validation = round(settings.count * val_share)
    if validation:
        flights = -(-settings.count // settings.frames_per_scene)
        further = replace(settings, count=validation, first_seed=settings.first_seed + flights)
        counts['val'] = prepare(target, further, rules, 'val')
    return counts


def frames(settings: SceneSetSettings) -> Iterator[LabeledImage]:
    """The frames, scene by scene."""
    for index in range(settings.count):
        flight, frame = divmod(index, settings.frames_per_scene)
        if frame == 0:
            seed = settings.first_seed + flight
            look = draw_settings(seed)
            look = look if settings.mix is None else replace(look, mix=settings.mix)
            if any(settings.clutter):
                drawn = np.random.default_rng((seed, 0xC1077E4)).uniform(*settings.clutter)
                look = replace(look, clutter=float(drawn))
            scene = Scene(seed, settings.size, settings.size, settings=look)
        shown = scene.frame(frame * settings.step)
        yield LabeledImage(f'{index:05d}', shown.image, shown.truth)
