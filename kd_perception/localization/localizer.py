"""Boxes of one frame to positions in a target frame; every box is located, or has a cause why it is not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from kd_perception.localization.camera import Floats, PinholeCamera
from kd_perception.localization.depth import DepthImage, box_depth
from kd_perception.localization.ground import ground_point, standing_pixel
from kd_perception.localization.transforms import Transform


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
        nadir_angle: degrees, see `ground.standing_pixel`.
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
            boxes: (N, 4) x1, y1, x2, y2 in pixels of the camera's image.
            image: depth along the optical axis, seen by the same camera; may be of another resolution. See `box_depth`.
            camera: intrinsics.
            pose: takes the camera's optical frame to the target frame.
        """
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        scale = np.array([image.shape[1] / camera.width, image.shape[0] / camera.height] * 2)
        found: list[Location | Cause] = []
        for box, rays in zip(boxes, _box_rays(camera, boxes), strict=True):
            if not np.isfinite(rays).all():
                found.append(Cause.OUTSIDE_LENS)
                continue
            measured = box_depth(image, box * scale)
            if measured is None:
                found.append(Cause.NO_DEPTH)
                continue
            point = rays[0] * measured.depth
            if np.linalg.norm(point) > self.settings.max_range:
                found.append(Cause.TOO_FAR)
                continue
            sideways = measured.depth * self.settings.pixel_deviation / np.array(camera.focal)
            spread = np.outer(rays[0], rays[0]) * measured.deviation**2 + np.diag([*sideways**2, 0.0])
            covariance = pose.rotation @ spread @ pose.rotation.T
            size = _size(rays, measured.depth, measured.extent)
            found.append(Location(pose.apply(point), covariance, size))
        return found

    def on_ground(self, boxes: Floats, camera: PinholeCamera, pose: Transform) -> list[Location | Cause]:
        """One answer a box; arguments as of `by_depth`. The target frame's z points up."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        settings, found = self.settings, list[Location | Cause]()
        for box, rays in zip(boxes, _box_rays(camera, boxes), strict=True):
            if not np.isfinite(rays).all():
                found.append(Cause.OUTSIDE_LENS)
                continue
            pixel = standing_pixel(box, camera, pose, np.deg2rad(settings.nadir_angle))
            point = ground_point(
                *(pixel, camera, pose, settings.ground_height, settings.pixel_deviation, settings.ground_deviation)
            )
            if point is None:
                found.append(Cause.ABOVE_HORIZON)
            elif np.linalg.norm(point.position - pose.translation) > settings.max_range:
                found.append(Cause.TOO_FAR)
            else:
                found.append(Location(point.position, point.covariance, _size(rays, point.depth, 0.0)))
        return found


def _box_rays(camera: PinholeCamera, boxes: Floats) -> Floats:
    """Rays (N, 5, 3) through each box's center and the middles of its left, right, upper and lower edge."""
    x1, y1, x2, y2 = boxes.T
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    pixels = np.stack([np.stack(place, axis=1) for place in ((x, y), (x1, y), (x2, y), (x, y1), (x, y2))], axis=1)
    return camera.rays(pixels.reshape(-1, 2)).reshape(-1, 5, 3)


def _size(rays: Floats, depth: float, extent: float) -> Floats:
    return np.array([(rays[2, 0] - rays[1, 0]) * depth, (rays[4, 1] - rays[3, 1]) * depth, extent])
