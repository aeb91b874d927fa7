"""`image_transport: auto` takes what is published, says so, and changes when the camera does."""

from __future__ import annotations

import time

import cv2
import pytest
from detector_process import wait_for
from networks import image_with_cells
from patience import patient
from sensor_msgs.msg import CompressedImage, Image

from kd_perception.ros import messages, qos


def show(client, image) -> None:
    """Send an image as PNG in the publisher's own form, again and again, until detections come.

    What is sent while the node changes its subscription is lost, as with any best-effort camera.
    """
    wait_for(client.camera.get_subscription_count, 'the subscription')
    png, seen = cv2.imencode('.png', image)[1].data.cast('B'), len(client.detections)

    def answered() -> bool:
        message = CompressedImage(header=client.now_header(), format='png')
        messages.fill_data(message, png)
        client.camera.publish(message)
        again = time.monotonic() + patient(1.0)
        while time.monotonic() < again and len(client.detections) == seen:
            time.sleep(0.01)
        return len(client.detections) > seen

    wait_for(answered, 'detections of the image')


@pytest.mark.parametrize(
    ('arguments', 'topic'),
    [([], '/image/compressed'), (['-r', 'image:=image/compressed'], '/image/compressed')],
    ids=['beside the base topic', 'remapped to the topic itself'],
)
def test_a_compressed_camera_is_found(start_detector, arguments, topic):
    detector = start_detector(client={'transport': 'compressed'}, arguments=arguments).wait_until_active()
    show(detector.client, image_with_cells(3))
    assert len(detector.client.detections[-1].detections) == 1
    wait_for(lambda: detector.client.value('input', 'topic') == topic, 'the topic')


def test_raw_images_are_preferred_and_left_when_their_camera_goes(start_detector):
    detector = start_detector()
    client = detector.client
    compressed = client.create_publisher(CompressedImage, 'image/compressed', qos.IMAGE)
    detector.wait_until_active()
    assert len(client.detect(image_with_cells(5)).detections) == 1
    assert client.value('input', 'topic') == '/image'
    client.destroy_publisher(client.camera)
    client.camera = compressed
    wait_for(compressed.get_subscription_count, 'the change to the compressed images')
    assert 'takes sensor_msgs/msg/CompressedImage from /image/compressed' in detector.log
    show(client, image_with_cells(5))


def test_a_camera_that_starts_after_the_node_is_found(start_detector):
    detector = start_detector()
    client = detector.client
    client.destroy_publisher(client.camera)
    wait_for(lambda: client.status('input'), 'the node')
    client.camera = client.create_publisher(CompressedImage, 'image/compressed', qos.IMAGE)
    wait_for(client.camera.get_subscription_count, 'its subscription')
    client.destroy_publisher(client.camera)
    client.camera = client.create_publisher(Image, 'image', qos.IMAGE)
    detector.wait_until_active()
    assert len(client.detect(image_with_cells(5)).detections) == 1
