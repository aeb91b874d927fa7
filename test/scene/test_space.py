"""Scenes in meters: pose, depth and true places agree with the picture."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.scene import Scene, SceneSettings

VIEWS = [
    SceneSettings(layout='street', ground_sample_distance=0.15, tilt=0.0),
    SceneSettings(layout='parking', ground_sample_distance=0.2, tilt=28.0, heading=130.0),
]


@pytest.fixture(params=VIEWS, ids=['nadir', 'oblique'])
def scene(request) -> Scene:
    return Scene(4, 320, 240, settings=request.param)


def test_the_camera_looks_down_on_the_map_with_a_true_rotation(scene: Scene):
    space = scene.space(5)
    assert space.rotation @ space.rotation.T == pytest.approx(np.eye(3), abs=1e-9)
    assert np.linalg.det(space.rotation) == pytest.approx(1.0)
    assert space.position[2] > 0
    assert space.rotation[2, 2] == pytest.approx(-np.cos(np.deg2rad(scene.settings.tilt)))


def test_true_places_are_seen_in_their_boxes(scene: Scene):
    space, truth = scene.space(5), scene.frame(5).truth
    assert len(truth) == len(space.centers) == len(space.sizes) > 3
    seen = (space.centers - space.position) @ space.rotation @ space.intrinsics.T
    pixels = seen[:, :2] / seen[:, 2:] + 0.5
    whole = (truth.boxes[:, :2] > 2).all(axis=1) & (truth.boxes[:, 2:] < (318, 238)).all(axis=1)
    inside = (pixels > truth.boxes[:, :2]).all(axis=1) & (pixels < truth.boxes[:, 2:]).all(axis=1)
    assert inside[whole].mean() > 0.9  # crowns cut the others


def test_every_depth_is_of_the_ground_or_of_a_vehicle_at_its_place(scene: Scene):
    space = scene.space(5)
    v, u = np.mgrid[:240, :320]
    rays = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3) @ np.linalg.inv(space.intrinsics).T
    points = space.depth.reshape(-1, 1) * rays @ space.rotation.T + space.position
    heights = points[:, 2]
    assert heights.min() > -0.01
    assert heights.max() < 4.0
    assert np.median(heights) == pytest.approx(0.0, abs=1e-3)
    for center, size in zip(space.centers, space.sizes, strict=True):
        near = np.linalg.norm(points[:, :2] - center[:2], axis=1) < size[1] / 4
        if near.sum() > 4:  # pixels at an edge may show the plane beyond it
            assert size[2] / 4 < np.median(heights[near]) <= size[2] + 0.01
