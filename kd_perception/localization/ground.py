"""Where the rays of pixels meet flat ground, and how far an error of a pixel moves that point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_perception.localization.camera import Floats, PinholeCamera
from kd_perception.localization.transforms import Transform

_GRAZING = 1e-3
"""A ray that falls by less than this, in meters per meter, meets the ground at no useful place."""


@dataclass(frozen=True)
class GroundPoint:
    """A point (3,) on the ground in the target frame, its covariance (3, 3), and its depth along the optical axis, meters."""

    position: Floats
    covariance: Floats
    depth: float


def standing_pixel(box: Floats, camera: PinholeCamera, pose: Transform, nadir_angle: float) -> Floats:
    """The pixel of a box that shows where its object stands.

    Args:
        box: x1, y1, x2, y2 in pixels.
        camera: that sees it.
        pose: takes the camera's optical frame to the target frame, whose z points up.
        nadir_angle: radians; up to here from straight down, an object is seen from above and stands in the middle of its box,
            beyond, it stands on the box's lower edge.
    """
    x1, y1, x2, y2 = box.tolist()
    center = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    ray = camera.rays(center)[0]
    down = -(pose.rotation @ ray)[2] / np.linalg.norm(ray)
    return center if down >= np.cos(nadir_angle) else np.array([center[0], y2])


def ground_point(
    pixel: Floats,
    camera: PinholeCamera,
    pose: Transform,
    ground_height: float,
    pixel_deviation: float,
    height_deviation: float,
) -> GroundPoint | None:
    """The point of the ground that a pixel shows; None where its ray goes above the horizon, or the camera is below the ground.

    Args:
        pixel: (2,).
        camera: that sees it.
        pose: takes the camera's optical frame to the target frame, whose z points up.
        ground_height: of the ground in the target frame, meters.
        pixel_deviation: standard deviation of the pixel, pixels.
        height_deviation: standard deviation of the ground's height, meters.
    """
    neighbors = pixel + np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], np.float64)
    rays = camera.rays(neighbors) @ pose.rotation.T
    if not (np.isfinite(rays).all() and (rays[:, 2] < -_GRAZING * np.linalg.norm(rays, axis=1)).all()):
        return None
    reaches = (ground_height - pose.translation[2]) / rays[:, 2]
    if reaches[0] <= 0:
        return None
    points = pose.translation + reaches[:, None] * rays
    by_pixel = np.stack([points[1] - points[2], points[3] - points[4]], axis=1) / 2 * pixel_deviation
    by_height = rays[0] / rays[0, 2] * height_deviation
    covariance = by_pixel @ by_pixel.T + np.outer(by_height, by_height)
    return GroundPoint(points[0], covariance, float(reaches[0]))
