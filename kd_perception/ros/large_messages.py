"""What Fast DDS must know so that images above half a megabyte arrive. The one place that knows its environment variables."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from kd_perception.errors import KdPerceptionError

PROFILE = Path('config') / 'fastdds_shm.xml'
TRANSPORTS_VARIABLE = 'FASTDDS_BUILTIN_TRANSPORTS'
"""With it a user chooses the transports by name, such as LARGE_DATA; a profile would override that."""

_FAST_DDS_2 = ('humble', 'iron', 'jazzy')


def profile_variable(environment: Mapping[str, str] = os.environ) -> str:
    """The variable that names a profile to the Fast DDS of the sourced distribution; from Kilted on it has a new name."""
    generation = 'FASTRTPS' if environment.get('ROS_DISTRO') in _FAST_DDS_2 else 'FASTDDS'
    return f'{generation}_DEFAULT_PROFILES_FILE'


def allow_large_messages() -> None:
    """Name the profile in this process's environment, for it and its children; call it before rclpy starts.

    What the user chose, a profile or transports, is kept.

    Raises:
        KdPerceptionError: the profile is not installed.
    """
    variable = profile_variable()
    if not (os.environ.get(variable) or os.environ.get(TRANSPORTS_VARIABLE)):
        os.environ[variable] = str(profile())


def profile() -> Path:
    """Where the profile lies: in the checkout, or in the share folder of pip's or colcon's installation."""
    prefixes = [sys.prefix, *filter(None, os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep))]
    places = [Path(__file__).resolve().parents[2], *(Path(prefix) / 'share' / 'kd_perception' for prefix in prefixes)]
    for place in places:
        if (place / PROFILE).is_file():
            return place / PROFILE
    raise KdPerceptionError(f'{PROFILE} is not installed; install the package again')
