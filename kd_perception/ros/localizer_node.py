"""The node `localizer`: detections and a depth image, or flat ground, to positions in a target frame."""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray
from visualization_msgs.msg import MarkerArray

from kd_perception.errors import ImageError
from kd_perception.localization.camera import CalibrationError, PinholeCamera
from kd_perception.localization.depth import DepthImage
from kd_perception.localization.localizer import Cause, Localizer, LocalizerSettings, Location
from kd_perception.localization.transforms import IDENTITY, Transform, TransformBuffer, TransformError
from kd_perception.ros import parameters, process, qos, space_messages
from kd_perception.ros.diagnostics import OK, WAITING, WARN, TaskReport
from kd_perception.ros.diagnostics_publisher import DiagnosticsPublisher
from kd_perception.ros.messages import stamp_ns
from kd_perception.ros.parameter_spec import ParameterError
from kd_perception.ros.space_markers import marker_array

MOST_WAITING = 10
"""Messages of detections that wait at a time."""
DEPTH_IMAGES = 30
"""Depth images that are kept."""
_TF = QoSProfile(depth=100)
_TF_STATIC = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_SENSOR = QoSProfile(depth=5, reliability=qos.IMAGE.reliability)


class _LackError(Exception):
    """What detections still wait for, as the cause that it becomes, with a sentence."""

    def __init__(self, cause: Cause, sentence: str) -> None:
        super().__init__(sentence)
        self.cause = cause


@dataclass(frozen=True)
class _Waiting:
    """Detections, and until when they wait (monotonic, seconds)."""

    message: Detection2DArray
    deadline: float


