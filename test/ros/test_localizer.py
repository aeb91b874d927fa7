"""The localizer over real DDS: positions, stamps, ids and causes, from messages as drivers send them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from detector_process import wait_for
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3DArray, ObjectHypothesisWithPose

from kd_perception.localization.camera import CalibrationError
from kd_perception.localization.localizer import Cause
from kd_perception.ros import messages, space_messages
from kd_perception.ros.localizer_node import LocalizerNode
from kd_perception.ros.parameter_spec import ParameterError
from kd_perception.ros.spinning import spinning

WIDTH, HEIGHT = 160, 120
STAMP = 1_700_000_000_123_456_789
K = [100.0, 0.0, 79.5, 0.0, 100.0, 59.5, 0.0, 0.0, 1.0]
AHEAD = (-0.5, 0.5, -0.5, 0.5)
"""The optical frame of a camera that looks along the base's x."""


class Robot(Node):
    """Camera, detector and transforms of a robot, and what the localizer says."""

    def __init__(self) -> None:
        super().__init__('robot')
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.outputs: list[Detection3DArray] = []
        self.reports: list[DiagnosticArray] = []
        self.detections = self.create_publisher(Detection2DArray, 'detections', 10)
        self.depth = self.create_publisher(Image, 'depth', 10)
        self.info = self.create_publisher(CameraInfo, 'camera_info', 10)
        self.tf = self.create_publisher(TFMessage, '/tf', 10)
        self.tf_static = self.create_publisher(TFMessage, '/tf_static', latched)
        self.create_subscription(Detection3DArray, 'detections_3d', self.outputs.append, 50)
        self.create_subscription(DiagnosticArray, '/diagnostics', self.reports.append, 50)

    def figures(self) -> dict[str, str]:
        """Of the newest report."""
        return {value.key: value.value for report in self.reports[-1:] for value in report.status[0].values}

    def say_where(self, parent: str, child: str, at: tuple, turn: tuple, stamp: int = 0, static: bool = True) -> None:
        where = TransformStamped(header=messages.header_at(stamp, parent), child_frame_id=child)
        position, rotation = where.transform.translation, where.transform.rotation
        position.x, position.y, position.z = at
        rotation.x, rotation.y, rotation.z, rotation.w = turn
        (self.tf_static if static else self.tf).publish(TFMessage(transforms=[where]))


@pytest.fixture
def start(_rclpy: None) -> Iterator[Callable[..., Robot]]:
    """Start a localizer and a robot around it in this process, known to each other."""
    with ExitStack() as nodes:

        def begin(**settings: Any) -> Robot:
            given = {'diagnostics_period_s': 0.1, 'max_wait_s': 30.0, **settings}
            overrides = [Parameter(name, value=value) for name, value in given.items()]
            robot = nodes.enter_context(spinning(Robot()))
            nodes.enter_context(spinning(LocalizerNode(parameter_overrides=overrides)))
            heard = [robot.detections, robot.info, robot.tf, robot.tf_static]
            heard += [robot.depth] if given.get('mode', 'depth') == 'depth' else []
            wait_for(lambda: all(publisher.get_subscription_count() for publisher in heard), 'its subscriptions')
            wait_for(lambda: robot.count_publishers('detections_3d') and robot.reports, 'its publishers')
            return robot

        yield begin


def info(**fields: Any) -> CameraInfo:
    message = CameraInfo(header=messages.header_at(STAMP, 'camera'), width=WIDTH, height=HEIGHT, k=K)
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def depth(values: np.ndarray, stamp: int = STAMP, **fields: Any) -> Image:
    encoding = '16UC1' if values.dtype.itemsize == 2 else '32FC1'
    message = Image(header=messages.header_at(stamp, 'camera'), height=HEIGHT, width=WIDTH, encoding=encoding)
    message.step = WIDTH * values.dtype.itemsize
    messages.fill_data(message, values.tobytes())
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def detections(*boxes: tuple[float, float, float, float], stamp: int = STAMP) -> Detection2DArray:
    """Of the classes `car 0`, `car 1` …, and with the ids `t0`, `t1` …"""
    header, found = messages.header_at(stamp, 'camera'), []
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        detection = Detection2D(header=header, id=f't{index}', results=[ObjectHypothesisWithPose()])
        detection.results[0].hypothesis.class_id, detection.results[0].hypothesis.score = f'car {index}', 0.5
        detection.bbox.center.position.x, detection.bbox.center.position.y = (x1 + x2) / 2, (y1 + y2) / 2
        detection.bbox.size_x, detection.bbox.size_y = x2 - x1, y2 - y1
        found.append(detection)
    return Detection2DArray(header=header, detections=found)


def position(detection: Any) -> tuple[float, float, float]:
    where = detection.bbox.center.position
    return where.x, where.y, where.z


@pytest.mark.parametrize(
    'image',
    [
        np.full((HEIGHT, WIDTH), 4000, '<u2'),
        np.full((HEIGHT, WIDTH), 4.0, '<f4'),
        np.full((HEIGHT, WIDTH), 4000, '>u2'),
    ],
    ids=['millimeters', 'meters', 'big endian'],
)
def test_detections_with_depth_get_a_position_and_keep_all_else(start, image):
    robot = start(target_frame='base')
    robot.say_where('base', 'camera', (1.0, 0.0, 0.5), AHEAD)
    robot.info.publish(info())
    robot.depth.publish(depth(image, is_bigendian=int(image.dtype.str[0] == '>')))
    robot.detections.publish(detections((70.0, 50.0, 90.0, 70.0), (20.0, 50.0, 40.0, 70.0)))
    wait_for(lambda: robot.outputs, 'the positions')
    (output,) = robot.outputs
    assert messages.stamp_ns(output.header) == STAMP
    assert output.header.frame_id == 'base'
    first, second = output.detections
    assert position(first) == pytest.approx((5.0, 0.0, 0.5))
    assert position(second) == pytest.approx((5.0, 2.0, 0.5))
    assert (second.id, second.results[0].hypothesis.class_id, second.results[0].hypothesis.score) == (
        't1',
        'car 1',
        0.5,
    )
    assert second.results[0].pose.pose == second.bbox.center
    assert second.results[0].pose.covariance[0] > 0
    assert (first.bbox.size.x, first.bbox.size.y) == pytest.approx((0.8, 0.8))


