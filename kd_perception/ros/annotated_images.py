"""The annotated picture, drawn and sent by a thread of its own: detections wait for none of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from kd_perception.detection.detections import Detections
from kd_perception.detection.drawing import draw
from kd_perception.detection.image import BgrImage
from kd_perception.ros import graph, messages, qos
from kd_perception.runtime.latest_frame_queue import LatestFrameQueue

CreatePublisher = Callable[[LifecycleNode, type, str, Any], Any]


class _Picture(NamedTuple):
    header: Header
    image: BgrImage
    detections: Detections
    classes: tuple[str, ...]


class AnnotatedImages:
    """The topic `image_annotated` of one camera. While a picture is drawn, only the newest of those that come waits.

    Attributes:
        publisher: what has to be destroyed after `close`.
    """

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        *,
        compressed: bool,
        create: CreatePublisher,
        fault: Callable[[str], None],
    ) -> None:
        """See the class.

        Args:
            node: publishes.
            prefix: of the topic's name.
            compressed: JPEG, under the name that image_transport gives such a topic.
            create: makes a lifecycle publisher.
            fault: takes a line about a picture that could not be sent.
        """
        topic = str(node.resolve_topic_name(f'{prefix}image_annotated')) + (graph.COMPRESSED if compressed else '')
        self.publisher = create(node, CompressedImage if compressed else Image, topic, qos.IMAGE)
        self._make: Callable[[BgrImage, Header], Any] = messages.jpeg_message if compressed else messages.image_message
        self._fault = fault
        self._queue: LatestFrameQueue[_Picture] = LatestFrameQueue()
        self._thread = threading.Thread(target=self._run, name='annotated_images', daemon=True)
        self._thread.start()

    def offer(self, header: Header, image: BgrImage, detections: Detections, classes: tuple[str, ...]) -> None:
        """Leave a picture, if somebody listens. `image` is not written to, and nobody else may."""
        if self.publisher.get_subscription_count():
            self._queue.put(_Picture(header, image, detections, classes))

    def close(self) -> None:
        """Finish the picture in work and draw no more."""
        self._queue.close()
        self._thread.join()

    def _run(self) -> None:
        while (picture := self._queue.take()) is not None:
            try:
                drawn = draw(picture.image.copy(), picture.detections, picture.classes)
                self.publisher.publish(self._make(drawn, picture.header))
            except Exception as error:
                self._fault(f'annotated image not published: {error}')
