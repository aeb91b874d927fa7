"""Boxes of one frame to positions in a target frame; every box is located, or has a cause why it is not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from kd_perception.localization.camera import Floats, PinholeCamera
from kd_perception.localization.depth import DepthImage, box_depth
from kd_perception.localization.ground import ground_points, standing_pixels
from kd_perception.localization.transforms import Transform

_CORNER = 0.5
"""Boxes count from the corner of the first pixel, calibrations from its center."""


class Cause(Enum):
    """Why a detection has no position."""

    NO_DEPTH = 'no_depth'
    ABOVE_HORIZON = 'above_horizon'
    TOO_FAR = 'too_far'
    OUTSIDE_LENS = 'outside_lens'
    NO_CALIBRATION = 'no_calibration'
    NO_TRANSFORM = 'no_transform'
    NO_DEPTH_IMAGE = 'no_depth_image'
    SUPERSEDED = 'superseded'


@dataclass(frozen=True)
class Location:
    """Where an object is.

    Attributes:
        position: (3,) in the target frame, meters; with depth the visible surface in the middle of the box, on flat ground the
            point where it stands.
        covariance: (3, 3), square meters.
        size: width, height and visible extent in depth along the camera's axes, meters; the last is 0 on flat ground.
    """

    position: Floats
    covariance: Floats
    size: Floats


@dataclass(frozen=True)
class LocalizerSettings:
    """What a localizer assumes.

    Attributes:
        max_range: meters from the camera beyond which nothing is located.
        pixel_deviation: standard deviation of a box's place, pixels.
        ground_height: of the ground in the target frame, meters.
        ground_deviation: its standard deviation, meters.
        nadir_angle: degrees, see `ground.standing_pixels`.
    """

    max_range: float = 200.0
    pixel_deviation: float = 2.0
    ground_height: float = 0.0
    ground_deviation: float = 0.1
    nadir_angle: float = 45.0


class Localizer:
    """Locates boxes by a depth image or on flat ground."""

    def __init__(self, settings: LocalizerSettings) -> None:
        self.settings = settings

    def by_depth(
        self, boxes: Floats, image: DepthImage, camera: PinholeCamera, pose: Transform
    ) -> list[Location | Cause]:
        """One answer a box.

        Args:
            boxes: (N, 4) x1, y1, x2, y2 in pixels of the camera's image, whose upper left corner is (0, 0).
            image: depth along the optical axis, seen by the same camera; may be of another resolution. See `box_depth`.
            camera: intrinsics.
            pose: takes the camera's optical frame to the target frame.
        """
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        scale = np.array([image.shape[1] / camera.width, image.shape[0] / camera.height] * 2)
        rays = _box_rays(camera, boxes)
        in_lens = _in_lens(rays)
        reaches = np.linalg.norm(rays[:, 0], axis=1)
        # Along the ray by the depth's error, across it by the pixel's: both grow with the depth.
        along = pose.rotation @ rays[:, 0].T
        across = np.diag([*((self.settings.pixel_deviation / focal) ** 2 for focal in camera.focal), 0.0])
        across = pose.rotation @ across @ pose.rotation.T
        found: list[Location | Cause] = []
        for index, box in enumerate(boxes * scale):
            if not in_lens[index]:
                found.append(Cause.OUTSIDE_LENS)
            elif (measured := box_depth(image, box)) is None:
                found.append(Cause.NO_DEPTH)
            elif measured.depth * reaches[index] > self.settings.max_range:
                found.append(Cause.TOO_FAR)
            else:
                ray = along[:, index]
                covariance = measured.deviation**2 * ray[:, None] * ray + measured.depth**2 * across
                size = _size(rays[index], measured.depth, measured.extent)
                found.append(Location(measured.depth * ray + pose.translation, covariance, size))
        return found

    def on_ground(self, boxes: Floats, camera: PinholeCamera, pose: Transform) -> list[Location | Cause]:
        """One answer a box; arguments as of `by_depth`. The target frame's z points up."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        settings, rays = self.settings, _box_rays(camera, boxes)
        pixels = standing_pixels(boxes - _CORNER, rays[:, 0], pose, np.deg2rad(settings.nadir_angle))
        ground = ground_points(
            *(pixels, camera, pose, settings.ground_height, settings.pixel_deviation, settings.ground_deviation)
        )
        ranges = np.linalg.norm(ground.positions - pose.translation, axis=1)
        in_lens = _in_lens(rays)
        found: list[Location | Cause] = []
        for index, reach in enumerate(ranges.tolist()):
            if not in_lens[index]:
                found.append(Cause.OUTSIDE_LENS)
            elif reach != reach:  # NaN
                found.append(Cause.ABOVE_HORIZON)
            elif reach > settings.max_range:
                found.append(Cause.TOO_FAR)
            else:
                size = _size(rays[index], float(ground.depths[index]), 0.0)
                found.append(Location(ground.positions[index], ground.covariances[index], size))
        return found


def _box_rays(camera: PinholeCamera, boxes: Floats) -> Floats:
    """Rays (N, 5, 3) through each box's center and the middles of its left, right, upper and lower edge."""
    x1, y1, x2, y2 = (boxes - _CORNER).T
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    pixels = np.stack([np.stack(place, axis=1) for place in ((x, y), (x1, y), (x2, y), (x, y1), (x, y2))], axis=1)
    return camera.rays(pixels.reshape(-1, 2)).reshape(-1, 5, 3)


def _in_lens(rays: Floats) -> list[bool]:
    """For each box whether all of its rays exist."""
    exist: list[bool] = np.asarray(np.isfinite(rays).all(axis=(1, 2))).tolist()
    return exist


def _size(rays: Floats, depth: float, extent: float) -> Floats:
    """What a box with its five rays measures at a depth."""
    return np.array([(rays[2, 0] - rays[1, 0]) * depth, (rays[4, 1] - rays[3, 1]) * depth, extent])
