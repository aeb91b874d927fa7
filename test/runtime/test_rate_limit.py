"""At most so many frames a second, evenly, whatever the camera's rhythm."""

from __future__ import annotations

import pytest

from kd_perception.runtime.rate_limit import RateLimit


@pytest.mark.parametrize(
    ('camera_hz', 'rate_hz', 'expected'),
    [
        (30, 0, 30),
        (30, 10, 10),
        (30, 15, 15),
        (30, 30, 30),
        (30, 60, 30),
        (30, 7, 7),
        (30, 20, 20),
        (30, 0.5, 0.5),
        (1, 10, 1),
    ],
)
def test_rates(camera_hz, rate_hz, expected):
    limit, seconds = RateLimit(), 60
    times = [1000 + i / camera_hz for i in range(seconds * camera_hz)]
    taken = sum(not limit.exceeds(rate_hz, now) for now in times)
    assert taken / seconds == pytest.approx(expected, rel=0.12)


def test_a_camera_that_trembles_at_the_rate_itself_loses_nothing():
    limit = RateLimit()
    times = [i / 30 + (0.002 if i % 2 else 0) for i in range(300)]
    assert not any(limit.exceeds(30, now) for now in times)


def test_after_a_pause_there_is_no_burst():
    limit = RateLimit()
    assert [limit.exceeds(1, now) for now in (0.0, 100.0, 100.1, 100.2, 101.0)] == [False, False, True, True, False]
