"""A scene in meters: the camera's calibration and pose, the depth of every pixel, and where the vehicles truly are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kd_perception.scene.camera import Matrix, project
from kd_perception.scene.vehicle_parts import Vehicle

_MIRROR = np.diag([1.0, -1.0, 1.0])
"""The scene's y points down; turned over, x, y and z are the right-handed map of ROS, z up."""


@dataclass(frozen=True)
class SceneSpace:
    """What a frame shows, measured. The map is right-handed, z up, with the ground at 0; the optical frame that of ROS.

    Attributes:
        intrinsics: (3, 3) camera matrix; there is no distortion.
        rotation: (3, 3), takes directions of the optical frame (x right, y down, z forward) to the map.
        position: (3,) of the camera in the map, meters.
        depth: (height, width) float32, meters along the optical axis, of ground and vehicles; crowns have none.
        centers: (N, 3) of the vehicles in the frame's truth, in its order, meters in the map; z is half their height.
        sizes: (N, 3) length, width and height, meters.
    """

    intrinsics: Matrix
    rotation: Matrix
    position: Matrix
    depth: NDArray[np.float32]
    centers: Matrix
    sizes: Matrix


def camera_pose(projection: Matrix, intrinsics: Matrix) -> tuple[Matrix, Matrix]:
    """Rotation and position of a camera in the map, of its projection from the scene's world."""
    to_camera = np.linalg.inv(intrinsics) @ projection
    rotation = _MIRROR @ to_camera[:, :3].T
    return rotation, -rotation @ to_camera[:, 3]


def vehicles_in_space(
    vehicles: Iterable[Vehicle], poses: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centers (N, 3) in the map and sizes (N, 3) of vehicles with poses (N, 3) in the scene's world."""
    sizes = np.array([(v.length, v.width, v.height) for v in vehicles], np.float64).reshape(-1, 3)
    return np.stack([poses[:, 0], -poses[:, 1], sizes[:, 2] / 2], axis=1), sizes


def depth_image(
    projection: Matrix, size: tuple[int, int], solids: Iterable[tuple[Vehicle, NDArray[np.float64]]]
) -> NDArray[np.float32]:
    """Depth (height, width) of flat ground and of vehicles with their points (K, 3) in the scene's world.

    A plane's inverse depth is linear over the image: so every face is drawn exactly, and the nearest one is seen.
    """
    width, height = size
    corners = np.array([(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)])
    nearness = np.zeros((height, width))
    whole = np.array([(-1, -1), (width, -1), (width, height), (-1, height)], np.float64)
    _draw(nearness, whole, _plane(projection, corners), (0.0, np.inf))
    for vehicle, points in solids:
        for start, end in vehicle.slices:
            for face in _faces(points[start:end]):
                ends = 1.0 / (face @ projection[2, :3] + projection[2, 3])
                limits = float(ends.min()), float(ends.max())
                _draw(nearness, project(projection, face), _plane(projection, face), limits)
    return (1.0 / nearness).astype(np.float32)


def _faces(outline: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The top and the sides of a slab: its points are the lower outline, then the upper one."""
    top_height = outline[:, 2].max()
    count = int((outline[:, 2] < top_height).sum())
    lower, upper = outline[:count], outline[count:]
    if len(lower) != len(upper):
        return [upper]
    after = np.roll(np.arange(count), -1)
    sides = [np.stack([lower[i], lower[j], upper[j], upper[i]]) for i, j in enumerate(after)]
    return [*sides, upper]


def _plane(projection: Matrix, face: NDArray[np.float64]) -> NDArray[np.float64]:
    """a, b, c, with which 1 / depth is a u + b v + c on the plane of a face."""
    depths = face @ projection[2, :3] + projection[2, 3]
    pixels = np.concatenate([project(projection, face), np.ones((len(face), 1))], axis=1)
    return np.asarray(np.linalg.lstsq(pixels, 1.0 / depths, rcond=None)[0])


def _draw(
    nearness: NDArray[np.float64], outline: Matrix, plane: NDArray[np.float64], limits: tuple[float, float]
) -> None:
    """Keeps at every pixel of a convex outline what is nearer; a face that is seen from its edge stays within its limits."""
    height, width = nearness.shape
    x0, y0 = np.clip(np.floor(outline.min(axis=0)), 0, (width, height)).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(outline.max(axis=0)) + 1, 0, (width, height)).astype(int).tolist()
    if x0 >= x1 or y0 >= y1:
        return
    inside = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillConvexPoly(inside, np.rint((outline - (x0, y0)) * 16).astype(np.int32), 1, cv2.LINE_8, 4)
    values = plane[0] * np.arange(x0, x1) + (plane[1] * np.arange(y0, y1) + plane[2])[:, None]
    part = nearness[y0:y1, x0:x1]
    np.maximum(part, np.clip(values, *limits), out=part, where=inside > 0)
