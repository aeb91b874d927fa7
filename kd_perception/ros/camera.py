"""One camera of the node: its subscription, its pictures, what is published of them, and the counters of its frames."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from kd_perception.detection.detections import Detections
from kd_perception.detection.image import BgrImage
from kd_perception.detection.stage_times import StageTimes
from kd_perception.errors import ImageError, KdPerceptionError
from kd_perception.ros import cdr, diagnostics, graph, messages, qos
from kd_perception.ros.annotated_images import AnnotatedImages
from kd_perception.ros.image_receiver import ImageReceiver
from kd_perception.ros.input_monitor import InputMonitor, InputState, age_ms
from kd_perception.ros.overlays import Overlays
from kd_perception.ros.parameter_node import ParameterNode
from kd_perception.runtime.frame import Frame
from kd_perception.runtime.frame_counters import FrameCounters, RateMeter, RollingStageTimes

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

ImageMessage: TypeAlias = Image | CompressedImage | cdr.ReceivedImage


class SubscriptionError(KdPerceptionError):
    """A topic that cannot be subscribed to as the parameters want it."""


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

    def __init__(self, node: ParameterNode, name: str, slot: int, window: int) -> None:
        self.name = name
        self.slot = slot
        self.counters = FrameCounters()
        self.monitor = InputMonitor()
        self.times = RollingStageTimes(window)
        self.budget_misses = 0
        self._extras_ms: deque[float] = deque(maxlen=window)
        self._node = node
        self._node_name = node.get_fully_qualified_name().lstrip('/')
        self._published = RateMeter()
        self._tells_numbers = False
        self._subscription: Any = None
        self._receiver: ImageReceiver | None = None
        self._source: graph.Source = ('', '')
        self._publishers: list[Any] = []
        self._prefix = f'{name}/' if name else ''
        self._undecodable_before = 0

    def _setting(self, name: str) -> Any:
        return self._node.setting(name)

    def _topic(self, name: str) -> str:
        return str(self._node.resolve_topic_name(self._prefix + name))

    # Publishers and subscription

    def create_publishers(self, frame_latency: Any) -> None:
        """At configure; `frame_latency` is the publisher that all cameras share."""
        self._frame_latency = frame_latency
        self._detections = lifecycle_publisher(
            self._node, Detection2DArray, self._prefix + 'detections', qos.DETECTIONS
        )
        self._annotated = AnnotatedImages(
            self._node,
            self._prefix,
            compressed=self._setting('annotated_transport') == 'compressed',
            create=lifecycle_publisher,
            fault=lambda line: self._node.get_logger().error(line, throttle_duration_sec=5.0),
        )
        self._overlays = Overlays(self._node, self._prefix, lifecycle_publisher)
        self._publishers = [self._detections, self._annotated.publisher, *self._overlays.publishers]

    def destroy_publishers(self) -> None:
        """At cleanup; where there are none, nothing happens."""
        if self._publishers:
            self._annotated.close()
        while self._publishers:
            self._node.destroy_lifecycle_publisher(self._publishers.pop())

    def subscribe(self, receive: Callable[[Frame], None]) -> None:
        """At activate; `receive` is called with every frame, in the executor's thread.

        Raises:
            SubscriptionError: ROS refuses the subscription.
        """
        self._receive = receive
        self.monitor.begin(time.monotonic())
        self.times.clear()
        sources = self._sources()
        self._source = graph.published_source(self._node, sources, sources[0])
        self._subscribe()

    def follow_publishers(self) -> None:
        """With `image_transport: auto`, change to where images are published once nobody publishes on the present topic."""
        if self._subscription is None or self._setting('image_transport') != 'auto':
            return
        source = graph.published_source(self._node, self._sources(), self._source)
        if source == self._source:
            return
        self._node.get_logger().info(f'image_transport auto: takes {source[1]} from {source[0]}')
        self.unsubscribe()
        before, self._source = self._source, source
        try:
            self._subscribe()
        except SubscriptionError as error:
            self._node.get_logger().error(str(error))
            self._source = before
            self._subscribe()

    def _sources(self) -> list[graph.Source]:
        """What may be subscribed to, the preferred one first. Both `image` and `image/compressed` may be remapped."""
        raw = self._topic('image')
        compressed = str(self._node.resolve_topic_name(raw + graph.COMPRESSED))
        sources = {
            'raw': [(raw, graph.IMAGE_TYPE)],
            'compressed': [(compressed, graph.COMPRESSED_TYPE)],
        }
        # A user may also have remapped `image` to the compressed topic itself.
        sources['auto'] = [*sources['raw'], *sources['compressed'], (raw, graph.COMPRESSED_TYPE)]
        return sources[self._setting('image_transport')]

    def _subscribe(self) -> None:
        topic, kind = self._source
        try:
            self._subscription = self._node.create_subscription(
                CompressedImage if kind == graph.COMPRESSED_TYPE else Image,
                topic,
                self._on_image,
                qos.IMAGE,
                raw=messages.transports_cdr(),
                event_callbacks=SubscriptionEventCallbacks(
                    incompatible_qos=self._on_incompatible_qos, message_lost=self._on_message_lost
                ),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        except (RuntimeError, ValueError, ParameterException) as error:
            raise SubscriptionError(f'cannot subscribe to {topic}: {error} (qos_overrides of this topic?)') from error
        self._receiver = ImageReceiver(self._node, self._subscription, self._on_image)

    def unsubscribe(self) -> None:
        """At deactivate; where there is no subscription, nothing happens."""
        subscription, self._subscription = self._subscription, None
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.end()
        if subscription is not None:
            self._node.destroy_subscription(subscription)

    def image_topic(self) -> str:
        """The resolved name of what is subscribed to, or would be."""
        return (self._source if self._subscription else self._sources()[0])[0]

    # In the receiver's thread

    def _on_image(self, message: Image | CompressedImage | bytes, info: dict[str, Any]) -> None:
        publisher, number = info.get('publisher_gid'), info.get('publication_sequence_number')
        self._tells_numbers = bool(publisher and number)
        if publisher and number:
            self.monitor.numbered(publisher['data'], number)
        monotonic, clock_ns = time.monotonic(), self._node.get_clock().now().nanoseconds
        self.counters.receive()
        try:
            image = self._read(message) if isinstance(message, bytes) else message
        except ImageError as error:
            self.monitor.arrived(0, clock_ns, monotonic, len(message))
            self.counters.drop('undecodable')
            self.rejects(str(error))
            return
        stamp = _stamp_ns(image)
        self._receive(Frame(self, image, age_ms(stamp, clock_ns), monotonic))
        self.monitor.arrived(stamp, clock_ns, monotonic, len(image.data))

    def _read(self, content: bytes) -> ImageMessage:
        """What we cannot read ourselves, rclpy may."""
        kind = self._subscription.msg_type
        try:
            return cdr.read_image(content) if kind is Image else cdr.read_compressed_image(content)
        except cdr.CdrError as error:
            try:
                return deserialize_message(content, kind)
            except Exception:  # each middleware has errors of its own
                raise error from None

    # Callbacks of the executor's thread

    def _on_incompatible_qos(self, _: Any) -> None:
        """Diagnostics say it, for as long as the graph shows such a publisher."""

    def _on_message_lost(self, event: Any) -> None:
        """Sequence numbers tell more: also what newer messages overwrote in the reader."""
        if not self._tells_numbers:
            self.monitor.count_lost(event.total_count_change)

    # What the pipeline asks of a source, see `kd_perception.runtime.frame.Source`

    def seconds(self, message: ImageMessage) -> float:
        """The message's stamp; 0 where it has none."""
        return _stamp_ns(message) / 1e9

    def age_ms(self, message: ImageMessage) -> float:
        """Milliseconds from the message's stamp to now; 0 where it has none."""
        return age_ms(_stamp_ns(message), self._node.get_clock().now().nanoseconds)

    def decode(self, message: ImageMessage) -> BgrImage:
        """The picture; raises ImageError where there is none."""
        return messages.to_bgr(message, self._setting('max_image_pixels'))

    def rejects(self, reason: str) -> None:
        """Take note of why the newest picture could not be decoded; empty when it could."""
        self.monitor.rejection = reason

    def publish(self, message: ImageMessage, detections: Detections, classes: tuple[str, ...]) -> None:
        """Send the detections of a frame under the frame's own header."""
        names = classes if self._setting('class_id_form') == 'name' else ()
        if isinstance(message, cdr.ReceivedImage):
            self._detections.publish(cdr.write_detections(detections, message.stamp, message.frame_id, names))
        else:
            self._detections.publish(messages.detections_message(detections, message.header, names))

    def published(self, times: StageTimes, at: float) -> None:
        """Take in the stage times of a frame that was published at a moment of the monotonic clock."""
        self._published.tick(at)
        self.times.add(times)
        self.budget_misses += times.age > self._setting('latency_budget_ms')

    def publish_extras(
        self,
        message: ImageMessage,
        image: BgrImage,
        detections: Detections,
        times: StageTimes,
        classes: tuple[str, ...],
    ) -> None:
        """Send the frame's stage times, the annotated image and the overlays, each if somebody listens to it."""
        header, started = message.header, time.monotonic()
        if self._frame_latency.get_subscription_count():
            self._frame_latency.publish(messages.frame_latency_message(times, header, self._node_name, self.name))
        self._annotated.offer(header, image, detections, classes)
        self._overlays.publish(detections, header, classes)
        self._extras_ms.append(1e3 * (time.monotonic() - started))

    # Diagnostics

    def reports(self, now: float, lifecycle: str, enabled: bool) -> list[diagnostics.TaskReport]:
        """The tasks `input` and `latency`, with the camera's name behind them where it has one."""
        reports = [self._input_report(now, lifecycle, enabled), self._latency_report(now, lifecycle)]
        for report in reports:
            report.status.name = '/'.join(filter(None, [report.status.name, self.name.strip('/')]))
        return reports

    def _input_report(self, now: float, lifecycle: str, enabled: bool) -> diagnostics.TaskReport:
        topic, counts = self._image_topic(), self.counters.snapshot()
        silent = self.monitor.state(now, self._setting('input_timeout_s')) in (InputState.WAITING, InputState.STALE)
        undecodable, self._undecodable_before = self._undecodable_before, counts.dropped['undecodable']
        view = diagnostics.InputView(
            topic=topic.name,
            lifecycle=lifecycle,
            enabled=enabled,
            timeout=self._setting('input_timeout_s'),
            monotonic=now,
            hint=graph.why_no_image(self._node, topic, self.monitor.largest) if silent else '',
            monitor=self.monitor,
            counts=counts,
            incompatibility=graph.incompatibility(self._node, topic),
            clock_fault=graph.clock_fault(self._node),
            cure_of_loss=graph.cure_of_loss(topic, self.monitor.largest),
            rejected_lately=counts.dropped['undecodable'] - undecodable,
        )
        return diagnostics.input_report(view)

    def _latency_report(self, now: float, lifecycle: str) -> diagnostics.TaskReport:
        view = diagnostics.LatencyView(
            lifecycle=lifecycle,
            budget_ms=self._setting('latency_budget_ms'),
            budget_misses=self.budget_misses,
            fps_out=self._published.rate(now),
            percentiles=self.times.percentiles(),
            extras_ms=statistics.median(self._extras_ms) if self._extras_ms else 0.0,
        )
        return diagnostics.latency_report(view)

    def _image_topic(self) -> graph.ImageTopic:
        name, kind = self._source if self._subscription else self._sources()[0]
        return graph.ImageTopic(
            name=name,
            type=kind,
            base=f'{self._prefix}image',
            profile=self._subscription.qos_profile if self._subscription else None,
        )

    def accounts(self) -> str:
        """One line on what became of every frame."""
        counts = self.counters.snapshot()
        dropped = ', '.join(f'{count} {cause}' for cause, count in counts.dropped.items() if count) or 'none'
        who = f'{self.name}: ' if self.name else ''
        return f'{who}{counts.received} frames received, {counts.published} published, dropped: {dropped}'


def _stamp_ns(message: ImageMessage) -> int:
    if isinstance(message, cdr.ReceivedImage):
        return message.stamp[0] * 1_000_000_000 + message.stamp[1]
    return messages.stamp_ns(message.header)


def lifecycle_publisher(node: LifecycleNode, kind: type, topic: str, profile: QoSProfile) -> Any:
    """A lifecycle publisher that warns in words of subscriptions that cannot match it."""
    events = PublisherEventCallbacks(
        incompatible_qos=lambda event: node.get_logger().warning(
            qos.incompatibility(node.resolve_topic_name(topic), event.last_policy_kind, 'publisher')
        )
    )
    return node.create_lifecycle_publisher(kind, topic, profile, event_callbacks=events)
