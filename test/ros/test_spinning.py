"""What is spun beside the program goes on whatever the program destroys meanwhile."""

from __future__ import annotations

import threading

import pytest
from detector_process import wait_for
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Header

from kd_perception.ros import spinning


@pytest.fixture
def destroyed_at_the_worst_moment(monkeypatch):
    """Publishers that another thread destroys once the executor has listed their events, before it waits for them."""
    doomed = []

    class Unlucky(SingleThreadedExecutor):
        def can_execute(self, entity):
            for node, publisher in [entry for entry in doomed if entity in entry[1].event_handlers]:
                doomed.clear()
                other = threading.Thread(target=node.destroy_publisher, args=(publisher,))
                other.start()
                other.join()
            return super().can_execute(entity)

    monkeypatch.setattr(spinning, 'SingleThreadedExecutor', Unlucky)
    return doomed


@pytest.mark.usefixtures('_rclpy')
def test_a_node_is_spun_on_when_another_thread_destroys_what_it_is_about_to_wait_for(destroyed_at_the_worst_moment):
    node, ticks = Node('spun_on'), []
    events = PublisherEventCallbacks(incompatible_qos=lambda _: None)
    publisher = node.create_publisher(Header, 'spun_on', 1, event_callbacks=events)
    node.create_timer(0.01, lambda: ticks.append(len(destroyed_at_the_worst_moment)))
    with spinning.spinning(node):
        wait_for(lambda: ticks, 'the node')
        destroyed_at_the_worst_moment.append((node, publisher))
        wait_for(lambda: publisher not in node.publishers, 'its destruction')
        seen = len(ticks)
        wait_for(lambda: len(ticks) > seen + 2, 'more of its timer', timeout=20.0)
