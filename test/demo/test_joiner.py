"""Frames joined from three topics: whole, in order, and bounded."""

import pytest

from kd_perception.demo.joiner import Joiner
from kd_perception.detection.detections import Detections

NOTHING = Detections.empty()
PARTS = {'image': 'picture', 'detections': NOTHING, 'latency': {'age': 1.0}}


@pytest.mark.parametrize('order', [('image', 'detections', 'latency'), ('latency', 'image', 'detections')])
def test_a_frame_comes_out_with_its_last_part(order: tuple[str, ...]) -> None:
    joiner = Joiner()
    results = [joiner.add(5, **{name: PARTS[name]}) for name in order]
    assert results[:2] == [[], []]
    assert [row.stamp for row in results[2]] == [5]


def test_a_frame_that_was_never_detected_goes_when_a_later_one_is_complete() -> None:
    joiner = Joiner()
    joiner.add(1, image='dropped')
    joiner.add(2, image='shown', detections=NOTHING)
    assert [row.stamp for row in joiner.add(2, latency={})] == [2]
    assert joiner.add(1, detections=NOTHING) == []
    assert joiner.flush() == []


def test_a_lost_latency_does_not_hold_a_frame_back() -> None:
    joiner = Joiner()
    joiner.add(1, image='a', detections=NOTHING)
    joiner.add(2, image='b', detections=NOTHING)
    assert [row.stamp for row in joiner.add(2, latency={})] == [1, 2]


def test_the_rest_comes_out_in_order_at_the_end() -> None:
    joiner = Joiner()
    for stamp in (3, 1, 2):
        joiner.add(stamp, image='a', detections=NOTHING)
    joiner.add(4, image='without detections')
    assert [row.stamp for row in joiner.flush()] == [1, 2, 3]


def test_what_waits_is_bounded() -> None:
    joiner = Joiner(capacity=10)
    for stamp in range(1000):
        joiner.add(stamp, image='a')
    for stamp in range(1000):
        joiner.add(stamp, detections=NOTHING)
    assert len(joiner.flush()) <= 10
