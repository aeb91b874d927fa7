"""Writes bags: images, detections and what their class ids mean. A bag appears under its name only when it is complete."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

import cv2
import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

from kd_perception.bags.message_types import COMPRESSED_IMAGE, DETECTIONS, IMAGE, LABEL_INFO, message, types
from kd_perception.bags.metadata import METADATA
from kd_perception.bags.storage import BagStorage, Message, bag_errors, is_storage
from kd_perception.detection.detections import Detections
from kd_perception.detection.image import BgrImage
from kd_perception.errors import BagError

StorageName = Literal['mcap', 'sqlite3']
CompressionName = Literal['none', 'file', 'message', 'storage']

METADATA_VERSION: Literal[8] = 8
"""The newest whose QoS profiles Humble reads; from 9 on they are a list where Humble expects a text."""

_STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
_IDENTITY = (0.0, 0.0, 0.0, 1.0)


class BagWriter:
    """A new bag; use it in a `with` block. It is written beside its place and moved there at the end of the block.

    When the block ends in an exception, or the disk is full, nothing is left behind, and a bag that was there before stays.

    Example:
        with BagWriter('flight', storage='mcap') as bag:
            bag.image('/image', stamp_ns, image)
            bag.detections('/ground_truth', stamp_ns, detections)
    """

    def __init__(
        self,
        path: Path | str,
        storage: StorageName = 'mcap',
        compression: CompressionName = 'none',
        overwrite: bool = False,
    ) -> None:
        """Choose where and how to write.

        Args:
            path: the bag's folder, made by us.
            storage: its format.
            compression: zstd for the whole file, for each message, or (mcap) for its chunks, as the players know it.
            overwrite: replace a bag that is already there.

        Raises:
            BagError: something lies at `path` already.
        """
        self.path = Path(path)
        if self.path.exists() and not (overwrite and is_bag_folder(self.path)):
            raise BagError(
                f'{self.path} exists already'
                + (
                    ' and is no bag, or not only a bag'
                    if overwrite
                    else '; choose another place, or replace it (--force)'
                )
            )
        self._storage = _STORAGES[storage]
        self._compression = CompressionMode[compression.upper()]
        self._connections: dict[tuple[str, str], Connection] = {}
        self._written: dict[str, _Tally] = {}

    def __enter__(self) -> BagWriter:
        with bag_errors(f'{self.path} cannot be written'):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._workshop = Path(mkdtemp(prefix=f'.{self.path.name}.', dir=self.path.parent))
        try:
            with bag_errors(f'{self.path} cannot be written'):
                # The writer names its files after the folder.
                self._writer = _Writer(
                    self._workshop / self.path.name, version=METADATA_VERSION, storage_plugin=self._storage
                )
                self._writer.set_compression(self._compression, CompressionFormat.ZSTD)
                self._writer.open()
        except BagError:
            shutil.rmtree(self._workshop, ignore_errors=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is not None:
                with suppress(Exception):  # on a full disk it fails again; the first error is the one to hear of
                    self._writer.abort()
                return
            with bag_errors(f'{self.path} cannot be written'):
                self._writer.close()
                self._read_back()
                self._move()
        finally:
            shutil.rmtree(self._workshop, ignore_errors=True)

    def _read_back(self) -> None:
        """Nothing is replaced by a bag that does not hold what was written."""
        storage = BagStorage(self._workshop / self.path.name)
        found: dict[str, _Tally] = {}
        for stored in storage.messages(list(storage.topics)):
            found.setdefault(stored.topic, _Tally()).add(stored.raw)
        if found != self._written:
            counts = {topic: tally.count for topic, tally in found.items()}
            raise BagError(f'{self.path}: it is written, but reads otherwise ({counts}): is the disk sound?')

    def _move(self) -> None:
        replaced = self._workshop / 'replaced'
        if self.path.exists():
            self.path.rename(replaced)
        try:
            (self._workshop / self.path.name).rename(self.path)
        except OSError:
            if replaced.exists():
                replaced.rename(self.path)
            raise

    def image(
        self, topic: str, stamp_ns: int, image: BgrImage, frame_id: str = 'camera', received_ns: int | None = None
    ) -> None:
        """Add a raw bgr8 image, uint8 (H, W, 3)."""
        height, width = image.shape[:2]
        content = message(
            IMAGE,
            header=header(stamp_ns, frame_id),
            height=height,
            width=width,
            encoding='bgr8',
            is_bigendian=0,
            step=3 * width,
            data=np.ascontiguousarray(image).reshape(-1),
        )
        self.write(topic, IMAGE, stamp_ns if received_ns is None else received_ns, content)

    def jpeg(
        self,
        topic: str,
        stamp_ns: int,
        image: BgrImage | bytes,
        frame_id: str = 'camera',
        received_ns: int | None = None,
        quality: int = 90,
    ) -> None:
        """Add a JPEG image: a BGR image to be compressed, or the bytes of a JPEG file as they are."""
        if isinstance(image, bytes):
            data = np.frombuffer(image, np.uint8)
        else:
            _, data = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        content = message(COMPRESSED_IMAGE, header=header(stamp_ns, frame_id), format='jpeg', data=data.reshape(-1))
        self.write(topic, COMPRESSED_IMAGE, stamp_ns if received_ns is None else received_ns, content)

    def detections(
        self,
        topic: str,
        stamp_ns: int,
        detections: Detections,
        frame_id: str = 'camera',
        received_ns: int | None = None,
        ids: Sequence[str] = (),
    ) -> None:
        """Add detections, or ground truth: class ids as numbers, to be explained by `label_info`.

        Args:
            topic: e.g. `/detections`, `/ground_truth`.
            stamp_ns: of the image.
            detections: boxes in pixels of the image.
            frame_id: of the image.
            received_ns: when they were published; the image's stamp if None.
            ids: one per detection (`crowd` and `ignore` have a meaning, docs/bags.md), or none at all.
        """
        head = header(stamp_ns, frame_id)
        rows = zip(
            detections.boxes.tolist(),
            detections.scores.tolist(),
            detections.class_ids.tolist(),
            ids or [''] * len(detections),
            strict=True,
        )
        content = message(
            DETECTIONS, header=head, detections=[_detection(head, box, score, n, id_) for box, score, n, id_ in rows]
        )
        self.write(topic, DETECTIONS, stamp_ns if received_ns is None else received_ns, content)

    def label_info(self, topic: str, stamp_ns: int, class_names: Sequence[str], threshold: float = 0.0) -> None:
        """Add what the class ids mean; beside `/ground_truth` the topic is `/ground_truth/label_info`."""
        classes = [
            message('vision_msgs/msg/VisionClass', class_id=index, class_name=name)
            for index, name in enumerate(class_names)
        ]
        content = message(LABEL_INFO, header=header(stamp_ns, ''), class_map=classes, threshold=threshold)
        self.write(topic, LABEL_INFO, stamp_ns, content)

    def write(self, topic: str, type_name: str, received_ns: int, content: Any) -> None:
        """Add a message object of any known type."""
        with bag_errors(f'{self.path} cannot be written: {type_name} on {topic}'):
            raw = types().serialize_cdr(content, type_name)
            self._add(topic, type_name, received_ns, raw)

    def copy(self, recorded: Message) -> None:
        """Add a message of another bag as it is."""
        with bag_errors(f'{self.path} cannot be written: {recorded.type} on {recorded.topic}'):
            self._add(recorded.topic, recorded.type, recorded.received_ns, recorded.raw)

    def _add(self, topic: str, type_name: str, received_ns: int, raw: bytes | memoryview) -> None:
        self._writer.write(self._connection(topic, type_name), received_ns, raw)
        self._written.setdefault(topic, _Tally()).add(raw)

    def _connection(self, topic: str, type_name: str) -> Connection:
        connection = self._connections.get((topic, type_name))
        if connection is None:
            connection = self._writer.add_connection(topic, type_name, typestore=types())
            self._connections[topic, type_name] = connection
        return connection


def header(stamp_ns: int, frame_id: str) -> Any:
    """A std_msgs/Header."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    stamp = message('builtin_interfaces/msg/Time', sec=seconds, nanosec=nanoseconds)
    return message('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)


def is_bag_folder(path: Path) -> bool:
    """Whether a folder is a bag and nothing else, so that it may be replaced by another bag."""
    return (path / METADATA).is_file() and all(
        file.name == METADATA or is_storage(file.with_name(file.name.removesuffix('-wal').removesuffix('-shm')))
        for file in path.iterdir()
    )


@dataclass
class _Tally:
    """Of a topic's messages, in any order."""

    count: int = 0
    checksum: int = 0

    def add(self, raw: bytes | memoryview) -> None:
        self.count += 1
        self.checksum = (self.checksum + zlib.crc32(raw)) % (1 << 64)


class _SqliteStorage(Sqlite3Writer):
    """The library hands the path to sqlite as a URI, in which `#`, `?` and `%` mean something else."""

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        super().__init__(Path(quote(os.fsencode(path))), compression)
        self.path = path / f'{path.name}.db3'


class _Writer(Writer):
    STORAGE_PLUGINS: Mapping[StoragePlugin, Any] = {
        **Writer.STORAGE_PLUGINS,
        StoragePlugin.SQLITE3: _SqliteStorage,
    }


def _detection(head: Any, box: Sequence[float], score: float, class_id: int, id_: str) -> Any:
    x1, y1, x2, y2 = box
    position = message('vision_msgs/msg/Point2D', x=(x1 + x2) / 2, y=(y1 + y2) / 2)
    center = message('vision_msgs/msg/Pose2D', position=position, theta=0.0)
    hypothesis = message('vision_msgs/msg/ObjectHypothesis', class_id=str(class_id), score=score)
    result = message('vision_msgs/msg/ObjectHypothesisWithPose', hypothesis=hypothesis, pose=_unknown_pose())
    return message(
        'vision_msgs/msg/Detection2D',
        header=head,
        results=[result],
        bbox=message('vision_msgs/msg/BoundingBox2D', center=center, size_x=x2 - x1, size_y=y2 - y1),
        id=id_,
    )


def _unknown_pose() -> Any:
    x, y, z, w = _IDENTITY
    pose = message(
        'geometry_msgs/msg/Pose',
        position=message('geometry_msgs/msg/Point', x=0.0, y=0.0, z=0.0),
        orientation=message('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w),
    )
    return message('geometry_msgs/msg/PoseWithCovariance', pose=pose, covariance=np.zeros(36))
