"""Images and detections of a bag, without ROS."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd_perception.bags.message_types import COMPRESSED_IMAGE, DETECTIONS, IMAGE, LABEL_INFO
from kd_perception.bags.metadata import Topic
from kd_perception.bags.storage import BagStorage, Message, bag_errors
from kd_perception.detection.detections import Detections
from kd_perception.detection.image import BgrImage, decode_compressed, decode_raw
from kd_perception.errors import BagError

IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)


@dataclass(frozen=True)
class BagFrame:
    """An image of a bag, decoded only when asked.

    Attributes:
        stamp_ns: the header's stamp: when the camera took it. 0 where nobody stamped it.
        received_ns: when the recorder got it.
        frame_id: the header's.
        message: the recorded message, for writing it elsewhere.
    """

    stamp_ns: int
    received_ns: int
    frame_id: str
    message: Message
    _content: Any

    @property
    def key(self) -> int:
        """What tells the frame from the bag's others: its stamp, or, where nobody stamped it, when it was recorded; in ns."""
        return self.stamp_ns or self.received_ns

    def decode(self, max_pixels: int = 40_000_000) -> BgrImage:
        """The image; where the encoding allows, a read-only view of the recorded bytes.

        Raises:
            ImageError: it cannot be decoded; says why. Other frames of the bag are not affected.
        """
        content = self._content
        data = memoryview(content.data)
        if self.message.type == COMPRESSED_IMAGE:
            return decode_compressed(data, max_pixels=max_pixels, declared=content.format)
        return decode_raw(
            content.encoding, content.width, content.height, content.step, data, is_bigendian=bool(content.is_bigendian)
        )


class BagImages:
    """The images of one topic, in the order in which they were recorded. May be iterated again.

    In a `with` block, a loop that was broken off leaves no file open behind it.

    Attributes:
        storage: the bag.
        topic: the image topic's name.
        type: its message type, Image or CompressedImage.
        count: number of images, by the bag's own account.
    """

    def __init__(self, storage: BagStorage, topic: Topic) -> None:
        self.storage = storage
        self.topic = topic.name
        self.type = topic.type
        self.count = topic.count
        self._open: list[Generator[BagFrame, None, None]] = []

    def __enter__(self) -> BagImages:
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.pop().close()

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[BagFrame]:
        """All images. Raises BagError where the bag is damaged."""
        self._open.append(self._frames())
        return self._open[-1]

    def _frames(self) -> Generator[BagFrame, None, None]:
        for message in self.storage.messages([self.topic]):
            if message.type not in IMAGE_TYPES:
                raise BagError(f'{self.storage.path}: {self.topic} changes its type to {message.type}')
            content = message.decode()
            yield BagFrame(stamp_ns(content.header), message.received_ns, content.header.frame_id, message, content)


def open_bag(path: Path | str, topic: str | None = None) -> BagImages:
    """Open a bag for its images.

    Args:
        path: the bag's folder, or one .mcap or .db3 file.
        topic: image topic; may be left out where the bag has only one with images.

    Raises:
        BagError: not a readable bag, no images in it, or several image topics and none chosen; the message lists them.
    """
    storage = BagStorage(Path(path))
    return BagImages(storage, _image_topic(storage, topic))


