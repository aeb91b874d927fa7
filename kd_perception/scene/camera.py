"""The drone's camera: a flight path and the projection of world meters to image pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd_perception.scene.settings import SceneSettings

Matrix = NDArray[np.float64]


class Camera:
    """A pinhole camera on a drone that drifts over the origin.

    The world has x right, y down and z up (meters). Pixel coordinates are OpenCV's: whole numbers are pixel centers.
    """

    def __init__(self, settings: SceneSettings, width: int, height: int, rng: np.random.Generator) -> None:
        self._settings = settings
        self._size = (width, height)
        self._focal = settings.focal_ratio * width
        reach = settings.ground_sample_distance * np.array([0.42 * width, 0.16 * height])
        self._reach = np.minimum(reach, 60.0)
        self._periods = rng.uniform((38.0, 21.0, 9.0, 17.0), (60.0, 34.0, 15.0, 29.0))
        self._phases = rng.uniform(0.0, 2 * np.pi, 4)
        self._sway = rng.uniform(0.5, 3.0)

    def intrinsics(self) -> Matrix:
        """The (3, 3) camera matrix."""
        width, height = self._size
        return np.array([(self._focal, 0, (width - 1) / 2), (0, self._focal, (height - 1) / 2), (0, 0, 1)])

    def projection(self, seconds: float) -> Matrix:
        """The (3, 4) matrix from homogeneous world points to homogeneous pixels."""
        waves = np.sin(2 * np.pi * seconds / self._periods + self._phases)
        heading = np.deg2rad(self._settings.heading + self._sway * waves[2])
        turn = np.array([(np.cos(heading), -np.sin(heading)), (np.sin(heading), np.cos(heading))])
        target = turn @ (self._reach * waves[:2])
        distance = self._focal * self._settings.ground_sample_distance * (1.0 + 0.02 * waves[3])
        return self._look_at(target, turn, distance)

    def half_size(self) -> float:
        """The distance from the origin that a frame can reach, meters."""
        distance = self._focal * self._settings.ground_sample_distance * 1.02
        to_world = np.linalg.inv(self._look_at(np.zeros(2), np.eye(2), distance)[:, [0, 1, 3]])
        width, height = self._size
        corners = to_world @ np.array([(0, 0, 1), (width, 0, 1), (0, height, 1), (width, height, 1)], np.float64).T
        footprint = np.linalg.norm(corners[:2] / corners[2], axis=0).max()
        return float(footprint + np.linalg.norm(self._reach) + 2.0)

    def _look_at(self, target: Matrix, turn: Matrix, distance: float) -> Matrix:
        tilt = np.deg2rad(self._settings.tilt)
        height = distance * np.cos(tilt)
        eye = target - turn @ np.array([0.0, -distance * np.sin(tilt)])
        to_camera = np.zeros((3, 4))
        to_camera[:2, :2] = turn.T
        to_camera[:2, 3] = -turn.T @ eye
        to_camera[2] = (0.0, 0.0, -1.0, height)
        tilted = np.array([(1, 0, 0), (0, np.cos(tilt), np.sin(tilt)), (0, -np.sin(tilt), np.cos(tilt))])
        return np.asarray(self.intrinsics() @ tilted @ to_camera)


def project(projection: Matrix, points: Matrix) -> Matrix:
    """Pixels (N, 2) of world points (N, 3)."""
    homogeneous = points @ projection[:, :3].T + projection[:, 3]
    return np.asarray(homogeneous[:, :2] / homogeneous[:, 2:])
