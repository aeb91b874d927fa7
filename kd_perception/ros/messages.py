"""Core values ↔ ROS messages, and nothing else."""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from functools import cache

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.serialization import deserialize_message, serialize_message
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
from kd_perception.ros import cdr
from kd_perception.runtime.model import Model


def stamp_ns(header: Header) -> int:
    """The header's stamp in nanoseconds; 0 means that nobody stamped it."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def to_bgr(message: Image | CompressedImage | cdr.ReceivedImage, max_pixels: int) -> BgrImage:
    """Decode a camera message; where the encoding allows, the result is a view of the message's data.

    Raises:
        ImageError: the message cannot be decoded; says why.
    """
    data, compressed_format = memoryview(message.data), getattr(message, 'format', None)
    if compressed_format is not None:
        return decode_compressed(data, max_pixels=max_pixels, declared=compressed_format)
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


def _cv_bridge(message: Image | cdr.ReceivedImage) -> Callable[[], BgrImage] | None:
    """cv_bridge's conversion where it is installed and loads; it knows encodings that we do not."""
    try:
        from cv_bridge import CvBridge
    except Exception:  # built against another numpy it fails in more ways than ImportError
        return None
    whole = message.message() if isinstance(message, cdr.ReceivedImage) else message
    return lambda: np.ascontiguousarray(CvBridge().imgmsg_to_cv2(whole, 'bgr8'), np.uint8)


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


def detections_message(detections: Detections, header: Header, names: Sequence[str] = ()) -> Detection2DArray:
    """Detections under the source's header, on the array and on each; `id` is the track's, empty where there is none.

    Args:
        detections: of the frame.
        header: the source's.
        names: of the classes; empty writes the index that LabelInfo explains as class_id.
    """
    count = len(detections)
    track_ids = [NO_TRACK] * count if detections.track_ids is None else detections.track_ids.tolist()
    message = Detection2DArray(header=header)
    rows = zip(
        detections.boxes.tolist(), detections.scores.tolist(), detections.class_ids.tolist(), track_ids, strict=True
    )
    for (x1, y1, x2, y2), score, class_id, track_id in rows:
        part = Detection2D(header=header, id=str(track_id) if track_id else '', results=[ObjectHypothesisWithPose()])
        bbox, hypothesis = part.bbox, part.results[0].hypothesis
        bbox.center.position.x, bbox.center.position.y = (x1 + x2) / 2, (y1 + y2) / 2
        bbox.size_x, bbox.size_y = x2 - x1, y2 - y1
        hypothesis.class_id, hypothesis.score = names[class_id] if names else str(class_id), score
        message.detections.append(part)
    return message


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


@cache
def transports_cdr() -> bool:
    """Whether the middleware in use transports images and detections as `cdr` reads and writes them."""
    header, pixels = (
        Header(stamp=Time(nanoseconds=1_000_000_002).to_msg(), frame_id='a_frame'),
        np.arange(18, dtype=np.uint8),
    )
    found = Detections(np.array([[1, 2, 4, 8.0]] * 2), np.array([0.5, 0.25]), np.array([0, 12]), np.array([0, 345]))
    picture = image_message(pixels.reshape(2, 3, 3), header)
    compressed = CompressedImage(header=header, format='jpeg', data=pixels)
    try:
        raw, packed = (
            cdr.read_image(serialize_message(picture)),
            cdr.read_compressed_image(serialize_message(compressed)),
        )
        written = deserialize_message(cdr.write_detections(found, (1, 2), 'a_frame', ()), Detection2DArray)
    except Exception:  # each middleware has errors of its own
        return False
    fields = ('header', 'height', 'width', 'encoding', 'step', 'is_bigendian')
    return (
        all(getattr(raw, field) == getattr(picture, field) for field in fields)
        and (packed.header, packed.format) == (header, 'jpeg')
        and bytes(raw.data) == bytes(packed.data) == pixels.tobytes()
        and written == detections_message(found, header)
    )
