"""Core values become messages and come back."""

from __future__ import annotations

import numpy as np
import pytest
from sensor_msgs.msg import Image

from kd_perception.detection.detections import Detections
from kd_perception.detection.stage_times import STAGES, StageTimes
from kd_perception.errors import ImageError
from kd_perception.ros import messages

HEADER = messages.header_at(1_234_567_890_123, 'camera')


def test_detections_survive_the_message():
    found = Detections(
        np.array([[1, 2, 30.5, 40], [0, 0, 8, 8]], np.float32), np.array([0.9, 0.25], np.float32), np.array([3, 0])
    )
    message = messages.detections_message(found, HEADER)
    assert messages.from_detections_message(message) == found
    first = message.detections[0]
    assert (first.bbox.center.position.x, first.bbox.size_x, first.bbox.center.theta) == (15.75, 29.5, 0.0)
    assert (first.results[0].hypothesis.class_id, first.id) == ('3', '')


def test_stamps_survive_to_the_nanosecond():
    assert messages.stamp_ns(HEADER) == 1_234_567_890_123


def test_images_survive_raw_exactly_and_jpeg_nearly():
    image = np.full((48, 64, 3), (10, 100, 200), np.uint8)
    np.testing.assert_array_equal(messages.to_bgr(messages.image_message(image, HEADER), 10**6), image)
    decoded = messages.to_bgr(messages.jpeg_message(image, HEADER), 10**6)
    assert np.abs(decoded.astype(int) - image).max() <= 3


def test_a_view_with_gaps_is_published_tight():
    image = np.arange(20 * 20 * 3, dtype=np.uint8).reshape(20, 20, 3)
    message = messages.image_message(image[::2, 5:15], HEADER)
    assert (message.height, message.width, message.step) == (10, 10, 30)
    np.testing.assert_array_equal(messages.to_bgr(message, 10**6), image[::2, 5:15])


def test_a_raw_image_over_the_limit_is_refused_before_its_data_is_looked_at():
    with pytest.raises(ImageError, match='max_image_pixels'):
        messages.to_bgr(Image(width=100_000, height=100_000, encoding='mono8', step=100_000), 10**6)


def test_frame_latency_lists_the_stages_in_order():
    message = messages.frame_latency_message(StageTimes(infer=1.25, age=2.0), HEADER, 'robot/detector', '/front')
    assert (message.status[0].hardware_id, message.status[0].name) == ('robot/detector', 'frame_latency/front')
    assert [v.key for v in message.status[0].values] == list(STAGES)
    assert {v.key: v.value for v in message.status[0].values}['infer'] == '1.250'
    assert message.header == HEADER
