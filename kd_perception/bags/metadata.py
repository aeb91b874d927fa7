"""`metadata.yaml` of a rosbag2, read as what it is when strangers made it: bounded, without aliases, every text as it stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kd_perception.errors import BagError
from kd_perception.plain_yaml import plain_yaml
from kd_perception.regular_file import read_regular

METADATA = 'metadata.yaml'
MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    Attributes:
        name: with its leading slash.
        type: full type name, `package/msg/Name`.
        count: number of messages, by the bag's own account.
        other_types: further types that messages on this topic have.
    """

    name: str
    type: str
    count: int
    other_types: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metadata:
    """What the recorder states of its bag.

    Attributes:
        files: names of the storage files in order.
        topics: by name.
    """

    files: tuple[str, ...]
    topics: dict[str, Topic]


def read_metadata(path: Path) -> Metadata:
    """Read metadata.yaml.

    Raises:
        BagError, ValueError, KeyError, TypeError, yaml.YAMLError: it cannot be used.
    """
    content = plain_yaml(read_regular(path, MAX_BYTES, BagError).decode('utf-8'))['rosbag2_bagfile_information']
    topics: dict[str, Topic] = {}
    for entry in content['topics_with_message_count'] or ():
        topic = entry['topic_metadata']
        add_topic(topics, str(topic['name']), str(topic['type']), _count(entry['message_count']))
    # Old bags name their files with the recorder's folders.
    files = tuple(PurePosixPath(name).name for name in content['relative_file_paths'] or ())
    return Metadata(files, topics)


def add_topic(topics: dict[str, Topic], name: str, type_name: str, count: int) -> None:
    """Add messages of a type to a topic."""
    full = full_name(type_name)
    known = topics.get(name)
    if known is None:
        topics[name] = Topic(name, full, count)
        return
    types = dict.fromkeys((known.type, *known.other_types, full))
    topics[name] = Topic(name, known.type, known.count + count, tuple(types)[1:])


def full_name(type_name: str) -> str:
    """The type's name as it is today: old bags say `sensor_msgs/Image` for `sensor_msgs/msg/Image`."""
    package, _, name = type_name.partition('/')
    return f'{package}/msg/{name}' if name and '/' not in name else type_name


def _count(text: str) -> int:
    count = int(text)
    if not 0 <= count < 1 << 63:
        raise ValueError(f'{text[:40]} is no number of messages')
    return count
