"""A scene in meters, as a depth camera on a robot gives it: depth image, calibration, transform, and the true positions."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Transform, TransformStamped, Vector3
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import BoundingBox3D, Detection3D, Detection3DArray, ObjectHypothesis, ObjectHypothesisWithPose

from kd_perception.detection.detections import Detections
from kd_perception.localization.transforms import quaternion_of
from kd_perception.ros import messages, qos
from kd_perception.scene.space import SceneSpace

OFF = 'off'
MAP = 'map'
"""The frame of the ground, z up."""
_MOST_MILLIMETERS = np.iinfo(np.uint16).max


class SpacePublisher:
    """Publishes `depth`, `camera_info`, /tf from `map` to the camera, and `ground_truth_3d`, all under the image's stamp."""

    def __init__(self, node: Node, encoding: str) -> None:
        """Make the publishers; `encoding` is 32FC1 (meters) or 16UC1 (millimeters, up to 65.5 m)."""
        self._encoding = encoding
        self._depth = node.create_publisher(Image, 'depth', qos_profile_sensor_data)
        self._info = node.create_publisher(CameraInfo, 'camera_info', qos_profile_sensor_data)
        self._tf = node.create_publisher(TFMessage, '/tf', QoSProfile(depth=100))
        self._truth = node.create_publisher(Detection3DArray, 'ground_truth_3d', qos.DETECTIONS)

    def publish(self, space: SceneSpace, truth: Detections, header: Header) -> None:
        """Send all of a frame, whose image has this header; `truth` gives classes and ids of the vehicles in `space`."""
        self._tf.publish(TFMessage(transforms=[transform(space, header)]))
        self._info.publish(camera_info(space, header))
        self._depth.publish(depth_message(space.depth, header, self._encoding))
        self._truth.publish(positions(space, truth, header))


def depth_message(depth: np.ndarray, header: Header, encoding: str) -> Image:
    """Depth (height, width) in meters as an image; 0 where millimeters do not reach."""
    height, width = depth.shape
    if encoding == '16UC1':
        millimeters = np.rint(1e3 * depth)
        values = np.where(millimeters <= _MOST_MILLIMETERS, millimeters, 0).astype('<u2')
    else:
        values = depth.astype('<f4')
    message = Image(header=header, height=height, width=width, encoding=encoding, step=values.itemsize * width)
    messages.fill_data(message, np.ascontiguousarray(values).data.cast('B'))
    return message


def camera_info(space: SceneSpace, header: Header) -> CameraInfo:
    """The calibration of a camera without distortion."""
    height, width = space.depth.shape
    projection = np.concatenate([space.intrinsics, np.zeros((3, 1))], axis=1)
    return CameraInfo(
        header=header,
        height=height,
        width=width,
        distortion_model='plumb_bob',
        d=[0.0] * 5,
        k=space.intrinsics.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=projection.ravel().tolist(),
    )


def transform(space: SceneSpace, header: Header) -> TransformStamped:
    """Where the camera's optical frame is in the map."""
    x, y, z, w = quaternion_of(space.rotation).tolist()
    return TransformStamped(
        header=Header(stamp=header.stamp, frame_id=MAP),
        child_frame_id=header.frame_id,
        transform=Transform(translation=_vector(space.position), rotation=Quaternion(x=x, y=y, z=z, w=w)),
    )


def positions(space: SceneSpace, truth: Detections, header: Header) -> Detection3DArray:
    """Centers and sizes of the vehicles in the map, upright; their heading is not told."""
    head = Header(stamp=header.stamp, frame_id=MAP)
    ids = np.zeros(len(truth), np.int64) if truth.track_ids is None else truth.track_ids
    found = []
    for center, size, class_id, number in zip(space.centers, space.sizes, truth.class_ids, ids, strict=True):
        x, y, z = center.tolist()
        pose = Pose(position=Point(x=x, y=y, z=z))
        result = ObjectHypothesisWithPose(hypothesis=ObjectHypothesis(class_id=str(class_id), score=1.0))
        result.pose.pose = pose
        box = BoundingBox3D(center=pose, size=_vector(size))
        found.append(Detection3D(header=head, results=[result], bbox=box, id=str(number)))
    return Detection3DArray(header=head, detections=found)


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = values.tolist()
    return Vector3(x=x, y=y, z=z)
