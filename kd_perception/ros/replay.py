"""Plays a bag's images to a running detector, at their own pace, faster, or each when the last was answered."""

from __future__ import annotations

import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial

import rclpy
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from kd_perception.bags.message_types import COMPRESSED_IMAGE
from kd_perception.bags.reader import BagFrame, BagImages, open_bag
from kd_perception.detection.detections import Detections
from kd_perception.errors import KdPerceptionError
from kd_perception.ros import messages, parameters
from kd_perception.ros.graph import COMPRESSED
from kd_perception.ros.parameter_spec import ParameterSpec
from kd_perception.ros.process import SIGNALS, ignore_signals, until_signal
from kd_perception.ros.replay_options import ReplayOptions
from kd_perception.ros.startup import start_node, start_ros

# Reliable, so that it suits every subscription and stepping loses nothing.
_IMAGES = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE)
_ANSWERS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.RELIABLE)

_TYPES = {str: 'string', float: 'double', bool: 'bool'}
_PATIENCE = 3.0  # seconds of waiting after which the log says for what
_SETTLE = 0.3  # seconds between a matched subscription and the first image: the other side matches a little later
_LOOK = 0.05  # seconds between two looks at who is there
_CLOCK_PERIOD = 0.01  # seconds
_SILENCE = 1.0  # seconds without an answer after which the last images count as not answered


class ReplayError(KdPerceptionError):
    """A replay that cannot begin; says what is missing."""


@dataclass(frozen=True)
class ReplaySummary:
    """What became of the images.

    Attributes:
        sent: images published.
        answered: how many of them detections of the same stamp came for.
        seconds: from the first image to the last answer.
    """

    sent: int
    answered: int
    seconds: float

    @property
    def missing(self) -> int:
        """Images without an answer: dropped by the detector, or lost on the way."""
        return self.sent - self.answered

    def __str__(self) -> str:
        pace = f' ({self.sent / self.seconds:.1f} a second)' if self.seconds > 0 else ''
        return (
            f'{self.sent} images sent in {self.seconds:.1f} s{pace}, {self.answered} answered, {self.missing} missing'
        )


class Replay:
    """The player: publishes `image` (or `image/compressed`, as recorded) and listens to `detections`.

    Attributes:
        answers: what the detector found, by the stamp of the recorded image in nanoseconds.
    """

    def __init__(self, node: Node, images: BagImages, options: ReplayOptions) -> None:
        """Make the publishers and subscriptions on a node that nobody else spins."""
        self.answers: dict[int, Detections] = {}
        self._node = node
        self._images = images
        self._options = options
        self._unanswered: Counter[int] = Counter()
        self._recorded_stamps: dict[int, int] = {}
        self._sent = self._answered = 0
        self._started = self._last_event = 0.0
        raw = node.resolve_topic_name('image')
        compressed = node.resolve_topic_name(raw + COMPRESSED)
        self._bag_time = _BagTime(0 if options.step else options.rate)
        self._topic, self._other_topic, kind = raw, compressed, Image
        if images.type == COMPRESSED_IMAGE:
            self._topic, self._other_topic, kind = compressed, raw, CompressedImage
        self._camera = node.create_publisher(kind, self._topic, _IMAGES)
        self._answers_topic = node.resolve_topic_name('detections')
        node.create_subscription(Detection2DArray, 'detections', self._on_detections, _ANSWERS)
        if options.clock:
            self._clock = node.create_publisher(Clock, '/clock', 10)
            node.create_timer(_CLOCK_PERIOD, self._publish_clock, clock=RosClock(clock_type=ClockType.STEADY_TIME))
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)

    def play(self, progress: Callable[[], object] = lambda: None) -> None:
        """Play the bag, once or for ever; `progress` is called after every image.

        Raises:
            ReplayError: nobody subscribes to the images.
            BagError: the bag is damaged.
        """
        self._await_detector()
        self._started = self._last_event = time.monotonic()
        self._play_once(progress)
        while self._options.loop:
            self._play_once(progress)
        self._await_last_answers()

    def summary(self) -> ReplaySummary:
        """What became of the images so far."""
        return ReplaySummary(self._sent, self._answered, self._last_event - self._started)

    def _play_once(self, progress: Callable[[], object]) -> None:
        step = self._options.step
        with self._images:
            for number, frame in enumerate(self._images):
                if step or number == 0:
                    self._bag_time.set(frame.received_ns)
                self._spin(self._bag_time.due(frame.received_ns))
                stamp = self._publish(frame)
                if step:
                    self._spin(time.monotonic() + self._options.timeout, unless=partial(self._has_answer, stamp))
                progress()

    def _publish(self, frame: BagFrame) -> int:
        """Publish a frame as its recorded bytes, and return the stamp that it carries."""
        raw, stamp = bytes(frame.message.raw), frame.stamp_ns
        if self._options.restamp:
            stamp = self._node.get_clock().now().nanoseconds
            raw = restamped(raw, stamp)
        if self._options.clock:
            self._publish_clock()
        self._recorded_stamps[stamp] = frame.key
        self._unanswered[stamp] += 1
        self._sent += 1
        self._camera.publish(raw)
        self._last_event = time.monotonic()
        return stamp

    def _on_detections(self, message: Detection2DArray) -> None:
        stamp = messages.stamp_ns(message.header)
        if not self._unanswered[stamp]:
            return  # of somebody else's image
        self._unanswered[stamp] -= 1
        self._answered += 1
        self._last_event = time.monotonic()
        self.answers[self._recorded_stamps[stamp]] = messages.from_detections_message(message)

    def _publish_clock(self) -> None:
        self._clock.publish(Clock(clock=messages.header_at(self._bag_time.now(), '').stamp))

    def _await_detector(self) -> None:
        """Wait for a subscription to the images and, with step, for somebody who answers."""

        if not self._options.wait:
            return
        began, said = time.monotonic(), ''
        while (lack := self._lack()) is not None:
            (what, cure), waited = lack, time.monotonic() - began
            if waited >= self._options.wait:
                raise ReplayError(f'{what} after {self._options.wait:g} s. {cure}')
            if waited >= _PATIENCE and what != said:
                said = what
                self._node.get_logger().warning(f'still waiting: {what}. {cure}')
            self._spin(min(began + self._options.wait, time.monotonic() + _LOOK))
        self._spin(time.monotonic() + _SETTLE)

    def _lack(self) -> tuple[str, str] | None:
        """What is missing before the first image can be sent, and what to do; None when nothing is."""
        start = 'Start the detector with these topics and the same ROS_DOMAIN_ID: ros2 launch kd_perception detector.launch.py'
        if self._camera.get_subscription_count():
            answers = not self._options.step or self._node.count_publishers(self._answers_topic)
            return None if answers else (f'nobody publishes {self._answers_topic}', start)
        if not self._node.count_subscribers(self._other_topic):
            return f'nobody subscribes to {self._topic}', start
        transport = 'compressed' if self._images.type == COMPRESSED_IMAGE else 'raw'
        return (
            f'the bag has {transport} images, for {self._topic}, and only {self._other_topic} is subscribed to',
            f'Start the detector with image_transport:={transport}',
        )

    def _await_last_answers(self) -> None:
        while self._answered < self._sent:
            before = self._answered
            self._spin(time.monotonic() + _SILENCE, unless=partial(self._has_more_answers_than, before))
            if self._answered == before:
                return

    def _has_answer(self, stamp: int) -> bool:
        return not self._unanswered[stamp]

    def _has_more_answers_than(self, count: int) -> bool:
        return self._answered > count

    def _spin(self, until: float, unless: Callable[[], bool] | None = None) -> bool:
        """Take in answers until a monotonic time, or until a condition is met; returns whether it was."""
        while unless is None or not unless():
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(left, _LOOK))
        return True


