"""Images reach the node by its own receiver and reader, and by rclpy's message objects where the middleware needs them."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest
import rclpy
from detector_process import wait_for
from networks import image_with_cells
from patience import PATIENCE
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import String

from kd_perception.ros import messages
from kd_perception.ros.image_receiver import ImageReceiver

GOOD = image_with_cells(5)


@pytest.mark.parametrize('is_read_directly', [True, False])
def test_both_ways_find_the_same_and_refuse_the_same(start_node, monkeypatch, is_read_directly):
    monkeypatch.setattr(messages, 'transports_cdr', lambda: is_read_directly)
    running = start_node()
    running.client.camera.publish(Image(header=running.client.now_header(), height=1, width=1, encoding='bgr8', step=2))
    running.wait_for_counts(dropped_undecodable=1)
    running.client.wait_for_status('input', 'step is 2 but a row has 3 bytes')
    found = running.client.detect(GOOD, frame_id='a_camera')
    assert (found.header.frame_id, len(found.detections), found.detections[0].header) == ('a_camera', 1, found.header)
    running.wait_for_counts(received=2, published=1, dropped_undecodable=1)


def test_bytes_that_are_no_message_are_counted_and_the_next_image_is_detected(start_node):
    running = start_node()
    client = running.client
    whole = serialize_message(messages.image_message(GOOD, client.now_header()))
    for number, content in enumerate((b'\xff' * 100, whole[:60]), 1):
        client.camera.publish(content)
        running.wait_for_counts(received=2 * number - 1, published=number - 1, dropped_undecodable=number)
        assert len(client.detect(GOOD).detections) == 1


@pytest.fixture
def node(_rclpy: None) -> Iterator[Node]:
    node = rclpy.create_node('received_beside_the_executor')
    yield node
    node.destroy_node()


def test_a_receiver_needs_no_executor_and_outlives_a_fault(node):
    received: queue.SimpleQueue[str] = queue.SimpleQueue()

    def receive(message: String, _: object) -> None:
        received.put(message.data)
        if message.data == 'faulty':
            raise RuntimeError('a fault of the receiver of this message')

    publisher = node.create_publisher(String, 'words', 10)
    subscription = node.create_subscription(String, 'words', receive, 10)
    receiver = ImageReceiver(node, subscription, receive)
    wait_for(publisher.get_subscription_count, 'the subscription')
    for word in ('first', 'faulty', 'last'):
        publisher.publish(String(data=word))
        assert received.get(timeout=PATIENCE) == word
    receiver.end()
    publisher.publish(String(data='too late'))
    assert received.empty()


def test_a_receiver_ends_while_nothing_comes_and_after_its_node(node):
    subscription = node.create_subscription(String, 'words', print, 10)
    receiver = ImageReceiver(node, subscription, print)
    node.destroy_subscription(subscription)
    receiver.end()
