"""Values in space ↔ ROS messages: calibrations, depth images, transforms, and detections with positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from geometry_msgs.msg import Quaternion
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3D, Detection3DArray

from kd_perception.errors import MalformedImageError, UnsupportedEncodingError
from kd_perception.localization.camera import Floats, PinholeCamera
from kd_perception.localization.depth import DepthImage
from kd_perception.localization.localizer import Location
from kd_perception.localization.transforms import Transform, TransformBuffer, TransformError, quaternion_of
from kd_perception.ros.messages import stamp_ns

_DEPTH_TYPES = {'16UC1': 'u2', 'mono16': 'u2', '32FC1': 'f4'}


def depth_image(message: Image) -> DepthImage:
    """The depth in an image message: uint16 in millimeters or float32 in meters (REP 118).

    Raises:
        UnsupportedEncodingError: neither 16UC1 nor 32FC1.
        MalformedImageError: size, row step and data contradict each other.
    """
    code = _DEPTH_TYPES.get(message.encoding)
    if code is None:
        raise UnsupportedEncodingError(
            f'depth image with encoding {message.encoding[:40]!r}; 16UC1 and 32FC1 are known'
        )
    kind = np.dtype(code).newbyteorder('>' if message.is_bigendian else '<')
    width, height, step = message.width, message.height, message.step
    if width < 1 or height < 1 or step < width * kind.itemsize or step % kind.itemsize:
        raise MalformedImageError(f'depth image of {width}x{height} pixels with a row step of {step} bytes')
    if len(message.data) < step * height:
        raise MalformedImageError(f'depth image with {len(message.data)} bytes of data instead of {step * height}')
    values = np.frombuffer(message.data, kind, count=step * height // kind.itemsize)
    return values.reshape(height, -1)[:, :width].astype(kind.newbyteorder('='), copy=False)


def camera_of(message: CameraInfo, rectified: bool) -> PinholeCamera:
    """The camera whose image the detector sees.

    Args:
        message: its calibration, which is of the full sensor: region of interest and binning are taken into account.
        rectified: the image is rectified: P holds, and no distortion.

    Raises:
        CalibrationError: the camera is not calibrated, or by a model that is not known.
    """
    size = message.width, message.height
    if rectified:
        matrix = np.array(message.p, np.float64).reshape(3, 4)[:, :3].ravel().tolist()
        camera = PinholeCamera.calibrated(matrix, (), message.distortion_model, *size)
    else:
        camera = PinholeCamera.calibrated(message.k, message.d, message.distortion_model, *size)
    roi = message.roi
    if roi.width and roi.height:
        camera = PinholeCamera(camera.matrix, camera.distortion, camera.model, roi.width, roi.height)
    return camera.window(roi.x_offset, roi.y_offset, message.binning_x, message.binning_y)


def take_transforms(buffer: TransformBuffer, message: TFMessage, static: bool) -> Iterator[str]:
    """Put the transforms of a message into a buffer; yields what is wrong with those that cannot be used."""
    for stamped in message.transforms:
        position, turn = stamped.transform.translation, stamped.transform.rotation
        try:
            buffer.add(
                *(stamped.header.frame_id, stamped.child_frame_id, stamp_ns(stamped.header)),
                np.array([position.x, position.y, position.z]),
                np.array([turn.x, turn.y, turn.z, turn.w]),
                static,
            )
        except TransformError as error:
            yield str(error)


def boxes_of(message: Detection2DArray) -> Floats:
    """Boxes (N, 4) x1, y1, x2, y2 of a message's detections."""
    rows = [
        (box.center.position.x, box.center.position.y, box.size_x / 2, box.size_y / 2)
        for box in (detection.bbox for detection in message.detections)
    ]
    x, y, half_width, half_height = np.array(rows, np.float64).reshape(-1, 4).T
    return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=1)


class Detections3DWriter:
    """Makes Detection3DArray messages of parts that it reuses, since rclpy's constructors would cost more than the rest."""

    def __init__(self) -> None:
        self._parts: list[Detection3D] = []

    def message(
        self, located: Sequence[tuple[Detection2D, Location]], header: Header, camera_pose: Transform
    ) -> Detection3DArray:
        """Detections with positions; valid until the next message is made.

        Args:
            located: detection and where it is; hypotheses and `id` are kept, each hypothesis gets pose and covariance.
            header: the source's stamp in the target frame.
            camera_pose: takes the camera's optical frame to the target frame; boxes are turned as the camera is.
        """
        while len(self._parts) < len(located):
            self._parts.append(Detection3D())
        parts = self._parts[: len(located)]
        x, y, z, w = quaternion_of(camera_pose.rotation).tolist()
        turn = Quaternion(x=x, y=y, z=z, w=w)
        for part, (detection, location) in zip(parts, located, strict=True):
            pose, size = part.bbox.center, part.bbox.size
            pose.orientation = turn
            pose.position.x, pose.position.y, pose.position.z = location.position.tolist()
            size.x, size.y, size.z = location.size.tolist()
            covariance = np.zeros((6, 6))
            covariance[:3, :3] = location.covariance
            for result in detection.results:
                result.pose.pose, result.pose.covariance = pose, covariance.ravel()
            part.header, part.results, part.id = header, detection.results, detection.id
        return Detection3DArray(header=header, detections=parts)
