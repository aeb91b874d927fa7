"""Positions on synthetic flights, from above and oblique, against the true ones, in meters."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.localization.camera import PinholeCamera
from kd_perception.localization.localizer import Localizer, LocalizerSettings, Location
from kd_perception.localization.transforms import Transform
from kd_perception.scene import Scene, SceneSettings

LOCALIZER = Localizer(LocalizerSettings(max_range=1000.0))


@pytest.mark.parametrize(('mode', 'limit'), [('depth', 0.03), ('ground', 0.05)])
@pytest.mark.parametrize('tilt', [0.0, 28.0])
def test_the_median_error_is_a_small_share_of_the_range(tilt: float, mode: str, limit: float):
    scene = Scene(4, 320, 240, settings=SceneSettings(ground_sample_distance=0.12, focal_ratio=0.75, tilt=tilt))
    space, truth = scene.space(0), scene.frame(0).truth
    camera = PinholeCamera.calibrated(space.intrinsics.ravel().tolist(), (), '', 320, 240)
    pose = Transform(space.rotation, space.position)
    boxes = truth.boxes + np.random.default_rng(0).normal(0.0, 1.5, truth.boxes.shape)
    if mode == 'depth':
        answers = LOCALIZER.by_depth(boxes, (space.depth * 1000).astype(np.uint16), camera, pose)
    else:
        answers = LOCALIZER.on_ground(boxes, camera, pose)
    assert len(answers) > 3
    assert all(isinstance(answer, Location) for answer in answers)
    errors = [np.linalg.norm(a.position - c) for a, c in zip(answers, space.centers, strict=True)]
    ranges = np.linalg.norm(space.centers - space.position, axis=1)
    assert np.median(errors / ranges) <= limit
