"""What is in a bag, in a few lines."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from itertools import pairwise
from pathlib import Path

from kd_perception.bags.reader import IMAGE_TYPES, BagFrame, BagImages
from kd_perception.bags.storage import BagStorage
from kd_perception.bags.truth_sources import read_truth_topic
from kd_perception.errors import BagError, ImageError


def describe(path: Path) -> str:
    """Files, topics, and for every image topic its size, rate and duration; the classes of the ground truth. Reads it whole.

    Raises:
        BagError: not a readable bag.
    """
    storage = BagStorage(path)
    size = sum(file.stat().st_size for file in storage.files)
    lines = [f'{storage.path}: {_count(len(storage.files), "file")}, {size / 2**20:.1f} MiB']
    for topic in sorted(storage.topics.values(), key=lambda topic: topic.name):
        lines.append(f'  {topic.name:28} {topic.count:7}  {topic.type}')
        if topic.type in IMAGE_TYPES and topic.count:
            lines.append(f'  {"":28} {"":7}  {_images(BagImages(storage, topic))}')
    others = [topic.name for topic in storage.topics.values() if topic.type not in IMAGE_TYPES]
    deque(storage.messages(others), maxlen=0)  # refused where it states other messages than it holds
    return '\n'.join([*lines, f'  ground truth: {_truth(path)}'])


def _images(images: BagImages) -> str:
    size, stamps = 'nothing to read', array('q')
    for frame in images:
        if not stamps:
            size = _size(frame)
        stamps.append(frame.key)
    seconds = (max(stamps, default=0) - min(stamps, default=0)) * 1e-9
    rate = f', {(len(stamps) - 1) / seconds:.1f} frames/s for {seconds:.1f} s' if seconds > 0 else ''
    backwards = sum(later < earlier for earlier, later in pairwise(stamps))
    return f'{size}{rate}' + (f', {_count(backwards, "stamp")} running backwards' if backwards else '')


def _size(frame: BagFrame) -> str:
    try:
        height, width = frame.decode().shape[:2]
    except ImageError as error:
        return f'cannot be decoded: {error}'
    return f'{width}x{height}'


def _truth(path: Path) -> str:
    try:
        frames = read_truth_topic(path).frames
    except BagError as error:
        return str(error)
    if not frames:
        return 'none'
    classes = Counter(entry.class_name for objects in frames.values() for entry in objects)
    return f'{_count(len(frames), "frame")}, ' + ', '.join(f'{name} {count}' for name, count in classes.most_common())


def _count(number: int, what: str) -> str:
    return f'{number} {what}' + ('' if number == 1 else 's')
