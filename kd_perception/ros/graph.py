"""What the ROS graph shows where images do not come: who publishes, in which type and QoS, and what is there instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rclpy import get_rmw_implementation_identifier
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

from kd_perception.ros import qos
from kd_perception.ros.large_messages import profile_variable

IMAGE_TYPE = 'sensor_msgs/msg/Image'
COMPRESSED_TYPE = 'sensor_msgs/msg/CompressedImage'
COMPRESSED = '/compressed'
"""What image_transport appends to the name of a camera's topic."""

Source = tuple[str, str]
"""A resolved topic and the type of its messages."""

LARGE_MESSAGE_BYTES = 500_000
"""Fast DDS loses best-effort messages above this without the shared-memory profile."""

MOST_NAMED = 4
"""Topics that a sentence lists."""


@dataclass(frozen=True)
class ImageTopic:
    """What a camera of the node subscribes to.

    Attributes:
        name: the resolved topic.
        type: of its messages, `IMAGE_TYPE` or `COMPRESSED_TYPE`.
        base: what a user remaps, such as `front/image`.
        profile: the subscription's QoS; None while there is no subscription.
    """

    name: str
    type: str
    base: str
    profile: QoSProfile | None = None

    @property
    def is_compressed(self) -> bool:
        """Whether it carries JPEG or PNG."""
        return self.type == COMPRESSED_TYPE


def published_source(node: Node, sources: Sequence[Source], present: Source) -> Source:
    """Where images are published: the first of `sources` that has a publisher; the present one while it has one, or none has.

    Args:
        node: who subscribes.
        sources: topic and type, the preferred one first.
        present: what is subscribed to.
    """
    if _is_published(node, present):
        return present
    return next((source for source in sources if _is_published(node, source)), present)


def _is_published(node: Node, source: Source) -> bool:
    topic, kind = source
    return any(publisher.topic_type == kind for publisher in node.get_publishers_info_by_topic(topic))


def incompatibility(node: Node, topic: ImageTopic) -> str:
    """The publisher that our subscription cannot match, in words with the cure; empty where there is none."""
    if topic.profile is None:
        return ''
    for publisher in node.get_publishers_info_by_topic(topic.name):
        verdict, _ = qos_check_compatible(publisher.qos_profile, topic.profile)
        if publisher.topic_type == topic.type and verdict == QoSCompatibility.ERROR:
            return qos.incompatibility(topic.name, qos.mismatch(publisher.qos_profile, topic.profile), 'subscription')
    return ''


def why_no_image(node: Node, topic: ImageTopic, largest: int) -> str:
    """Why no image may be coming, and what to do.

    Args:
        node: who subscribes.
        topic: what it subscribes to.
        largest: bytes of the largest image so far; 0 where none has come.
    """
    publishers = node.get_publishers_info_by_topic(topic.name)
    if not publishers:
        return f'nobody publishes on {topic.name}{_instead(node, topic)}'
    types = {publisher.topic_type for publisher in publishers}
    if topic.type not in types:
        return f'{topic.name} carries {", ".join(sorted(types))}, not {topic.type}{_transport_of(topic, types)}'
    names = ', '.join(sorted({_full_name(publisher.node_namespace, publisher.node_name) for publisher in publishers}))
    # Before the first image, raw ones may be large; afterwards their size is known.
    may_be_large = _is_fast_dds() and (largest >= LARGE_MESSAGE_BYTES or not (largest or topic.is_compressed))
    large = f'; if it sends images over 0.5 MB, {cure_of_loss(topic, LARGE_MESSAGE_BYTES)}' if may_be_large else ''
    if largest:
        return f'{names} still publishes on {topic.name} and sends nothing: look at the camera{large}'
    return f'{names} publishes on {topic.name}, but nothing has arrived: is the camera running?{large}'


def cure_of_loss(topic: ImageTopic, largest: int) -> str:
    """What helps against messages that the middleware loses; `largest` is the largest image, in bytes."""
    compress = '' if topic.is_compressed else ', or use image_transport:=compressed'
    if largest < LARGE_MESSAGE_BYTES or not _is_fast_dds():
        return f'lower the rate or the size of its images{compress}; the network or this machine cannot keep up'
    return (
        f"give the camera's process the larger shared memory of Fast DDS "
        f'({profile_variable()}=$(ros2 pkg prefix --share kd_perception)/config/fastdds_shm.xml){compress}'
    )


def clock_fault(node: Node) -> str:
    """What is wrong with the clock that stamps are compared with; empty when nothing is."""
    if node.get_parameter('use_sim_time').value and node.get_clock().now().nanoseconds == 0:
        publishers = node.count_publishers('/clock')
        lack = 'its publisher sends nothing' if publishers else 'nobody publishes it'
        return (
            f'use_sim_time is true and no /clock has come ({lack}): start the simulation, or the bag with --clock, or set '
            'use_sim_time to false'
        )
    return ''


def namesakes(node: Node) -> str:
    """A warning where another node has this node's name; empty where none has."""
    mine = (node.get_name(), node.get_namespace())
    others = node.get_node_names_and_namespaces().count(mine) - 1
    if others < 1:
        return ''
    return (
        f'{others + 1} nodes are named {node.get_fully_qualified_name()}: services, parameters and diagnostics of the two mix; '
        'give one another name or namespace (one that was killed is shown for up to 20 s)'
    )


def _transport_of(topic: ImageTopic, types: set[str]) -> str:
    """How to read a topic that carries these types instead of ours."""
    if topic.is_compressed:
        return '; set image_transport:=raw' if IMAGE_TYPE in types else ''
    if COMPRESSED_TYPE not in types:
        return ''
    base = topic.name.removesuffix(COMPRESSED)
    return f'; set image_transport:=compressed and remap {topic.base}:={base}'


def _instead(node: Node, topic: ImageTopic) -> str:
    """What is published that may be meant."""
    other = topic.name.removesuffix(COMPRESSED) if topic.is_compressed else topic.name + COMPRESSED
    if node.count_publishers(other):
        transport = 'raw' if topic.is_compressed else 'compressed'
        return f', but {other} is there: set image_transport:={transport}'
    found = [
        name for name, types in node.get_topic_names_and_types() if topic.type in types and _is_foreign(node, name)
    ]
    cameras = [name.removesuffix(COMPRESSED) if topic.is_compressed else name for name in sorted(found)]
    if cameras:
        return f'; remap it to the camera: {topic.base}:={cameras[0]} (there are {", ".join(cameras[:MOST_NAMED])})'
    return f', and nothing else publishes {topic.type}: start the camera, or remap {topic.base}:=ITS_TOPIC'


def _is_foreign(node: Node, topic: str) -> bool:
    """Whether somebody else publishes the topic."""
    own = (node.get_name(), node.get_namespace())
    return any((p.node_name, p.node_namespace) != own for p in node.get_publishers_info_by_topic(topic))


def _is_fast_dds() -> bool:
    return 'fastrtps' in get_rmw_implementation_identifier()


def _full_name(namespace: str, name: str) -> str:
    return f'{namespace.rstrip("/")}/{name}'
