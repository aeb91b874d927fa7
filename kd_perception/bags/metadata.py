"""`metadata.yaml` of a rosbag2, read as what it is when strangers made it: bounded, without aliases, every text as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

METADATA = 'metadata.yaml'
MAX_BYTES = 16 << 20
MAX_NODES = 500_000
"""Texts, lists and mappings. A recording of a week in thousands of files has 100,000."""
MAX_DEPTH = 16


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
        ValueError, KeyError, TypeError, OSError, yaml.YAMLError: it cannot be used.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f'it has more than {MAX_BYTES} bytes')
    content = plain_yaml(path.read_text('utf-8'))['rosbag2_bagfile_information']
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


def plain_yaml(text: str) -> Any:
    """Lists, mappings and texts of a YAML document; numbers stay texts. In one pass, so that its size bounds the work.

    Raises:
        ValueError: aliases, directives, keys that are no texts or come twice, too many nodes, nested too deeply.
        yaml.YAMLError: no YAML.
    """
    if text.startswith('%') or '\n%' in text:  # the work for directives grows with their square
        raise ValueError('it holds a YAML directive')
    loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
    events = yaml.parse(text, Loader=loader)
    for event in events:
        if not isinstance(event, (yaml.StreamStartEvent, yaml.DocumentStartEvent)):
            return _node(event, events, 0, [0])
    return None


def _node(event: Any, events: Iterator[Any], depth: int, nodes: list[int]) -> Any:
    nodes[0] += 1
    if depth > MAX_DEPTH or nodes[0] > MAX_NODES:
        raise ValueError('it is nested too deeply' if depth > MAX_DEPTH else f'it has more than {MAX_NODES} entries')
    if isinstance(event, yaml.ScalarEvent):
        plain = event.style is None or event.style == ''
        return None if plain and event.value in ('', '~', 'null') else event.value
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_node(item, events, depth + 1, nodes))
        return items
    if isinstance(event, yaml.MappingStartEvent):
        return _mapping(events, depth, nodes)
    raise ValueError('it holds an alias' if isinstance(event, yaml.AliasEvent) else 'it ends early')


def _mapping(events: Iterator[Any], depth: int, nodes: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        if not isinstance(event, yaml.ScalarEvent):
            raise ValueError('a key of it is no text')
        if event.value in found or event.value == '<<':
            raise ValueError(
                f'it holds the key {event.value[:40]!r} twice' if event.value in found else 'it merges keys'
            )
        found[event.value] = _node(next(events), events, depth + 1, nodes)
    return found
