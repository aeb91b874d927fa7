"""Which environment a node gives Fast DDS, and that what the user chose is kept."""

from __future__ import annotations

import pytest

from kd_perception.errors import KdPerceptionError
from kd_perception.ros import large_messages

OLD, NEW = 'FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'
TRANSPORTS = 'FASTDDS_BUILTIN_TRANSPORTS'


@pytest.mark.parametrize(
    ('environment', 'set_'),
    [
        ({}, NEW),
        ({'ROS_DISTRO': 'humble'}, OLD),
        ({'ROS_DISTRO': 'jazzy'}, OLD),
        ({'ROS_DISTRO': 'kilted'}, NEW),
        ({'ROS_DISTRO': 'jazzy', NEW: '/ignored.xml'}, OLD),
        ({'ROS_DISTRO': 'jazzy', OLD: '/mine.xml'}, None),
        ({NEW: '/mine.xml'}, None),
        ({TRANSPORTS: 'LARGE_DATA'}, None),
        ({'ROS_DISTRO': 'humble', TRANSPORTS: 'UDPv4'}, None),
    ],
)
def test_the_profile_is_named_unless_the_user_chose(monkeypatch, environment, set_):
    for name in (OLD, NEW, TRANSPORTS, 'ROS_DISTRO'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    large_messages.allow_large_messages()
    after = {name: large_messages.os.environ.get(name) for name in (OLD, NEW, TRANSPORTS)}
    expected = {name: environment.get(name) for name in after}
    if set_:
        expected[set_] = str(large_messages.profile())
    assert after == expected


def test_a_profile_that_is_not_installed_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(large_messages, '__file__', str(tmp_path / 'kd_perception' / 'ros' / 'large_messages.py'))
    monkeypatch.setattr('sys.prefix', str(tmp_path))
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    monkeypatch.delenv(large_messages.profile_variable(), raising=False)
    with pytest.raises(KdPerceptionError, match=r'fastdds_shm.xml is not installed'):
        large_messages.allow_large_messages()