def stamp_ns(header: Any) -> int:
    """The header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def _image_topic(storage: BagStorage, wanted: str | None) -> Topic:
    images = [topic for topic in storage.topics.values() if topic.type in IMAGE_TYPES]
    listed = ', '.join(f'{topic.name} ({topic.count})' for topic in images) or 'none'
    if wanted is not None:
        name = '/' + wanted.lstrip('/')
        found = storage.topics.get(name) or storage.topics.get(wanted)
        if found is None:
            raise BagError(f'{storage.path}: no topic {name}; its image topics are: {listed}')
        if found.type not in IMAGE_TYPES:
            raise BagError(f'{storage.path}: {name} holds {found.type}, not images; its image topics are: {listed}')
        if not found.count:
            raise BagError(f'{storage.path}: {name} holds no message; its image topics are: {listed}')
        return _of_images_only(storage, found)
    filled = [topic for topic in images if topic.count and not topic.name.endswith('/compressedDepth')]
    if len(filled) == 1:
        return _of_images_only(storage, filled[0])
    if filled:
        raise BagError(f'{storage.path}: several image topics, choose one of: {listed}')
    if images:
        raise BagError(f'{storage.path}: its image topics hold no colour images: {listed}')
    others = ', '.join(f'{topic.name} ({topic.type})' for topic in storage.topics.values()) or 'none, the bag is empty'
    raise BagError(f'{storage.path}: no image topic; its topics are: {others}')


def _of_images_only(storage: BagStorage, topic: Topic) -> Topic:
    others = [type_name for type_name in topic.other_types if type_name not in IMAGE_TYPES]
    if others:
        raise BagError(f'{storage.path}: {topic.name} holds {", ".join(others)} beside {topic.type}')
    return topic


@dataclass(frozen=True)
class DetectedObject:
    """One detection of a message, before its class is looked up.

    Attributes:
        box: x1, y1, x2, y2 in pixels.
        class_id: as it is written, a number that LabelInfo explains or a name.
        score: of the best hypothesis.
        id: the detection's own id, often empty.
    """

    box: tuple[float, float, float, float]
    class_id: str
    score: float
    id: str


def read_objects(path: Path | str, topic: str | None = None) -> dict[int, list[DetectedObject]]:
    """The detections of a topic by the stamp (ns) of their images; a later message of the same stamp replaces the first.

    Raises:
        BagError: not a readable bag, or no such topic of Detection2DArray.
    """
    storage = BagStorage(Path(path))
    return objects_of(storage, detections_topic(storage, topic))


def objects_of(storage: BagStorage, topic: str) -> dict[int, list[DetectedObject]]:
    """`read_objects` of an open bag."""
    result: dict[int, list[DetectedObject]] = {}
    for message in storage.messages([topic]):
        content = message.decode()
        with bag_errors(f'{storage.path}: {topic} does not hold detections of vision_msgs 4'):
            result[stamp_ns(content.header)] = objects_in(content)
    return result


def read_detections(path: Path | str, topic: str | None = None) -> dict[int, Detections]:
    """Detections by the stamp (ns) of their images, for topics whose class ids are numbers, as the detector publishes them.

    Raises:
        BagError: not a readable bag, no such topic, or class ids that are no numbers.
    """
    return {stamp: _detections(objects) for stamp, objects in read_objects(path, topic).items()}


def read_labels(storage: BagStorage, topic: str) -> dict[str, str]:
    """What the class ids of a detections topic mean, by the LabelInfo beside it or else the only one in the bag; may be empty."""
    candidates = [t.name for t in storage.topics.values() if t.type == LABEL_INFO and t.count]
    beside = (f'{topic}/label_info', f'{topic.rpartition("/")[0]}/label_info')
    chosen = next((name for name in beside if name in candidates), None)
    if chosen is None and len(candidates) == 1:
        chosen = candidates[0]
    labels: dict[str, str] = {}
    for message in storage.messages([chosen] if chosen else []):
        labels = {str(entry.class_id): entry.class_name for entry in message.decode().class_map}
    return labels


def detections_topic(storage: BagStorage, wanted: str | None) -> str:
    """The topic of that name, or the bag's only one with detections; BagError lists them otherwise."""
    topics = {topic.name: topic for topic in storage.topics.values() if topic.type == DETECTIONS}
    listed = ', '.join(f'{topic.name} ({topic.count})' for topic in topics.values()) or 'none'
    if wanted is not None:
        name = '/' + wanted.lstrip('/')
        if name not in topics:
            raise BagError(f'{storage.path}: no detections on {name}; topics of Detection2DArray: {listed}')
        return name
    filled = [name for name, topic in topics.items() if topic.count]
    if len(filled) != 1:
        raise BagError(f'{storage.path}: choose one of its topics of Detection2DArray: {listed}')
    return filled[0]


def objects_in(message: Any) -> list[DetectedObject]:
    """The detections of one Detection2DArray, from a bag or from ROS; those without a hypothesis are left out."""
    return [_object(entry) for entry in message.detections if entry.results]


def _object(entry: Any) -> DetectedObject:
    best = max((result.hypothesis for result in entry.results), key=lambda hypothesis: hypothesis.score)
    x, y = entry.bbox.center.position.x, entry.bbox.center.position.y
    half_x, half_y = entry.bbox.size_x / 2, entry.bbox.size_y / 2
    return DetectedObject((x - half_x, y - half_y, x + half_x, y + half_y), best.class_id, best.score, entry.id)


def is_number(class_id: str) -> bool:
    """Whether a class id is a number and not a name."""
    return re.fullmatch('[0-9]{1,9}', class_id) is not None


def _detections(objects: list[DetectedObject]) -> Detections:
    names = sorted({entry.class_id for entry in objects if not is_number(entry.class_id)})
    if names:
        raise BagError(f'class ids {", ".join(names)} are no numbers: read the topic as ground truth')
    return Detections(
        np.array([entry.box for entry in objects], np.float32),
        np.array([entry.score for entry in objects], np.float32),
        np.array([int(entry.class_id) for entry in objects], np.int32),
    )
