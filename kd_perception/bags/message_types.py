"""The ROS message types that bags hold, known without ROS: sensor_msgs by rosbags, vision_msgs by our own copy."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
DETECTIONS = 'vision_msgs/msg/Detection2DArray'
LABEL_INFO = 'vision_msgs/msg/LabelInfo'


@cache
def types() -> Typestore:
    """Every type of Humble, which have not changed since, and vision_msgs 4."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    for definition in sorted(files(__package__).joinpath('vision_msgs').iterdir(), key=lambda file: file.name):
        if definition.name.endswith('.msg'):
            name = f'vision_msgs/msg/{definition.name.removesuffix(".msg")}'
            store.register(get_types_from_msg(definition.read_text(), name))
    return store


def message(type_name: str, **fields: Any) -> Any:
    """A message of a type, e.g. `message(IMAGE, header=…, height=…)`; every field must be given."""
    return types().types[type_name](**fields)
