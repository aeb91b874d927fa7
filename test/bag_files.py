"""Bags for tests, in every form in which rosbag2 leaves them."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from kd_perception.bags.message_types import types
from kd_perception.bags.reader import open_bag
from kd_perception.bags.writer import BagWriter
from kd_perception.errors import ImageError

START = 1_700_000_000_000_000_000
PERIOD = 33_333_333
IMAGES = 6
"""In a small bag."""
FORMS = [
    ('mcap', 'none'),
    ('mcap', 'file'),
    ('mcap', 'message'),
    ('mcap', 'storage'),
    ('sqlite3', 'none'),
    ('sqlite3', 'file'),
    ('sqlite3', 'message'),
]
"""Storage and compression."""


def stamps(count: int) -> list[int]:
    """Stamps of 30 images a second."""
    return [START + k * PERIOD for k in range(count)]


def numbered_image(k: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A BGR image that differs from every other number's."""
    image = np.random.default_rng(k).integers(0, 256, (height, width, 3), np.uint8)
    image[0, 0] = k % 256
    return image


def image_bag(path: Path, count: int = 5, first: int = 0, topic: str = '/camera/image', **form: Any) -> Path:
    """A bag of numbered raw images, the first of them number `first`."""
    with BagWriter(path, **form) as bag:
        for k in range(first, first + count):
            bag.image(topic, START + k * PERIOD, numbered_image(k), received_ns=START + k * PERIOD + 5_000_000)
    return path


def small_bag(path: Path, storage: str = 'mcap', compression: str = 'none') -> Path:
    """A bag of tiny images, each of one gray, beside the names of the classes."""
    with BagWriter(path, storage, compression) as bag:
        bag.label_info('/label_info', 1, ['car'])
        for number in range(IMAGES):
            bag.image('/image', 10**9 + number * 10**8, np.full((4, 6, 3), number, np.uint8))
    return path


def count_images(path: Path) -> int:
    """Images of a small bag that were read, decodable or not."""
    number = 0
    with open_bag(path, '/image') as images:
        for frame in images:
            number += 1
            try:
                frame.decode()
            except ImageError:
                continue
    return number


def join_splits(parts: Sequence[Path], target: Path) -> Path:
    """One bag of several files, as `ros2 bag record --max-bag-size` makes it."""
    target.mkdir()
    documents = [yaml.safe_load((part / 'metadata.yaml').read_text()) for part in parts]
    whole = documents[0]['rosbag2_bagfile_information']
    files = []
    for number, (part, document) in enumerate(zip(parts, documents, strict=True)):
        source = document['rosbag2_bagfile_information']['relative_file_paths'][0]
        name = f'{target.name}_{number}{"".join(Path(source).suffixes)}'
        shutil.copy(part / source, target / name)
        files.append(name)
    whole['relative_file_paths'] = files
    for topic, *others in zip(
        *(document['rosbag2_bagfile_information']['topics_with_message_count'] for document in documents), strict=True
    ):
        topic['message_count'] += sum(other['message_count'] for other in others)
    (target / 'metadata.yaml').write_text(yaml.safe_dump(documents[0]))
    return target


def rename_types(source: Path, target: Path, rename: Callable[[str], str], storage: StoragePlugin) -> Path:
    """A copy whose topics carry other type names, as bags of the first ROS 2 releases do."""
    with Reader(source) as reader, Writer(target, version=9, storage_plugin=storage) as writer:
        connections = {
            c.id: writer.add_connection(
                c.topic,
                rename(c.msgtype),
                msgdef=types().generate_msgdef(c.msgtype, ros_version=2)[0],
                rihs01=types().hash_rihs01(c.msgtype),
            )
            for c in reader.connections
        }
        for connection, timestamp, raw in reader.messages():
            writer.write(connections[connection.id], timestamp, raw)
    return target


def first_generation_bag(folder: Path, images: Sequence[bytes]) -> Path:
    """A bag as the first ROS 2 releases wrote it: no schema table, no QoS, short type names, the recorder's own path."""
    folder.mkdir()
    with sqlite3.connect(folder / f'{folder.name}_0.db3') as database:
        database.executescript(
            'CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,'
            ' serialization_format TEXT NOT NULL);'
            'CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, timestamp INTEGER NOT NULL,'
            ' data BLOB NOT NULL);'
            "INSERT INTO topics VALUES (1, '/camera/image', 'sensor_msgs/Image', 'cdr');"
            "INSERT INTO topics VALUES (2, '/rosout', 'rcl_interfaces/Log', 'cdr');"
        )
        rows = [(START + k * PERIOD, image) for k, image in enumerate(images)]
        database.executemany('INSERT INTO messages(topic_id, timestamp, data) VALUES (1, ?, ?)', rows)
    topic = {'name': '/camera/image', 'type': 'sensor_msgs/Image', 'serialization_format': 'cdr'}
    log = {'name': '/rosout', 'type': 'rcl_interfaces/Log', 'serialization_format': 'cdr'}
    content = {
        'version': 2,
        'storage_identifier': 'sqlite3',
        'relative_file_paths': [f'home/pilot/{folder.name}/{folder.name}_0.db3'],
        'duration': {'nanoseconds': PERIOD * (len(images) - 1)},
        'starting_time': {'nanoseconds_since_epoch': START},
        'message_count': len(images),
        'topics_with_message_count': [
            {'topic_metadata': topic, 'message_count': len(images)},
            {'topic_metadata': log, 'message_count': 0},
        ],
    }
    (folder / 'metadata.yaml').write_text(yaml.safe_dump({'rosbag2_bagfile_information': content}))
    return folder
