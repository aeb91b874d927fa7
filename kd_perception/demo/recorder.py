"""The recorder: listens to the camera and the detector, and keeps what the demo shows."""

from __future__ import annotations

import queue
import time
from contextlib import suppress
from types import TracebackType
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, LabelInfo

from kd_perception.bags.ground_truth import AnnotatedObject
from kd_perception.bags.reader import objects_in
from kd_perception.bags.truth_sources import annotated
from kd_perception.demo.joiner import Joiner, Row
from kd_perception.detection.detections import Detections
from kd_perception.ros import messages, qos
from kd_perception.ros.spinning import spinning
from kd_perception.scene import CLASS_NAMES

# Matches any writer, and holds a second of frames while another callback runs.
_MANY = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)
_ALL = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=200, reliability=ReliabilityPolicy.RELIABLE)
_FLIGHT_LABELS = {str(number): name for number, name in enumerate(CLASS_NAMES)}
_MOST_ROWS = 60  # a 1080p image has 6 MB


class Recorder:
    """Spins in a thread of its own from entry to exit; frames that can be shown come out of `rows`.

    Attributes:
        rows: frames with image, detections and latency, in order; those that nobody takes in time are lost to the video.
        detections: by stamp in nanoseconds.
        truth: the objects of a synthetic flight, by stamp in nanoseconds.
        latencies: milliseconds by stage, one dict a frame.
        image_stamps: of every image that came, nanoseconds.
        detection_times: when each detections message came, monotonic seconds.
        classes: the detector's class names, empty before its label info came.
        threshold: the score from which the detector publishes.
        statuses: the newest figures of the detector's diagnostics by task.
        diagnosed: when they came, monotonic seconds.
    """

    def __init__(self, namespace: str) -> None:
        self.rows: queue.Queue[Row] = queue.Queue(_MOST_ROWS)
        self.detections: dict[int, Detections] = {}
        self.truth: dict[int, list[AnnotatedObject]] = {}
        self.latencies: list[dict[str, float]] = []
        self.image_stamps: list[int] = []
        self.detection_times: list[float] = []
        self.classes: tuple[str, ...] = ()
        self.threshold = 0.0
        self.statuses: dict[str, dict[str, str]] = {}
        self.diagnosed = 0.0
        self._joiner = Joiner()
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node('recorder', namespace=namespace, context=self._context)
        self._name = f'{namespace}/detector'.lstrip('/')
        subscribe = self._node.create_subscription
        subscribe(Detection2DArray, 'detections', self._on_detections, _ALL)
        subscribe(DiagnosticArray, 'detector/frame_latency', self._on_latency, _MANY)
        subscribe(Detection2DArray, 'ground_truth', self._on_truth, _ALL)
        subscribe(LabelInfo, 'label_info', self._on_labels, qos.LATCHED)
        subscribe(DiagnosticArray, '/diagnostics', self._on_diagnostics, 20)
        self._spinning = spinning(self._node)

    def __enter__(self) -> Recorder:
        self._spinning.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spinning.__exit__(kind, error, trace)
        self._context.try_shutdown()

    def detector_is_ready(self) -> bool:
        """Whether the detector is active and connected to us both ways."""
        node = self._node
        writers = [node.count_publishers(topic) for topic in ('detections', 'detector/frame_latency')]
        return bool(self.classes and all(writers) and node.count_subscribers('image'))

    def watch(self) -> None:
        """Subscribe to the images. The camera waits for this before its first frame."""
        self._node.create_subscription(Image, 'image', self._on_image, _MANY)
        self._node.executor.wake()

    def rest(self) -> list[Row]:
        """When no more frames will come: those that can be shown although a part of them is missing."""
        return self._joiner.flush()

    # Callbacks

    def _on_image(self, message: Image) -> None:
        stamp = messages.stamp_ns(message.header)
        self.image_stamps.append(stamp)
        self._join(stamp, image=message)

    def _on_detections(self, message: Detection2DArray) -> None:
        stamp = messages.stamp_ns(message.header)
        self.detection_times.append(time.monotonic())
        self.detections[stamp] = messages.from_detections_message(message)
        self._join(stamp, detections=self.detections[stamp])

    def _on_latency(self, message: DiagnosticArray) -> None:
        latency = {value.key: float(value.value) for value in message.status[0].values}
        self.latencies.append(latency)
        self._join(messages.stamp_ns(message.header), latency=latency)

    def _on_truth(self, message: Detection2DArray) -> None:
        objects = [annotated(entry, _FLIGHT_LABELS) for entry in objects_in(message)]
        self.truth[messages.stamp_ns(message.header)] = objects

    def _on_labels(self, message: LabelInfo) -> None:
        names = {entry.class_id: entry.class_name for entry in message.class_map}
        self.threshold = float(message.threshold)
        self.classes = tuple(names.get(index, str(index)) for index in range(max(names, default=-1) + 1))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            node, _, task = status.name.rpartition(': ')
            if node == self._name:
                self.statuses[task] = {value.key: value.value for value in status.values}
                self.diagnosed = time.monotonic()

    def _join(self, stamp: int, **part: Any) -> None:
        for row in self._joiner.add(stamp, **part):
            with suppress(queue.Full):
                self.rows.put_nowait(row)
