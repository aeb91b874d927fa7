"""Boxes to positions by depth and on flat ground; nothing is lost without a cause."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.localization.camera import PinholeCamera
from kd_perception.localization.localizer import Cause, Localizer, LocalizerSettings, Location
from kd_perception.localization.transforms import IDENTITY, Transform

CAMERA = PinholeCamera.calibrated((400.0, 0, 319.5, 0, 400.0, 239.5, 0, 0, 1), (), '', 640, 480)
DEPTH = np.full((480, 640), 10.0, np.float32)
LOCALIZER = Localizer(LocalizerSettings())


def looking(pitch: float, yaw: float, height: float, x: float = 0.0, y: float = 0.0) -> Transform:
    """A camera that looks along map's x, `pitch` radians down and `yaw` to the left."""
    ahead = np.array([(0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)])
    cos, sin = np.cos(pitch), np.sin(pitch)
    down = np.array([(1, 0, 0), (0, cos, sin), (0, -sin, cos)])
    cos, sin = np.cos(yaw), np.sin(yaw)
    left = np.array([(cos, -sin, 0), (sin, cos, 0), (0, 0, 1)])
    return Transform(left @ ahead @ down, np.array([x, y, height]))


def test_a_box_in_the_middle_lies_straight_ahead():
    (found,) = LOCALIZER.by_depth(np.array([(300.0, 220.0, 340.0, 260.0)]), DEPTH, CAMERA, IDENTITY)
    assert found.position == pytest.approx((0, 0, 10))
    assert found.size == pytest.approx((1, 1, 0))
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx((0.05, 0.05, 0.1))


def test_depth_of_half_the_resolution_gives_the_same():
    boxes = np.array([(100.0, 100.0, 180.0, 220.0)])
    full, half = (LOCALIZER.by_depth(boxes, image, CAMERA, IDENTITY)[0] for image in (DEPTH, DEPTH[::2, ::2]))
    assert full.position == pytest.approx(half.position)


def test_every_detection_has_a_position_or_a_cause():
    depth = DEPTH.copy()
    depth[:, 320:] = 0
    depth[:240, :320] = 500.0
    boxes = np.array([(10, 300, 100, 400), (400, 300, 500, 400), (10, 10, 100, 100), (np.nan, 1, 2, 3)], np.float64)
    located, *causes = LOCALIZER.by_depth(boxes, depth, CAMERA, IDENTITY)
    assert isinstance(located, Location)
    assert causes == [Cause.NO_DEPTH, Cause.TOO_FAR, Cause.OUTSIDE_LENS]
    assert LOCALIZER.by_depth(np.zeros((0, 4)), depth, CAMERA, IDENTITY) == []


@pytest.mark.parametrize(
    ('pose', 'box', 'expected'),
    [
        # Level, 2 m above the ground: 80 px below the horizon is 0.2 m down a meter.
        (looking(0.0, 0.0, 2.0), (299.5, 200.0, 339.5, 319.5), (10.0, 0.0, 0.0)),
        (looking(0.0, np.pi / 2, 2.0), (299.5, 200.0, 339.5, 319.5), (0.0, 10.0, 0.0)),
        # Straight down from 40 m: the middle of the box, 40 px to the right is 4 m to the right.
        (looking(np.pi / 2, 0.0, 40.0), (339.5, 219.5, 379.5, 259.5), (0.0, -4.0, 0.0)),
        (looking(0.0, 0.0, 2.0), (299.5, 100.0, 339.5, 200.0), Cause.ABOVE_HORIZON),
        (looking(0.0, 0.0, 2.0), (299.5, 100.0, 339.5, 239.5), Cause.ABOVE_HORIZON),
        (looking(0.0, 0.0, 2.0), (299.5, 100.0, 339.5, 242.0), Cause.TOO_FAR),
        (looking(0.0, 0.0, -2.0), (299.5, 200.0, 339.5, 319.5), Cause.ABOVE_HORIZON),
    ],
)
def test_an_object_on_the_ground_stands_where_its_ray_meets_it(pose, box, expected):
    (found,) = LOCALIZER.on_ground(np.array([box], np.float64) + 0.5, CAMERA, pose)
    if isinstance(expected, Cause):
        assert found is expected
    else:
        assert found.position == pytest.approx(expected, abs=1e-9)


@given(
    pitch=st.floats(0.3, np.pi / 2),
    yaw=st.floats(-np.pi, np.pi),
    height=st.floats(1.0, 50.0),
    u=st.floats(0, 639),
    v=st.floats(0, 479),
)
def test_a_ground_point_is_seen_at_its_pixel(pitch, yaw, height, u, v):
    pose = looking(pitch, yaw, height, 3.0, -7.0)
    localizer = Localizer(LocalizerSettings(max_range=1e9, nadir_angle=90.0))
    (found,) = localizer.on_ground(np.array([(u - 5, v, u + 5, v)]) + 0.5, CAMERA, pose)
    if isinstance(found, Location):
        assert found.position[2] == pytest.approx(0.0, abs=1e-6 * height)
        assert CAMERA.pixels(pose.inverse().apply(found.position[None]))[0] == pytest.approx((u, v), abs=1e-3)
        assert (np.linalg.eigvalsh(found.covariance) > -1e-9).all()
    else:
        assert found is Cause.ABOVE_HORIZON


def test_the_covariance_says_how_far_points_scatter():
    pose, rng = looking(0.3, 0.5, 5.0), np.random.default_rng(0)
    center = np.array([300.0, 300.0])
    settings = LocalizerSettings(pixel_deviation=1.0, ground_deviation=0.0, nadir_angle=0.0)
    localizer = Localizer(settings)

    def at(pixel: np.ndarray) -> Location:
        return localizer.on_ground(np.array([(pixel[0] - 5, 200.0, pixel[0] + 5, pixel[1])]), CAMERA, pose)[0]

    points = np.array([at(center + rng.normal(0.0, 1.0, 2)).position for _ in range(2000)])
    assert np.cov(points.T)[:2, :2] == pytest.approx(at(center).covariance[:2, :2], rel=0.1, abs=2e-3)
