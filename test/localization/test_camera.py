"""Pixels to rays and back, for every distortion model, and calibrations that are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_perception.localization.camera import CalibrationError, PinholeCamera

K = (400.0, 0.0, 319.5, 0.0, 410.0, 239.5, 0.0, 0.0, 1.0)
MODELS = [
    ('', ()),
    ('plumb_bob', (0.0, 0.0, 0.0, 0.0, 0.0)),
    ('plumb_bob', (-0.28, 0.07, 0.0002, 0.00002, 0.0)),
    ('plumb_bob', (0.12, -0.2, 0.001, -0.002, 0.05)),
    ('rational_polynomial', (0.2, 0.1, 0.0003, -0.0002, 0.01, 0.5, 0.2, 0.03)),
    ('equidistant', (-0.01, 0.02, -0.01, 0.002)),
]


@pytest.mark.parametrize(('model', 'distortion'), MODELS)
@given(x=st.floats(-0.6, 0.6), y=st.floats(-0.45, 0.45), z=st.floats(0.1, 1000.0))
def test_the_ray_through_the_pixel_of_a_point_goes_to_the_point(model, distortion, x, y, z):
    camera = PinholeCamera.calibrated(K, distortion, model, 640, 480)
    pixel = camera.pixels(np.array([(x * z, y * z, z)]))
    assert camera.rays(pixel)[0] == pytest.approx((x, y, 1.0), abs=1e-3)


def test_the_principal_point_looks_straight_ahead_and_a_focal_length_beside_it_is_45_degrees():
    camera = PinholeCamera.calibrated(K, (), '', 640, 480)
    assert camera.rays(np.array([(319.5, 239.5), (719.5, 649.5)])).tolist() == [[0, 0, 1], [1, 1, 1]]


def test_a_pixel_outside_of_the_lens_has_no_ray():
    camera = PinholeCamera.calibrated(K, (-0.28, 0.0, 0.0, 0.0), 'plumb_bob', 640, 480)
    assert np.isnan(camera.rays(np.array([(720.0, 239.5)]))).all()


def test_no_pixels_have_no_rays():
    for model, distortion in MODELS:
        assert PinholeCamera.calibrated(K, distortion, model, 640, 480).rays(np.zeros((0, 2))).shape == (0, 3)


def test_a_window_with_binning_sees_the_same_ray():
    camera = PinholeCamera.calibrated(K, (), '', 640, 480)
    part = camera.window(100, 60, 2, 2)
    assert (part.width, part.height) == (320, 240)
    assert part.rays(np.array([(50.0, 40.0)])) == pytest.approx(camera.rays(np.array([(200.0, 140.0)])))


@pytest.mark.parametrize(
    ('matrix', 'distortion', 'model', 'size', 'says'),
    [
        ((0.0,) * 9, (), '', (640, 480), 'not calibrated'),
        ((np.nan, *K[1:]), (), '', (640, 480), 'no numbers'),
        (K, (0.1,) * 5, 'kannala', (640, 480), 'plumb_bob'),
        (K, (0.1,) * 5, 'equidistant', (640, 480), '5 distortion coefficients'),
        (K, (np.inf,) * 5, 'plumb_bob', (640, 480), 'no numbers'),
        (K, (), '', (0, 480), '0x480'),
    ],
)
def test_what_is_no_calibration_is_refused_in_a_sentence(matrix, distortion, model, size, says):
    with pytest.raises(CalibrationError, match=says):
        PinholeCamera.calibrated(matrix, distortion, model, *size)
