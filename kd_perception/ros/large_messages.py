"""The Fast DDS profile without which images above half a megabyte are lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kd_perception.errors import KdPerceptionError

PROFILE = Path('config') / 'fastdds_shm.xml'


def allow_large_messages() -> None:
    """Name the profile in this process's environment, for it and its children; call it before rclpy starts.

    A profile that the user chose is kept.

    Raises:
        KdPerceptionError: the profile is not installed.
    """
    if not os.environ.get(variable()):
        os.environ[variable()] = str(profile())


def variable() -> str:
    """The environment variable by which Fast DDS of this ROS 2 is told of a profile."""
    older = os.environ.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy')
    return 'FASTRTPS_DEFAULT_PROFILES_FILE' if older else 'FASTDDS_DEFAULT_PROFILES_FILE'


def profile() -> Path:
    """Where the profile lies: in the checkout, or in the share folder of pip's or colcon's installation."""
    prefixes = [sys.prefix, *filter(None, os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep))]
    places = [Path(__file__).resolve().parents[2], *(Path(prefix) / 'share' / 'kd_perception' for prefix in prefixes)]
    for place in places:
        if (place / PROFILE).is_file():
            return place / PROFILE
    raise KdPerceptionError(f'{PROFILE} is not installed; install the package again')
