"""Frames of the synthetic drone flights (`kd_perception.scene`) as a data set with exact boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from kd_perception.scene import Scene, draw_settings
from training.data.aerial_traffic import CLASSES
from training.data.dataset import LabelledImage, write_split


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
    """

    count: int = 1000
    size: int = 480
    frames_per_scene: int = 2
    step: int = 90
    first_seed: int = 10_000
    mix: tuple[float, float, float, float, float] | None = None


def prepare(target: Path, settings: SceneSetSettings) -> int:
    """Write the frames as the training split of a data set; returns their number."""
    return write_split(target, 'train', CLASSES, frames(settings))


def prepare_splits(target: Path, settings: SceneSetSettings, val_share: float) -> dict[str, int]:
    """Write the frames as training split, and of further flights `val_share` times as many for validation."""
    counts = {'train': prepare(target, settings)}
    validation = round(settings.count * val_share)
    if validation:
        flights = -(-settings.count // settings.frames_per_scene)
        further = replace(settings, count=validation, first_seed=settings.first_seed + flights)
        counts['val'] = write_split(target, 'val', CLASSES, frames(further))
    return counts


def frames(settings: SceneSetSettings) -> Iterator[LabelledImage]:
    """The frames, scene by scene."""
    for index in range(settings.count):
        flight, frame = divmod(index, settings.frames_per_scene)
        if frame == 0:
            seed = settings.first_seed + flight
            look = draw_settings(seed)
            look = look if settings.mix is None else replace(look, mix=settings.mix)
            scene = Scene(seed, settings.size, settings.size, settings=look)
        shown = scene.frame(frame * settings.step)
        yield LabelledImage(f'{index:05d}', shown.image, shown.truth)