class _BagTime:
    """The bag's clock: goes on at `rate`; at rate 0 it stands still."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._base_ns = 0
        self._started = 0.0

    def set(self, bag_ns: int) -> None:
        """It is this time in the bag now."""
        self._base_ns, self._started = bag_ns, time.monotonic()

    def due(self, bag_ns: int) -> float:
        """The monotonic time at which it will be that time in the bag."""
        ahead = bag_ns - self._base_ns
        return self._started + ahead * 1e-9 / self._rate if ahead else self._started

    def now(self) -> int:
        """The bag's time now, nanoseconds."""
        return self._base_ns + round((time.monotonic() - self._started) * self._rate * 1e9)


def restamped(raw: bytes, stamp_ns: int) -> bytes:
    """A serialized message that begins with a header, under another stamp: the eight bytes after CDR's own four."""
    order = '<' if raw[1] else '>'
    return raw[:4] + struct.pack(f'{order}iI', *divmod(stamp_ns, 1_000_000_000)) + raw[12:]


@contextmanager
def replay_node(ros_arguments: list[str] | None) -> Iterator[Node]:
    """The node that plays, in a ROS context of its own; `ros_arguments` as `rclpy.init` takes them."""
    context = rclpy.Context()
    # Signals become KeyboardInterrupt in the loop that plays, which then still sums up.
    start_ros(ros_arguments, context=context, signal_handler_options=SignalHandlerOptions.NO)
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    node = start_node(lambda: Node('replay', context=context))
    try:
        yield node
    finally:
        node.destroy_node()
        context.try_shutdown()


def options_of(node: Node) -> ReplayOptions:
    """The options as ROS parameters of the node. Raises KdPerceptionError where one has a wrong type or value."""
    specs = [
        ParameterSpec(
            option.name, _TYPES[type(option.default)], option.default, option.metadata['help'], read_only=True
        )
        for option in fields(ReplayOptions)
    ]
    return ReplayOptions(**{spec.name: parameters.declare(node, spec) for spec in specs})


def main(args: list[str] | None = None) -> int:
    """Replay what the ROS parameters say, until the end of the bag, SIGINT or SIGTERM."""
    try:
        with replay_node(args) as node:
            options = options_of(node)
            images = open_bag(options.bag, options.topic or None)
            player = Replay(node, images, options)
            with until_signal():
                player.play()
            node.get_logger().info(str(player.summary()))
    except KdPerceptionError as error:
        print(f'replay: {error}', file=sys.stderr)
        return 1
    finally:
        ignore_signals()
    return 0


if __name__ == '__main__':
    sys.exit(main())
