"""A camera in a process of its own: synthetic frames, painted beforehand, sent at an even rate until it is told to stop."""

from __future__ import annotations

import argparse
import json
import time

import rclpy
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import Image

from kd_perception.ros import messages, qos
from kd_perception.scene import Scene

RING = 24
"""Frames painted before the first is sent: painting at 30 Hz would take the processor from what is measured."""


def main() -> None:
    """Publish on `image` until SIGINT or SIGTERM, then print how many frames were sent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--height', type=int, default=480)
    parser.add_argument('--rate', type=float, default=30.0)
    options = parser.parse_args()
    scene = Scene(0, options.width, options.height)
    rclpy.init()
    node = rclpy.create_node('benchmark_camera')
    publisher = node.create_publisher(Image, 'image', qos.IMAGE)
    ring = [messages.image_message(scene.frame(5 * k).image, messages.header_at(0, 'camera')) for k in range(RING)]
    print('ready', flush=True)
    sent, due = 0, time.monotonic()
    try:
        while rclpy.ok():
            message = ring[sent % RING]
            message.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(message)
            sent += 1
            due += 1 / options.rate
            time.sleep(max(0.0, due - time.monotonic()))
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        print(json.dumps({'sent': sent}), flush=True)
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()
