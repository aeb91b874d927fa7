"""Where the rays of pixels meet flat ground, and how far an error of a pixel moves that point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_perception.localization.camera import Floats, PinholeCamera
from kd_perception.localization.transforms import Transform

_GRAZING = 1e-3
"""A ray that falls by less than this, in meters per meter, meets the ground at no useful place."""
_NEIGHBORS = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], np.float64)


@dataclass(frozen=True)
class GroundPoints:
    """Points on the ground in the target frame; NaN where a pixel shows none.

    Attributes:
        positions: (N, 3), meters.
        covariances: (N, 3, 3), square meters.
        depths: (N,) along the optical axis, meters.
    """

    positions: Floats
    covariances: Floats
    depths: Floats


def standing_pixels(boxes: Floats, center_rays: Floats, pose: Transform, nadir_angle: float) -> Floats:
    """The pixels (N, 2) of boxes that show where their objects stand.

    Args:
        boxes: (N, 4), x1, y1, x2, y2 in pixels.
        center_rays: (N, 3), through their centers, in the optical frame.
        pose: takes the camera's optical frame to the target frame, whose z points up.
        nadir_angle: radians; up to here from straight down, an object is seen from above and stands in the middle of its box,
            beyond, it stands on the box's lower edge.
    """
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    down = -center_rays @ pose.rotation[2] / np.linalg.norm(center_rays, axis=1)
    return np.stack([x, np.where(down >= np.cos(nadir_angle), y, boxes[:, 3])], axis=1)


def ground_points(
    pixels: Floats,
    camera: PinholeCamera,
    pose: Transform,
    ground_height: float,
    pixel_deviation: float,
    height_deviation: float,
) -> GroundPoints:
    """The points of the ground that pixels show; none above the horizon, and none where the camera is below the ground.

    Args:
        pixels: (N, 2).
        camera: that sees them.
        pose: takes the camera's optical frame to the target frame, whose z points up.
        ground_height: of the ground in the target frame, meters.
        pixel_deviation: standard deviation of a pixel, pixels.
        height_deviation: standard deviation of the ground's height, meters.
    """
    rays = camera.rays((pixels[:, None] + _NEIGHBORS).reshape(-1, 2)) @ pose.rotation.T
    falling = rays[:, 2] < -_GRAZING * np.linalg.norm(rays, axis=1)
    rays[~falling] = np.nan
    reaches = (ground_height - pose.translation[2]) / rays[:, 2]
    rays, reaches = rays.reshape(-1, 5, 3), reaches.reshape(-1, 5, 1)
    points = pose.translation + reaches * rays
    by_pixel = np.stack([points[:, 1] - points[:, 2], points[:, 3] - points[:, 4]], axis=2) / 2 * pixel_deviation
    by_height = rays[:, 0] / rays[:, 0, 2:] * height_deviation
    covariances = by_pixel @ by_pixel.transpose(0, 2, 1) + by_height[:, :, None] * by_height[:, None, :]
    seen = np.isfinite(points).all(axis=(1, 2)) & (reaches[:, 0, 0] > 0)
    positions = np.where(seen[:, None], points[:, 0], np.nan)
    return GroundPoints(positions, covariances, reaches[:, 0, 0])
