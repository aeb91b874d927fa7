"""Core values ↔ ROS messages, and nothing else."""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
    VisionClass,
    VisionInfo,
)

from kd_perception.bundles.bundle import Bundle
from kd_perception.detection.detections import NO_TRACK, Detections
from kd_perception.detection.image import RAW_ENCODINGS, BgrImage, decode_compressed, decode_raw
from kd_perception.detection.stage_times import StageTimes
from kd_perception.errors import ImageTooLargeError
from kd_perception.runtime.model import Model


def stamp_ns(header: Header) -> int:
    """The header's stamp in nanoseconds; 0 means that nobody stamped it."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def to_bgr(message: Image | CompressedImage, max_pixels: int) -> BgrImage:
    """Decode a camera message; where the encoding allows, the result is a view of the message's data.

    Raises:
        ImageError: the message cannot be decoded; says why.
    """
    data = memoryview(message.data)
    if isinstance(message, CompressedImage):
        return decode_compressed(data, max_pixels=max_pixels, declared=message.format)
    width, height = message.width, message.height
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f'image of {width}x{height} is over the limit of {max_pixels} pixels (max_image_pixels)'
        )
    return decode_raw(
        message.encoding,
        width,
        height,
        message.step,
        data,
        is_bigendian=bool(message.is_bigendian),
        fallback=None if message.encoding in RAW_ENCODINGS else _cv_bridge(message),
    )


def _cv_bridge(message: Image) -> Callable[[], BgrImage] | None:
    """cv_bridge's conversion where it is installed and loads; it knows encodings that we do not."""
    try:
        from cv_bridge import CvBridge
    except Exception:  # built against another numpy it fails in more ways than ImportError
        return None
    return lambda: np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, 'bgr8'), np.uint8)


def fill_data(message: Image | CompressedImage, content: bytes | memoryview) -> None:
    """Set `message.data` the quick way: rclpy checks every byte of anything but an array.array."""
    data = array.array('B')
    data.frombytes(content)
    message.data = data


def image_message(image: BgrImage, header: Header, encoding: str = 'bgr8') -> Image:
    """A raw image message of a contiguous uint8 (H, W, 3) image."""
    height, width = image.shape[:2]
    message = Image(header=header, height=height, width=width, encoding=encoding, step=3 * width)
    fill_data(message, np.ascontiguousarray(image).data.cast('B'))
    return message


def jpeg_message(image: BgrImage, header: Header, quality: int = 85) -> CompressedImage:
    """A JPEG compressed image message of a BGR image."""
    _, encoded = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    message = CompressedImage(header=header, format='bgr8; jpeg compressed bgr8')
    fill_data(message, encoded.data.cast('B'))
    return message


class DetectionsWriter:
    """Makes Detection2DArray messages of parts that it reuses: rclpy's constructors would cost more than a small frame's rest.

    A message is valid until the next one is made; publishing is done with it by then.
    """

    def __init__(self) -> None:
        self._parts: list[Detection2D] = []

    def message(self, detections: Detections, header: Header, names: Sequence[str] = ()) -> Detection2DArray:
        """Detections under the source's header, on the array and on each; `id` is the track's, empty where there is none.

        Args:
            detections: of the frame.
            header: the source's.
            names: of the classes; empty writes the index that LabelInfo explains as class_id.
        """
        while len(self._parts) < len(detections):
            self._parts.append(Detection2D(results=[ObjectHypothesisWithPose()]))
        parts = self._parts[: len(detections)]
        count = len(detections)
        track_ids = [NO_TRACK] * count if detections.track_ids is None else detections.track_ids.tolist()
        class_ids = detections.class_ids.tolist()
        rows = zip(parts, detections.boxes.tolist(), detections.scores.tolist(), class_ids, track_ids, strict=True)
        for part, (x1, y1, x2, y2), score, class_id, track_id in rows:
            part.header = header
            part.id = str(track_id) if track_id else ''
            bbox, hypothesis = part.bbox, part.results[0].hypothesis
            bbox.center.position.x, bbox.center.position.y = (x1 + x2) / 2, (y1 + y2) / 2
            bbox.size_x, bbox.size_y = x2 - x1, y2 - y1
            hypothesis.class_id, hypothesis.score = names[class_id] if names else str(class_id), score
        return Detection2DArray(header=header, detections=parts)


def detections_message(detections: Detections, header: Header) -> Detection2DArray:
    """A message of its own, see `DetectionsWriter.message`."""
    return DetectionsWriter().message(detections, header)


def from_detections_message(message: Detection2DArray) -> Detections:
    """The best hypothesis of every detection; those without a hypothesis or with a class that is no number are left out."""
    boxes, scores, class_ids, track_ids = [], [], [], []
    for detection in message.detections:
        if not detection.results:
            continue
        best = max(detection.results, key=lambda result: result.hypothesis.score).hypothesis
        if not best.class_id.isdecimal():
            continue
        x, y = detection.bbox.center.position.x, detection.bbox.center.position.y
        half_x, half_y = detection.bbox.size_x / 2, detection.bbox.size_y / 2
        boxes.append((x - half_x, y - half_y, x + half_x, y + half_y))
        scores.append(best.score)
        class_ids.append(int(best.class_id))
        track_ids.append(int(detection.id) if detection.id.isdecimal() else NO_TRACK)
    tracked = np.array(track_ids, np.int64) if any(track_ids) else None
    return Detections(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(class_ids, np.int32), tracked)


def label_info_message(bundle: Bundle, score_threshold: float, header: Header) -> LabelInfo:
    """What the class ids mean, and the score from which detections are published."""
    classes = [VisionClass(class_id=index, class_name=name) for index, name in enumerate(bundle.classes)]
    return LabelInfo(header=header, class_map=classes, threshold=score_threshold)


def vision_info_message(model: Model, version: int, header: Header) -> VisionInfo:
    """Which network speaks: name, precision and engine that really run, the artifact's hash, and how many models came before."""
    return VisionInfo(
        header=header,
        method=f'{model.bundle.name} {model.info.precision} {model.info.engine}',
        database_location=f'sha256:{model.artifact.sha256}',
        database_version=version,
    )


def frame_latency_message(times: StageTimes, header: Header, node: str, camera: str = '') -> DiagnosticArray:
    """The stages of one frame in milliseconds, under the frame's own header.

    Plotters read this form by themselves: PlotJuggler makes a curve of every value that is a number and calls it
    `<topic>/<hardware_id>/<name>/<key>`; Foxglove takes `<topic>.status[0].values[:]{key=="age"}.value`. So all values are
    plain numbers, names never change, and the units are those of the sentence.

    Args:
        times: of the frame.
        header: the frame's.
        node: the node's full name, for `hardware_id`.
        camera: the camera's name, behind `frame_latency` in the status's name where there is one.
    """
    values = [KeyValue(key=stage, value=f'{value:.3f}') for stage, value in times.as_dict().items()]
    name = '/'.join(filter(None, ['frame_latency', camera.strip('/')]))
    status = DiagnosticStatus(level=DiagnosticStatus.OK, name=name, message='ms', hardware_id=node, values=values)
    return DiagnosticArray(header=header, status=[status])


def header_at(nanoseconds: int, frame_id: str) -> Header:
    """A header of a stamp in nanoseconds."""
    return Header(stamp=Time(nanoseconds=nanoseconds).to_msg(), frame_id=frame_id)
