"""Constant-velocity Kalman filters for many boxes at once, driven by time in seconds and not by frame numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MEASUREMENT = 0.05
"""Standard deviation of a detected box's center and size, in box heights (1/20, as DeepSORT and ByteTrack have it)."""

VELOCITY = 1.0
"""How much a velocity wanders in a second, in box heights per second. ByteTrack's 1/160 of a height per frame and frame, at 30
frames/s: 30 / 160 · √30 = 1.03."""

FIRST_VELOCITY = 2.0
"""Standard deviation of the unknown velocity of a new track, in box heights per second."""


@dataclass
class BoxMotion:
    """States of N boxes; each of center x, center y, width and height has a filter of its own, since none couples to another.

    Attributes:
        position: (N, 4), center x, center y, width, height in pixels.
        velocity: (N, 4), the same per second.
        covariance: (N, 4, 3), variance of the position, covariance of position and velocity, variance of the velocity.
    """

    position: Floats
    velocity: Floats
    covariance: Floats

    @classmethod
    def starting_at(cls, boxes: Floats) -> BoxMotion:
        """Boxes (N, 4) x1, y1, x2, y2 that were detected for the first time; their velocity is not known."""
        position = _centered(boxes)
        height = position[:, 3:4]
        covariance = np.zeros((len(boxes), 4, 3))
        covariance[..., 0] = (2 * MEASUREMENT * height) ** 2
        covariance[..., 2] = (FIRST_VELOCITY * height) ** 2
        return cls(position, np.zeros_like(position), covariance)

    def __len__(self) -> int:
        return len(self.position)

    def boxes(self) -> Floats:
        """Corners x1, y1, x2, y2, (N, 4), in pixels."""
        half = np.maximum(self.position[:, 2:], 1e-3) / 2
        return np.concatenate([self.position[:, :2] - half, self.position[:, :2] + half], axis=1)

    def select(self, which: npt.NDArray[np.bool_]) -> BoxMotion:
        """The boxes named by a mask."""
        return BoxMotion(self.position[which], self.velocity[which], self.covariance[which])

    def joined(self, other: BoxMotion) -> BoxMotion:
        """These boxes, then the others."""
        return BoxMotion(
            np.concatenate([self.position, other.position]),
            np.concatenate([self.velocity, other.velocity]),
            np.concatenate([self.covariance, other.covariance]),
        )

    def advance(self, seconds: float) -> None:
        """Predict where the boxes are `seconds` later, at least 0 (white-noise acceleration model)."""
        noise = (VELOCITY * self.position[:, 3:4]) ** 2
        at, cross, speed = self.covariance[..., 0], self.covariance[..., 1], self.covariance[..., 2]
        self.position += seconds * self.velocity
        at += seconds * (2 * cross + seconds * speed) + noise * seconds**3 / 3
        cross += seconds * speed + noise * seconds**2 / 2
        speed += noise * seconds

    def correct(self, which: npt.NDArray[np.intp], boxes: Floats) -> None:
        """Take in the boxes (M, 4) x1, y1, x2, y2 that were detected for the tracks `which` (M,)."""
        measured = _centered(boxes)
        variance = (MEASUREMENT * measured[:, 3:4]) ** 2
        at, cross, speed = np.moveaxis(self.covariance[which], -1, 0)
        gain_at, gain_speed = at / (at + variance), cross / (at + variance)
        surprise = measured - self.position[which]
        self.position[which] += gain_at * surprise
        self.velocity[which] += gain_speed * surprise
        self.covariance[which] = np.stack(
            [(1 - gain_at) * at, (1 - gain_at) * cross, speed - gain_speed * cross], axis=-1
        )


def _centered(boxes: Floats) -> Floats:
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