def test_detections_wait_for_what_comes_later_in_whatever_order(start):
    robot = start(target_frame='map')
    robot.detections.publish(detections((70.0, 50.0, 90.0, 70.0)))
    robot.say_where('base', 'camera', (0.0, 0.0, 0.0), AHEAD)
    robot.say_where('map', 'base', (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), STAMP - 10_000_000, static=False)
    robot.depth.publish(depth(np.full((HEIGHT, WIDTH), 4.0, np.float32), STAMP + 5_000_000))
    robot.info.publish(info())
    robot.say_where('map', 'base', (2.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), STAMP + 10_000_000, static=False)
    wait_for(lambda: robot.outputs, 'the positions')
    assert position(robot.outputs[0].detections[0]) == pytest.approx((5.0, 0.0, 0.0))


def test_on_the_ground_every_detection_is_located_or_counted_by_cause(start):
    robot = start(mode='ground', target_frame='base', max_range=50.0)
    robot.say_where('base', 'camera', (0.0, 0.0, 2.0), AHEAD)
    robot.info.publish(info())
    robot.detections.publish(detections((70.0, 20.0, 90.0, 80.0), (70.0, 20.0, 90.0, 40.0), (70.0, 20.0, 90.0, 61.5)))
    wait_for(lambda: robot.outputs, 'the positions')
    (found,) = robot.outputs[0].detections
    assert position(found) == pytest.approx((10.0, 0.0, 0.0))
    wanted = {'detections_located': '1', 'detections_above_horizon': '1', 'detections_too_far': '1'}
    wait_for(lambda: wanted.items() <= robot.figures().items(), 'the accounts')


@pytest.mark.parametrize(
    ('missing', 'cause', 'says'),
    [
        ('info', Cause.NO_CALIBRATION, 'no camera_info has come'),
        ('depth', Cause.NO_DEPTH_IMAGE, 'no depth image has come'),
        ('depth of the stamp', Cause.NO_DEPTH_IMAGE, '1.000 s away'),
        ('depth that can be read', Cause.NO_DEPTH_IMAGE, "encoding 'rgb8'"),
        ('transform', Cause.NO_TRANSFORM, "'map'"),
    ],
)
def test_what_is_missing_is_counted_and_said(start, missing, cause, says):
    robot = start(max_wait_s=0.0, target_frame='map')
    image = np.full((HEIGHT, WIDTH), 4.0, np.float32)
    if missing != 'info':
        robot.info.publish(info())
    if missing == 'depth of the stamp':
        robot.depth.publish(depth(image, STAMP + 1_000_000_000))
    elif missing == 'depth that can be read':
        robot.depth.publish(depth(image, encoding='rgb8'))
    elif missing != 'depth':
        robot.depth.publish(depth(image))
    boxes = detections((70.0, 50.0, 90.0, 70.0), (20.0, 50.0, 40.0, 70.0))

    def counted() -> bool:
        """Again and again, since topics have no order among each other."""
        robot.detections.publish(boxes)
        said = any(says in report.status[0].message for report in robot.reports)
        return said and int(robot.figures().get(f'detections_{cause.value}', 0)) > 0

    wait_for(counted, f'the cause {cause.value}')
    assert robot.outputs == []


def test_a_frame_without_detections_is_answered_at_once_and_no_transform_is_needed_for_the_cameras_frame(start):
    robot = start(target_frame='')
    robot.detections.publish(detections())
    wait_for(lambda: robot.outputs, 'the empty message')
    robot.info.publish(info())
    robot.depth.publish(depth(np.full((HEIGHT, WIDTH), 4.0, np.float32)))
    robot.detections.publish(detections((70.0, 50.0, 90.0, 70.0)))
    wait_for(lambda: len(robot.outputs) == 2, 'the positions')
    assert position(robot.outputs[1].detections[0]) == pytest.approx((0.0, 0.0, 4.0))
    assert robot.outputs[1].header.frame_id == 'camera'


@pytest.mark.usefixtures('_rclpy')
def test_ground_without_a_frame_is_refused_by_name():
    with pytest.raises(ParameterError, match='target_frame'):
        LocalizerNode(parameter_overrides=[Parameter('mode', value='ground'), Parameter('target_frame', value='')])


def test_calibrations_of_rectified_and_binned_images():
    rectified = info(p=[50.0, 0, 10, 7, 0, 50, 20, 0, 0, 0, 1, 0], d=[0.1] * 5, distortion_model='plumb_bob')
    assert space_messages.camera_of(rectified, rectified=True).rays(np.array([(60.0, 20.0)])).tolist() == [[1, 0, 1]]
    binned = info(binning_x=2, binning_y=2)
    camera = space_messages.camera_of(binned, rectified=False)
    assert (camera.width, camera.focal) == (WIDTH // 2, (50.0, 50.0))
    with pytest.raises(CalibrationError, match='not calibrated'):
        space_messages.camera_of(info(), rectified=True)
