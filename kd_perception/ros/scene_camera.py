"""The node `scene_camera`: a camera that shows a synthetic flight, a video, a folder of images, a bag, or a live stream."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionClass

from kd_perception.bags.ground_truth import IGNORED, GroundTruth
from kd_perception.bags.sources import FrameSource, SourceError, SourceFrame, open_source
from kd_perception.bags.streams import StreamSource, is_stream
from kd_perception.detection.detections import Detections
from kd_perception.detection.image import BgrImage
from kd_perception.ros import messages, parameters, process, qos, scene_space
from kd_perception.scene import CLASS_NAMES

_LINGER = 0.5  # seconds between the last frame and the end, so that nothing is cut off on its way
_SETTLE = 0.3  # seconds between a matched subscription and the first frame: the other side matches a little later


class SceneCamera(Node):
    """Publishes `image`, stamped when it leaves.

    Synthetic flights have `ground_truth` under the same header, with the id `ignore` where too little is in sight, and
    `ground_truth/label_info` explains its class ids; with `depth` they have what `SpacePublisher` sends.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('scene_camera', **options)
        for spec in parameters.specs(parameters.SCENE_CAMERA).values():
            parameters.declare(self, spec)
        self._encoding, depth = self._setting('encoding'), self._setting('depth')
        if depth != scene_space.OFF and self._setting('source'):
            raise SourceError('depth is known of synthetic flights only: leave source empty')
        self._space = None if depth == scene_space.OFF else scene_space.SpacePublisher(self, depth)
        if is_stream(self._setting('source')):
            self._source: FrameSource = StreamSource(self._setting('source'), self.get_logger().warning)
        else:
            self._source = self._recorded()
        self._images = self.create_publisher(Image, 'image', qos_profile_sensor_data)
        self._truth = self.create_publisher(Detection2DArray, 'ground_truth', qos.DETECTIONS)
        self._labels = self.create_publisher(LabelInfo, 'ground_truth/label_info', qos.LATCHED)
        self._limit = self._setting('frames')
        self._frames = _repeated(self._source, self._setting('loop'))
        self._shown = 0
        self._next: SourceFrame | None = next(self._frames)
        if self._next is not None and self._next.truth is not None:
            classes = [VisionClass(class_id=index, class_name=name) for index, name in enumerate(CLASS_NAMES)]
            self._labels.publish(LabelInfo(class_map=classes))
        self._waiting = self.create_timer(0.02, self._await_subscribers)
        self._matched_at: int | None = None

    def _recorded(self) -> FrameSource:
        return open_source(
            self._setting('source'),
            topic=self._setting('source_topic'),
            seed=self._setting('seed'),
            width=self._setting('width'),
            height=self._setting('height'),
            fps=self._setting('fps') or 30.0,
            with_space=self._space is not None,
        )

    def _setting(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _await_subscribers(self) -> None:
        now = self.get_clock().now().nanoseconds
        wanted = self._setting('wait_for_subscribers')
        if self._images.get_subscription_count() < wanted:
            self._matched_at = None
            return
        if self._matched_at is None:
            self._matched_at = now
        if wanted == 0 or now - self._matched_at >= _SETTLE * 1e9:
            self.destroy_timer(self._waiting)
            fps = self._setting('fps') or self._source.fps
            if isinstance(self._source, StreamSource):
                self.get_logger().info(f'showing {self._source.name} as it comes')
                threading.Thread(target=self._show_stream, name='stream', daemon=True).start()
                return
            self.get_logger().info(f'showing {self._source.name} at {fps:g} frames/s')
            self._timer = self.create_timer(1.0 / fps, self._show)

    def _show_stream(self) -> None:
        """In a thread of its own: reading waits for the camera, as long as that may take."""
        for frame in self._frames:
            if not self.context.ok():
                return
            self._publish(frame)
            if self._setting('frames') and self._shown >= self._setting('frames'):
                self.context.try_shutdown()
                return

    def _show(self) -> None:
        """Publishes the frame that is ready, then gets the next one ready: its stamp is when it left."""
        frame = self._next
        if frame is None:
            self.destroy_timer(self._timer)
            self._end = self.create_timer(_LINGER, self.context.try_shutdown)
            return
        self._publish(frame)
        done = self._limit and self._shown >= self._limit
        self._next = None if done else next(self._frames, None)

    def _publish(self, frame: SourceFrame) -> None:
        header = messages.header_at(self.get_clock().now().nanoseconds, self._setting('frame_id'))
        self._images.publish(messages.image_message(self._coded(frame), header, self._encoding))
        if frame.truth is not None:
            self._truth.publish(ground_truth_message(frame.truth, header))
            if self._space is not None and frame.space is not None:
                self._space.publish(frame.space, frame.truth.objects, header)
        self._shown += 1

    def _coded(self, frame: SourceFrame) -> BgrImage:
        if self._encoding == 'bgr8':
            return frame.image
        return np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_BGR2RGB), np.uint8)

    def accounts(self) -> str:
        """One line on what was shown."""
        return f'{self._shown} frames of {self._source.name} published'


def ground_truth_message(truth: GroundTruth, header: Header) -> Detection2DArray:
    """Objects with their ids, then the regions in which nobody is judged, with the id `ignore`, as in bags."""
    count = len(truth.ignored)
    ignored = Detections(truth.ignored, np.ones(count, np.float32), np.zeros(count, np.int32))
    regions = messages.detections_message(ignored, header).detections
    for region in regions:
        region.id = IGNORED
    return Detection2DArray(
        header=header, detections=[*messages.detections_message(truth.objects, header).detections, *regions]
    )


def _repeated(source: FrameSource, loop: bool) -> Iterator[SourceFrame]:
    yield from source.frames()
    while loop:
        yield from source.frames()


def main(args: list[str] | None = None) -> int:
    """Run the camera until its last frame, SIGINT or SIGTERM."""
    return process.run(SceneCamera, 'scene_camera', args)


if __name__ == '__main__':
    sys.exit(main())