class LocalizerNode(Node):
    """Publishes `detections_3d`: every detection is located, or counted by the cause why it is not."""

    def __init__(self, **options: Any) -> None:
        super().__init__('localizer', **options)
        specs = parameters.specs(parameters.LOCALIZER)
        values = {name: parameters.declare(self, spec) for name, spec in specs.items()}
        self._by_depth = values['mode'] == 'depth'
        self._target: str = values['target_frame']
        if not (self._by_depth or self._target):
            raise ParameterError('parameter target_frame must not be empty with mode: ground, e.g. target_frame:=map')
        self._rectified, self._max_wait = values['rectified'], values['max_wait_s']
        self._tolerance_ns = round(values['depth_tolerance_s'] * 1e9)
        names = ('max_range', 'pixel_deviation', 'ground_height', 'ground_deviation', 'nadir_angle')
        self._localizer = Localizer(LocalizerSettings(**{name: values[name] for name in names}))
        self._camera: PinholeCamera | None = None
        self._calibration_fault = 'no camera_info has come'
        self._transforms = TransformBuffer()
        self._depths: deque[tuple[int, DepthImage]] = deque(maxlen=DEPTH_IMAGES)
        self._depth_fault = ''
        self._waiting: deque[_Waiting] = deque()
        self._writer = space_messages.Detections3DWriter()
        self._counts: Counter[str] = Counter()
        self._messages: Counter[str] = Counter()
        self._reported: Counter[str] = Counter()
        self._last_fault = ''
        self._durations: deque[float] = deque(maxlen=100)
        self._connect(values['diagnostics_period_s'])

    def _connect(self, diagnostics_period: float) -> None:
        self._publisher = self.create_publisher(Detection3DArray, 'detections_3d', qos.DETECTIONS)
        self._markers = self.create_publisher(MarkerArray, 'detections_3d/markers', qos.DETECTIONS)
        self._class_colors: dict[str, int] = {}
        self._diagnostics = DiagnosticsPublisher(self)
        self.create_subscription(TFMessage, '/tf', lambda m: self._take_transforms(m, static=False), _TF)
        self.create_subscription(TFMessage, '/tf_static', lambda m: self._take_transforms(m, static=True), _TF_STATIC)
        self.create_subscription(CameraInfo, 'camera_info', self._take_calibration, _SENSOR)
        if self._by_depth:
            self.create_subscription(Image, 'depth', self._take_depth, _SENSOR)
        self.create_subscription(Detection2DArray, 'detections', self._take_detections, qos.DETECTIONS)
        self.create_timer(0.02, self._work)
        self.create_timer(diagnostics_period, self._report)

    # What comes in

    def _take_transforms(self, message: TFMessage, static: bool) -> None:
        for fault in space_messages.take_transforms(self._transforms, message, static):
            self.get_logger().warning(f'transform ignored: {fault}', throttle_duration_sec=10.0)
        self._work()

    def _take_calibration(self, message: CameraInfo) -> None:
        try:
            self._camera = space_messages.camera_of(message, self._rectified)
        except CalibrationError as error:
            self._camera, self._calibration_fault = None, f'camera_info cannot be used: {error}'
        self._work()

    def _take_depth(self, message: Image) -> None:
        try:
            self._depths.append((stamp_ns(message.header), space_messages.depth_image(message)))
            self._depth_fault = ''
        except ImageError as error:
            self._depth_fault = str(error)
        self._work()

    def _take_detections(self, message: Detection2DArray) -> None:
        self._messages['received'] += 1
        self._waiting.append(_Waiting(message, time.monotonic() + self._max_wait))
        if len(self._waiting) > MOST_WAITING:
            self._drop(self._waiting.popleft().message, Cause.SUPERSEDED, 'more detections came than can wait')
        self._work()

    # What becomes of it

    def _work(self) -> None:
        """Locate what has all that it needs; give up what has waited too long."""
        for _ in range(len(self._waiting)):
            waiting = self._waiting.popleft()
            try:
                self._locate(waiting.message)
            except _LackError as lack:
                if time.monotonic() < waiting.deadline:
                    self._waiting.append(waiting)
                else:
                    self._drop(waiting.message, lack.cause, str(lack))

    def _locate(self, message: Detection2DArray) -> None:
        begin = time.perf_counter()
        answers, pose = self._answers(message) if message.detections else ([], IDENTITY)
        located = []
        for detection, answer in zip(message.detections, answers, strict=True):
            if isinstance(answer, Location):
                located.append((detection, answer))
                self._counts['located'] += 1
            else:
                self._counts[answer.value] += 1
        header = Header(stamp=message.header.stamp, frame_id=self._target or message.header.frame_id)
        positions = self._writer.message(located, header, pose)
        self._publisher.publish(positions)
        self._messages['published'] += 1
        self._durations.append(time.perf_counter() - begin)
        if self._markers.get_subscription_count():
            self._markers.publish(marker_array(positions, self._class_colors))

    def _answers(self, message: Detection2DArray) -> tuple[list[Location | Cause], Transform]:
        if self._camera is None:
            raise _LackError(Cause.NO_CALIBRATION, self._calibration_fault)
        stamp = stamp_ns(message.header)
        depth = self._depth_at(stamp) if self._by_depth else None
        pose = self._pose(message.header.frame_id, stamp)
        boxes = space_messages.boxes_of(message)
        if depth is not None:
            return self._localizer.by_depth(boxes, depth, self._camera, pose), pose
        return self._localizer.on_ground(boxes, self._camera, pose), pose

    def _depth_at(self, stamp: int) -> DepthImage:
        if not self._depths:
            raise _LackError(Cause.NO_DEPTH_IMAGE, self._depth_fault or 'no depth image has come')
        nearest, image = min(self._depths, key=lambda kept: abs(kept[0] - stamp))
        if abs(nearest - stamp) > self._tolerance_ns:
            gap = abs(nearest - stamp) / 1e9
            raise _LackError(
                Cause.NO_DEPTH_IMAGE,
                self._depth_fault or f'the nearest depth image is {gap:.3f} s away (depth_tolerance_s)',
            )
        return image

    def _pose(self, camera_frame: str, stamp: int) -> Transform:
        try:
            return self._transforms.lookup(self._target, camera_frame, stamp) if self._target else IDENTITY
        except TransformError as error:
            raise _LackError(Cause.NO_TRANSFORM, str(error)) from error

    def _drop(self, message: Detection2DArray, cause: Cause, sentence: str) -> None:
        self._messages[cause.value] += 1
        self._counts[cause.value] += len(message.detections)
        self._last_fault = sentence

    # What is said about it

    def _report(self) -> None:
        since = self._messages - self._reported
        self._reported = self._messages.copy()
        dropped = sum(since.values()) - since['received'] - since['published']
        if not self._messages['received']:
            level, sentence, condition = WARN, f'waiting for detections on {self._topic()}', WAITING
        elif dropped:
            level, sentence, condition = WARN, f'{dropped} frames without positions: {self._last_fault}', 'no positions'
        else:
            level, sentence, condition = OK, self._sentence(), ''
        figures = {f'frames_{name}': str(count) for name, count in sorted(self._messages.items())}
        figures |= {f'detections_{name}': str(count) for name, count in sorted(self._counts.items())}
        if self._durations:
            figures['localize_ms_median'] = f'{1e3 * statistics.median(self._durations):.3f}'
        values = [KeyValue(key=key, value=value) for key, value in figures.items()]
        status = DiagnosticStatus(level=level, name='positions', message=sentence, values=values)
        self._diagnostics.publish([TaskReport(status, condition)])

    def _topic(self) -> str:
        return str(self.resolve_topic_name('detections'))

    def _sentence(self) -> str:
        causes = [f'{count} {cause}' for cause, count in sorted(self._counts.items()) if cause != 'located']
        whole = f'{self._counts["located"]} of {sum(self._counts.values())} detections located'
        return ', '.join([whole, *causes])

    def accounts(self) -> str:
        """One line on what became of the detections."""
        return f'{self._messages["published"]} of {self._messages["received"]} frames published; {self._sentence()}'


def main(args: list[str] | None = None) -> int:
    """Run the localizer until SIGINT or SIGTERM."""
    return process.run(LocalizerNode, 'localizer', args)


if __name__ == '__main__':
    sys.exit(main())
