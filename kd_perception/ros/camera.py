"""One camera of the node: its subscription, its pictures, what is published of them, and the accounts of its frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from kd_perception.detection.detections import Detections
from kd_perception.detection.drawing import draw
from kd_perception.detection.image import BgrImage
from kd_perception.detection.stage_times import StageTimes
from kd_perception.ros import diagnostics, messages, qos
from kd_perception.ros.input_monitor import InputMonitor, age_ms
from kd_perception.runtime.frame_counters import FrameCounters, RateMeter, RollingStageTimes
from kd_perception.runtime.pipeline import Frame

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

try:
    from rclpy.subscription import MessageInfo
except ImportError:  # Humble does not tell sequence numbers
    MessageInfo = None

LARGE_MESSAGE_HINT = (
    "images over 0.5 MB are lost by Fast DDS without the shared-memory profile in the camera's environment (README)"
)


class Camera:
    """Made for the node's life; publishers and subscription come and go with the lifecycle.

    Attributes:
        name: the namespace of its topics; empty for the only camera.
        slot: its slot in the pipeline's queue.
        counters: what became of its frames.
        monitor: what is known of its input.
        times: rolling stage times of its published frames.
        budget_misses: published frames that were older than the budget.
    """

    def __init__(self, node: LifecycleNode, name: str, slot: int, window: int) -> None:
        self.name = name
        self.slot = slot
        self.counters = FrameCounters()
        self.monitor = InputMonitor()
        self.times = RollingStageTimes(window)
        self.budget_misses = 0
        self._node = node
        self._published = RateMeter()
        self._writer = messages.DetectionsWriter()
        self._tells_numbers = False
        self._subscription: Any = None
        self._publishers: list[Any] = []
        self._prefix = f'{name}/' if name else ''

    def _setting(self, name: str) -> Any:
        return self._node.get_parameter(name).value

    def _topic(self, name: str) -> str:
        return str(self._node.resolve_topic_name(self._prefix + name))

    # Publishers and subscription

    def create_publishers(self, frame_latency: Any) -> None:
        """At configure; `frame_latency` is the publisher that all cameras share."""
        self._frame_latency = frame_latency
        self._detections = lifecycle_publisher(
            self._node, Detection2DArray, self._prefix + 'detections', qos.DETECTIONS
        )
        if self._setting('annotated_transport') == 'compressed':
            topic = self._topic('image_annotated') + '/compressed'
            self._annotated = lifecycle_publisher(self._node, CompressedImage, topic, qos.IMAGE)
        else:
            self._annotated = lifecycle_publisher(self._node, Image, self._prefix + 'image_annotated', qos.IMAGE)
        self._publishers = [self._detections, self._annotated]

    def destroy_publishers(self) -> None:
        """At cleanup; where there are none, nothing happens."""
        while self._publishers:
            self._node.destroy_lifecycle_publisher(self._publishers.pop())

    def subscribe(self, receive: Callable[[Frame], None]) -> None:
        """At activate; `receive` is called with every frame, in the executor's thread."""
        self._receive = receive
        self._subscription = self._node.create_subscription(
            CompressedImage if self._takes_compressed() else Image,
            self.image_topic(),
            self._on_image if MessageInfo is None else self._on_numbered_image,
            qos.IMAGE,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._on_incompatible_qos, message_lost=self._on_message_lost
            ),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def unsubscribe(self) -> None:
        """At deactivate; where there is no subscription, nothing happens."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._node.destroy_subscription(subscription)
            self.monitor = InputMonitor()

    def image_topic(self) -> str:
        """The resolved name of what is subscribed to."""
        return self._topic('image') + ('/compressed' if self._takes_compressed() else '')

    def _takes_compressed(self) -> bool:
        return self._setting('image_transport') == 'compressed'

    # Callbacks of the executor's thread

    def _on_numbered_image(self, message: Image | CompressedImage, info: dict[str, Any]) -> None:
        publisher, number = info.get('publisher_gid'), info.get('publication_sequence_number')
        self._tells_numbers = bool(publisher and number)
        if publisher and number:
            self.monitor.numbered(publisher['data'], number)
        self._on_image(message)

    def _on_image(self, message: Image | CompressedImage) -> None:
        monotonic, clock_ns = time.monotonic(), self._node.get_clock().now().nanoseconds
        self.counters.receive()
        transport = self.monitor.arrived(messages.stamp_ns(message.header), clock_ns, monotonic)
        self._receive(Frame(self, message, transport, monotonic))

    def _on_incompatible_qos(self, event: Any) -> None:
        self.monitor.incompatibility = qos.incompatibility(self.image_topic(), event.last_policy_kind, 'subscription')
        self._node.get_logger().warning(self.monitor.incompatibility)

    def _on_message_lost(self, event: Any) -> None:
        """Sequence numbers tell more: also what newer messages overwrote in the reader."""
        if not self._tells_numbers:
            self.monitor.lost += event.total_count_change

    # What the pipeline asks of a source, see `kd_perception.runtime.pipeline.Source`

    def age_ms(self, message: Image | CompressedImage) -> float:
        """Milliseconds from the message's stamp to now; 0 where it has none."""
        return age_ms(messages.stamp_ns(message.header), self._node.get_clock().now().nanoseconds)

    def decode(self, message: Image | CompressedImage) -> BgrImage:
        """The picture; raises ImageError where there is none."""
        return messages.to_bgr(message, self._setting('max_image_pixels'))

    def rejects(self, reason: str) -> None:
        """Take note of why the newest picture could not be decoded; empty when it could."""
        self.monitor.rejection = reason
        if reason:
            self._node.get_logger().warning(f'image rejected: {reason}', throttle_duration_sec=5.0)

    def publish(self, message: Image | CompressedImage, detections: Detections) -> None:
        """Send the detections of a frame under the frame's own header."""
        self._detections.publish(self._writer.message(detections, message.header))

    def published(self, times: StageTimes, at: float) -> None:
        """Take in the stage times of a frame that was published at a moment of the monotonic clock."""
        self._published.tick(at)
        self.times.add(times)
        self.budget_misses += times.age > self._setting('latency_budget_ms')

    def publish_extras(
        self,
        message: Image | CompressedImage,
        image: BgrImage,
        detections: Detections,
        times: StageTimes,
        classes: tuple[str, ...],
    ) -> None:
        """Send the frame's stage times and the annotated image, if somebody listens to them."""
        header = message.header
        if self._frame_latency.get_subscription_count():
            self._frame_latency.publish(messages.frame_latency_message(times, header, self._node.get_name(), self.name))
        if self._annotated.get_subscription_count():
            picture = draw(image.copy(), detections, classes)
            compressed = self._setting('annotated_transport') == 'compressed'
            make = messages.jpeg_message if compressed else messages.image_message
            self._annotated.publish(make(picture, header))

    # Diagnostics

    def statuses(self, now: float, lifecycle: str, enabled: bool) -> list[DiagnosticStatus]:
        """The tasks `input` and `latency`, with the camera's name behind them where it has one."""
        tasks = [
            diagnostics.input_status(
                diagnostics.InputView(
                    topic=self.image_topic(),
                    lifecycle=lifecycle,
                    enabled=enabled,
                    timeout=self._setting('input_timeout_s'),
                    monotonic=now,
                    hint=self._hint(),
                    monitor=self.monitor,
                    counts=self.counters.snapshot(),
                )
            ),
            diagnostics.latency_status(
                diagnostics.LatencyView(
                    budget_ms=self._setting('latency_budget_ms'),
                    budget_misses=self.budget_misses,
                    fps_out=self._published.rate(now),
                    percentiles=self.times.percentiles(),
                )
            ),
        ]
        for task in tasks:
            task.name = '/'.join(filter(None, [task.name, self.name.strip('/')]))
        return tasks

    def accounts(self) -> str:
        """One line on what became of every frame."""
        counts = self.counters.snapshot()
        dropped = ', '.join(f'{count} {cause}' for cause, count in counts.dropped.items() if count) or 'none'
        who = f'{self.name}: ' if self.name else ''
        return f'{who}{counts.received} frames received, {counts.published} published, dropped: {dropped}'

    def _hint(self) -> str:
        """Why no image may be coming."""
        topic = self.image_topic()
        wanted = f'sensor_msgs/msg/{"CompressedImage" if self._takes_compressed() else "Image"}'
        publishers = self._node.get_publishers_info_by_topic(topic)
        if not publishers:
            remap = f'{self._prefix}image:=/camera/image_raw'
            return f'nobody publishes on {topic}; remap it to the camera: {remap}'
        if all(publisher.topic_type != wanted for publisher in publishers):
            return f'{topic} carries {publishers[0].topic_type}, not {wanted}; set image_transport'
        return f'{len(publishers)} publisher(s) on {topic}, but nothing arrives; {LARGE_MESSAGE_HINT}'


def lifecycle_publisher(node: LifecycleNode, kind: type, topic: str, profile: QoSProfile) -> Any:
    """A lifecycle publisher that warns in words of subscriptions that cannot match it."""
    events = PublisherEventCallbacks(
        incompatible_qos=lambda event: node.get_logger().warning(
            qos.incompatibility(node.resolve_topic_name(topic), event.last_policy_kind, 'publisher')
        )
    )
    return node.create_lifecycle_publisher(kind, topic, profile, event_callbacks=events)
