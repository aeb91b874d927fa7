"""Sentences about the ROS graph that need no second process; the others are in test_what_is_logged."""

from __future__ import annotations

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from kd_perception.ros import graph, qos
from kd_perception.ros.graph import COMPRESSED_TYPE, IMAGE_TYPE, ImageTopic

RAW, JPEG = ImageTopic('/image', IMAGE_TYPE, 'image'), ImageTopic('/image/compressed', COMPRESSED_TYPE, 'image')


@pytest.mark.parametrize(
    ('middleware', 'topic', 'largest', 'says', 'says_not'),
    [
        ('rmw_fastrtps_cpp', RAW, 921_600, 'fastdds_shm.xml), or use image_transport:=compressed', 'rate'),
        ('rmw_fastrtps_cpp', JPEG, 921_600, 'fastdds_shm.xml)', 'image_transport'),
        (
            'rmw_fastrtps_cpp',
            RAW,
            12_288,
            'lower the rate or the size of its images, or use image_transport',
            'Fast DDS',
        ),
        ('rmw_cyclonedds_cpp', RAW, 921_600, 'lower the rate or the size', 'Fast DDS'),
    ],
)
def test_the_cure_of_loss_fits_the_images_and_the_middleware(monkeypatch, middleware, topic, largest, says, says_not):
    monkeypatch.setattr(graph, 'get_rmw_implementation_identifier', lambda: middleware)
    cure = graph.cure_of_loss(topic, largest)
    assert says in cure
    assert says_not not in cure


BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
VOLATILE = QoSProfile(depth=1, durability=DurabilityPolicy.VOLATILE)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.mark.parametrize(
    ('publisher', 'subscription', 'policy'),
    [(BEST_EFFORT, VOLATILE, 'RELIABILITY'), (VOLATILE, LATCHED, 'DURABILITY')],
)
def test_the_policy_that_does_not_match_is_found(publisher, subscription, policy):
    assert qos.mismatch(publisher, subscription).name.endswith(policy)
