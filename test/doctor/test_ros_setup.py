"""Whether an image gets through the middleware, and what to do where it does not."""

from __future__ import annotations

import pytest
from board_files import JETSON_ORIN, PC, lay_out

from kd_perception.doctor import ros_setup
from kd_perception.doctor.findings import Level
from kd_perception.doctor.machine import Machine

VGA, FULL_HD, UHD = (640, 480), (1920, 1080), (3840, 2160)


@pytest.fixture
def look(tmp_path):
    def run(environment=None, image=VGA, system=PC, missing=(), **change):
        root = lay_out(tmp_path, system, {name.replace('__', '/'): text for name, text in change.items()})
        found = ros_setup.check(Machine(root), environment or {}, image, lambda module: module not in missing)
        return {finding.subject: finding for finding in found}

    return run


@pytest.fixture
def profile(repository):
    return {'FASTDDS_DEFAULT_PROFILES_FILE': str(repository / 'config' / 'fastdds_shm.xml')}


@pytest.mark.parametrize(
    ('image', 'level', 'says'),
    [
        ((320, 240), Level.GREEN, 'holds 2'),
        ((400, 300), Level.YELLOW, 'holds only one'),
        (VGA, Level.RED, 'none arrives'),
        (FULL_HD, Level.RED, 'none arrives'),
    ],
)
def test_without_a_profile_half_a_megabyte_is_the_limit(look, image, level, says):
    finding = look(image=image)['shared memory']
    assert (finding.level, says in finding.found) == (level, True), finding


def test_what_cures_it_names_our_profile_and_the_publisher(look, repository):
    advice = look(image=VGA)['shared memory'].advice
    assert advice.startswith('export FASTDDS_DEFAULT_PROFILES_FILE=')
    assert 'fastdds_shm.xml' in advice
    assert "in the camera's shell" in advice
    old = look({'ROS_DISTRO': 'humble'})['shared memory'].advice
    assert old.startswith('export FASTRTPS_DEFAULT_PROFILES_FILE=')


@pytest.mark.parametrize(('image', 'level'), [(VGA, 0), (FULL_HD, 0), (UHD, 2)])
def test_our_profile_serves_full_hd(look, profile, image, level):
    finding = look(profile, image)['shared memory']
    assert finding.level == level
    if level:
        assert 'raise segment_size' in finding.advice
        assert str(48 << 20) in finding.advice, 'two images of 24 MiB'


def test_the_variable_of_the_other_generation_is_not_read(look, repository):
    path = str(repository / 'config' / 'fastdds_shm.xml')
    assert look({'ROS_DISTRO': 'jazzy', 'FASTDDS_DEFAULT_PROFILES_FILE': path})['shared memory'].level == Level.RED
    assert look({'ROS_DISTRO': 'jazzy', 'FASTRTPS_DEFAULT_PROFILES_FILE': path})['shared memory'].level == Level.GREEN


BOMB = '<!DOCTYPE p [<!ENTITY a "aaaa">]><p>&a;</p>'


@pytest.mark.parametrize(
    ('content', 'says'), [(None, 'cannot be read'), ('<dds', 'not valid XML'), (BOMB, 'is no profile')]
)
def test_a_profile_that_fast_dds_would_ignore(look, tmp_path, content, says):
    path = tmp_path / 'profile.xml'
    if content is not None:
        path.write_text(content)
    finding = look({'FASTDDS_DEFAULT_PROFILES_FILE': str(path)})['Fast DDS profile']
    assert (finding.level, says in finding.found) == (Level.RED, True), finding


def test_a_profile_without_shared_memory_has_the_default_segment(look, tmp_path):
    (tmp_path / 'profile.xml').write_text(
        '<dds><t><transport_descriptor><type>UDPv4</type></transport_descriptor></t></dds>'
    )
    finding = look({'FASTDDS_DEFAULT_PROFILES_FILE': str(tmp_path / 'profile.xml')})['shared memory']
    assert 'without a shared-memory transport' in finding.found


@pytest.mark.parametrize(
    ('mounts', 'change', 'level', 'says', 'advises'),
    [
        ('tmpfs /dev/shm tmpfs rw,size=8102784k 0 0', {}, Level.GREEN, '7912 MiB', ''),
        ('tmpfs /dev/shm tmpfs rw,nosuid 0 0', {}, Level.GREEN, '7912 MiB', ''),
        ('shm /dev/shm tmpfs rw,size=32768k 0 0', {'.dockerenv': ''}, Level.YELLOW, '32 MiB', '--shm-size'),
        ('tmpfs /dev/shm tmpfs rw,size=32768k 0 0', {}, Level.YELLOW, '32 MiB', 'fastdds shm clean'),
        ('proc /proc proc rw 0 0', {}, Level.RED, 'not mounted', 'mount'),
    ],
)
def test_dev_shm_must_hold_every_nodes_segment(look, profile, mounts, change, level, says, advises):
    finding = look(profile, system=PC | {'proc/mounts': mounts} | change)['/dev/shm']
    assert (finding.level, says in finding.found, advises in finding.advice) == (level, True, True), finding


def test_what_crashed_nodes_left_behind_counts(look):
    finding = look(system=PC | {'dev/shm/fastrtps_0123': 'x' * (3 << 20), 'dev/shm/other': ''})['/dev/shm']
    assert '3 used, 1 files of Fast DDS' in finding.found


@pytest.mark.parametrize(
    ('rmw', 'limit', 'level', 'says'),
    [
        ('rmw_cyclonedds_cpp', '212992', Level.YELLOW, 'smaller than an image'),
        ('rmw_cyclonedds_cpp', '4194304', Level.GREEN, 'holds an image'),
        ('', '212992', Level.GREEN, 'only for a camera on another machine'),
    ],
)
def test_udp_buffers(look, rmw, limit, level, says):
    finding = look({'RMW_IMPLEMENTATION': rmw}, system=PC | {'proc/sys/net/core/rmem_max': limit})['UDP buffer']
    assert (finding.level, says in finding.found) == (level, True), finding
    assert finding.advice == ('sudo sysctl -w net.core.rmem_max=4194304' if level else '')


def test_zenoh_needs_neither(look):
    assert set(look({'RMW_IMPLEMENTATION': 'rmw_zenoh_cpp'})) == {'ROS 2', 'messages', 'RMW'}


def test_no_ros_is_yellow_and_an_unsourced_one_red(look):
    assert look(missing=('rclpy',))['ROS 2'].level == Level.YELLOW
    finding = look(missing=('rclpy',), system=JETSON_ORIN | {'opt/ros/humble/setup.bash': ''})['ROS 2']
    assert (finding.level, finding.advice) == (Level.RED, 'source /opt/ros/humble/setup.bash')


def test_missing_messages_name_the_package(look):
    finding = look({'ROS_DISTRO': 'jazzy'}, missing=('vision_msgs',))['messages']
    assert (finding.level, finding.advice) == (Level.RED, 'sudo apt install ros-jazzy-vision-msgs')


def test_transports_that_the_user_chose_are_named_and_not_judged(look):
    finding = look({'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA'})['shared memory']
    assert finding.level == Level.GREEN
    assert 'FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA' in finding.found
