"""A pinhole camera as a calibration describes it, and the ray through each of its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from kd_perception.errors import KdPerceptionError

Floats = npt.NDArray[np.float64]

COEFFICIENTS = {'plumb_bob': (4, 5), 'rational_polynomial': (8, 12, 14), 'equidistant': (4,)}
"""Distortion model → how many coefficients it may have."""

_INVERTED = 0.1
"""A pixel whose ray comes back to it within this many pixels is one that the distortion model covers."""


class CalibrationError(KdPerceptionError):
    """A calibration that cannot be used; says why."""


@dataclass(frozen=True)
class PinholeCamera:
    """Intrinsics of one image.

    Attributes:
        matrix: (3, 3), pixels.
        distortion: coefficients of the model, empty for none.
        model: a key of COEFFICIENTS.
        width, height: of the image that the matrix is for, pixels.

    Raises:
        CalibrationError: values that no calibrated camera has.
    """

    matrix: Floats
    distortion: tuple[float, ...]
    model: str
    width: int
    height: int

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix, np.float64).reshape(3, 3)
        object.__setattr__(self, 'matrix', matrix)
        if not (np.isfinite(matrix).all() and np.isfinite(self.distortion).all()):
            raise CalibrationError('the calibration holds values that are no numbers')
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise CalibrationError('the focal length is not positive: the camera is not calibrated')
        if self.width < 1 or self.height < 1:
            raise CalibrationError(f'the calibration is for an image of {self.width}x{self.height} pixels')
        if not self.distortion:
            return
        if self.model not in COEFFICIENTS:
            known = ', '.join(COEFFICIENTS)
            raise CalibrationError(f'the distortion model is {self.model[:60]!r}; known are {known}')
        if len(self.distortion) not in COEFFICIENTS[self.model]:
            raise CalibrationError(f'{len(self.distortion)} distortion coefficients do not fit the model {self.model}')

    @classmethod
    def calibrated(
        cls, matrix: Sequence[float], distortion: Sequence[float], model: str, width: int, height: int
    ) -> PinholeCamera:
        """A camera of the values as CameraInfo holds them; coefficients that are all zero are none."""
        coefficients = tuple(float(value) for value in distortion)
        return cls(np.array(matrix, np.float64), coefficients if any(coefficients) else (), model, width, height)

    @property
    def focal(self) -> tuple[float, float]:
        """Focal lengths along x and y, pixels."""
        return float(self.matrix[0, 0]), float(self.matrix[1, 1])

    def window(self, x: int, y: int, binning_x: int = 1, binning_y: int = 1) -> PinholeCamera:
        """The camera of a part of the image that begins at (x, y), and of which pixels were put together by `binning`."""
        moved = self.matrix.copy()
        moved[0, 2] -= x
        moved[1, 2] -= y
        scaled = np.diag([1 / max(binning_x, 1), 1 / max(binning_y, 1), 1.0]) @ moved
        width, height = self.width // max(binning_x, 1), self.height // max(binning_y, 1)
        return PinholeCamera(scaled, self.distortion, self.model, width, height)

    def rays(self, pixels: Floats) -> Floats:
        """Rays (N, 3) with z = 1 in the optical frame (x right, y down, z forward) through pixels (N, 2).

        NaN where the distortion model has no ray for a pixel: outside of the lens's image, or beyond 90 degrees.
        """
        pixels = np.asarray(pixels, np.float64).reshape(-1, 2)
        if not len(pixels):
            return np.zeros((0, 3))
        if not self.distortion:
            skew, (fx, fy) = self.matrix[0, 1], self.focal
            y = (pixels[:, 1] - self.matrix[1, 2]) / fy
            x = (pixels[:, 0] - self.matrix[0, 2] - skew * y) / fx
            return np.stack([x, y, np.ones_like(x)], axis=1)
        coefficients = np.array(self.distortion)
        if self.model == 'equidistant':
            plane = cv2.fisheye.undistortPoints(pixels[:, None], self.matrix, coefficients)
        else:
            end = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-10)
            plane = cv2.undistortPointsIter(pixels[:, None], self.matrix, coefficients, np.eye(3), np.eye(3), end)
        rays = np.concatenate([np.asarray(plane, np.float64).reshape(-1, 2), np.ones((len(pixels), 1))], axis=1)
        gone = np.linalg.norm(self.pixels(rays) - pixels, axis=1)
        rays[~(gone < _INVERTED)] = np.nan
        return rays

    def pixels(self, points: Floats) -> Floats:
        """Pixels (N, 2) of points (N, 3) in front of the camera, in the optical frame."""
        points = np.asarray(points, np.float64).reshape(-1, 1, 3)
        if not len(points):
            return np.zeros((0, 2))
        still, coefficients = np.zeros(3), np.array(self.distortion or (0.0,) * 4)
        if self.model == 'equidistant' and self.distortion:
            found, _ = cv2.fisheye.projectPoints(points, still, still, self.matrix, coefficients)
        else:
            found, _ = cv2.projectPoints(points, still, still, self.matrix, coefficients)
        return np.asarray(found, np.float64).reshape(-1, 2)
