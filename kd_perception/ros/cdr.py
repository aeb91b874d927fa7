"""Images read from CDR, the bytes that ROS 2 transports, and detections written to it, without the message objects between.

rclpy's converters copy every image twice and visit each field of each message by name; right after an inference, when
nothing of that code is in the processor's caches, this takes longer than the work itself.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from kd_perception.detection.detections import NO_TRACK, Detections
from kd_perception.errors import MalformedImageError

_BYTE_ORDERS = {b'\0\0': '>', b'\0\1': '<', b'\0\6': '>', b'\0\7': '<'}
"""The first two bytes of a message whose fields follow each other in order: CDR and, for these types the same, CDR 2."""
_IDENTITY = struct.pack('<43d', *[0.0] * 6, 1.0, *[0.0] * 36)
"""A geometry_msgs/PoseWithCovariance that says nothing: no place, no turn, no covariance."""


class CdrError(MalformedImageError):
    """Bytes that are no image message of the form that we read."""


@dataclass(slots=True)
class ReceivedImage:
    """A sensor_msgs/Image or CompressedImage; the fields have the names and meanings that they have there.

    Attributes:
        content: the whole message; `data` is a view of it.
        stamp: seconds and nanoseconds.
        format: of a compressed image; None says that the image is raw.
    """

    content: bytes
    stamp: tuple[int, int]
    frame_id: str
    data: memoryview
    format: str | None = None
    encoding: str = ''
    height: int = 0
    width: int = 0
    step: int = 0
    is_bigendian: int = 0

    @property
    def header(self) -> Header:
        """As a message of its own."""
        return Header(stamp=Time(sec=self.stamp[0], nanosec=self.stamp[1]), frame_id=self.frame_id)

    def message(self) -> Image | CompressedImage:
        """The message object, for whoever needs one."""
        return deserialize_message(self.content, Image if self.format is None else CompressedImage)


def read_image(content: bytes) -> ReceivedImage:
    """A sensor_msgs/Image; raises CdrError."""
    return _read(content, compressed=False)


def read_compressed_image(content: bytes) -> ReceivedImage:
    """A sensor_msgs/CompressedImage; raises CdrError."""
    return _read(content, compressed=True)


def _read(content: bytes, compressed: bool) -> ReceivedImage:
    order = _BYTE_ORDERS.get(content[:2])
    if order is None:
        raise CdrError(f'the message begins with {content[:4].hex(" ")}, which is no CDR of fields in their order')
    try:
        stamp = struct.unpack_from(order + 'iI', content, 4)
        frame_id, at = _text(content, 12, order)
        if compressed:
            text, at = _text(content, _aligned(at), order)
            return ReceivedImage(content, stamp, frame_id, _bytes(content, _aligned(at), order), text)
        height, width = struct.unpack_from(order + 'II', content, _aligned(at))
        encoding, at = _text(content, _aligned(at) + 8, order)
        is_bigendian = content[at]
        (step,) = struct.unpack_from(order + 'I', content, at := _aligned(at + 1))
        data = _bytes(content, at + 4, order)
    except (struct.error, IndexError):
        raise CdrError(f'the message of {len(content)} bytes ends before its last field') from None
    return ReceivedImage(content, stamp, frame_id, data, None, encoding, height, width, step, is_bigendian)


def _aligned(at: int) -> int:
    return (at + 3) & ~3


def _text(content: bytes, at: int, order: str) -> tuple[str, int]:
    """A string, whose length counts the zero at its end, and where it ends."""
    (length,) = struct.unpack_from(order + 'I', content, at)
    end = at + 4 + length
    if end > len(content):
        raise IndexError
    return str(content[at + 4 : end - 1] if length else b'', 'utf-8', 'replace'), end


def _bytes(content: bytes, at: int, order: str) -> memoryview:
    (length,) = struct.unpack_from(order + 'I', content, at)
    if at + 4 + length > len(content):
        raise IndexError
    return memoryview(content)[at + 4 : at + 4 + length]


def write_detections(detections: Detections, stamp: tuple[int, int], frame_id: str, names: tuple[str, ...]) -> bytes:
    """A vision_msgs/Detection2DArray, equal to that of `messages.detections_message`.

    Args:
        detections: of the frame.
        stamp: of the source's header, seconds and nanoseconds.
        frame_id: of the source's header.
        names: of the classes; empty writes the index that LabelInfo explains as class_id.
    """
    count, pack = len(detections), struct.pack
    name = frame_id.encode() + b'\0'
    header = pack('<iII', *stamp, len(name)) + name + bytes(-len(name) % 4)
    out = bytearray(b'\0\1\0\0' + header + pack('<I', count))
    track_ids = [NO_TRACK] * count if detections.track_ids is None else detections.track_ids.tolist()
    rows = zip(
        detections.boxes.tolist(), detections.scores.tolist(), detections.class_ids.tolist(), track_ids, strict=True
    )
    for (x1, y1, x2, y2), score, class_id, track_id in rows:
        text = (names[class_id] if names else str(class_id)).encode() + b'\0'
        identity = (str(track_id) if track_id else '').encode() + b'\0'
        out += bytes(-len(out) % 4) + header + pack('<II', 1, len(text)) + text
        # 8-byte fields are aligned to the first byte behind the four that say what CDR this is.
        out += bytes((4 - len(out)) % 8) + pack('<d', score) + _IDENTITY
        out += pack('<5dI', (x1 + x2) / 2, (y1 + y2) / 2, 0.0, x2 - x1, y2 - y1, len(identity)) + identity
    return bytes(out)
