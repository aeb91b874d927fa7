"""Starting ROS 2 in a process; arguments that it refuses end in one line instead of a traceback."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import rclpy
from rclpy.exceptions import ParameterException

from kd_perception.errors import KdPerceptionError
from kd_perception.ros.large_messages import allow_large_messages

_SOURCE_PLACES = re.compile(r', at \S+:\d+')


class RosArgumentsError(KdPerceptionError):
    """Arguments behind `--ros-args` that ROS 2 does not understand."""


N = TypeVar('N')


def start_node(make: Callable[[], N]) -> N:
    """Make a node; raises RosArgumentsError where a parameter that ROS itself declares has a value of a wrong type."""
    try:
        return make()
    except ParameterException as error:
        raise RosArgumentsError(f'ROS arguments: {error}') from error


def start_ros(args: list[str] | None, **options: Any) -> None:
    """`rclpy.init`, with large messages allowed.

    Args:
        args: the process's arguments; None takes `sys.argv`.
        options: see `rclpy.init`.

    Raises:
        RosArgumentsError: a rule, a parameter file or an option that ROS 2 refuses; says which.
        KdPerceptionError: the Fast DDS profile is not installed.
    """
    allow_large_messages()
    try:
        rclpy.init(args=args, **options)
    except RuntimeError as error:  # the base of all that rclpy raises here
        unknown = 'unknown: ' if str(error).startswith('[') else ''
        reason = unknown + _SOURCE_PLACES.sub('', str(error)).removeprefix('failed to initialize rcl: ')
        hint = ' A parameter needs a value: -p name:=value.' if reason.endswith('error not set') else ''
        raise RosArgumentsError(f'ROS arguments: {reason.removesuffix(" Error: error not set")}{hint}') from error
