"""ROS 2 and its middleware: what is installed, and whether images of a given size get through."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from pathlib import Path

from kd_perception.doctor.findings import MIB, Finding, Level
from kd_perception.doctor.machine import Machine
from kd_perception.errors import KdPerceptionError
from kd_perception.ros.large_messages import TRANSPORTS_VARIABLE, profile, profile_variable

DEFAULT_SEGMENT = MIB // 2
"""Size of Fast DDS's shared-memory segment without a profile."""

MESSAGES = ('sensor_msgs', 'vision_msgs', 'diagnostic_msgs', 'std_srvs', 'lifecycle_msgs')
MAX_PROFILE_BYTES = MIB

Installed = Callable[[str], bool]


def is_installed(module: str) -> bool:
    """Whether Python would find a module; it is not imported."""
    return importlib.util.find_spec(module) is not None


def check(
    machine: Machine, environment: Mapping[str, str], image: tuple[int, int], installed: Installed = is_installed
) -> list[Finding]:
    """All of ROS 2.

    Args:
        machine: where the system's files are read.
        environment: variables of the shell in which the node would start.
        image: width and height of the camera's images, which are taken to be bgr8.
        installed: whether a Python module is there.
    """
    findings = _distribution(machine, environment, installed)
    if not installed('rclpy'):
        return findings
    size = 3 * image[0] * image[1] + 1024  # pixels, and room for the header
    rmw = environment.get('RMW_IMPLEMENTATION') or 'rmw_fastrtps_cpp'
    findings += _messages(environment, installed)
    findings.append(Finding('RMW', f'{rmw}, domain {environment.get("ROS_DOMAIN_ID") or 0}'))
    if 'fastrtps' in rmw:
        findings += _fast_dds(machine, environment, size, image)
    findings += _udp(machine, rmw, size, image)
    return findings


def _distribution(machine: Machine, environment: Mapping[str, str], installed: Installed) -> list[Finding]:
    name = environment.get('ROS_DISTRO')
    if installed('rclpy'):
        return [Finding('ROS 2', name or 'installed as wheels, without a sourced distribution')]
    there = sorted(path.parent.name for path in (machine.root / 'opt/ros').glob('*/setup.bash'))
    if there:
        advice = f'source /opt/ros/{there[-1]}/setup.bash'
        return [Finding('ROS 2', f'{", ".join(there)} installed, but not sourced', Level.RED, advice)]
    advice = 'only the node and the demo need it: docs/installation.md; evaluate, detect and benchmark work without'
    return [Finding('ROS 2', 'not installed', Level.YELLOW, advice)]


def _messages(environment: Mapping[str, str], installed: Installed) -> list[Finding]:
    missing = [name for name in MESSAGES if not installed(name)]
    if not missing:
        return [Finding('messages', ', '.join(MESSAGES))]
    distribution = environment.get('ROS_DISTRO')
    packages = ' '.join(f'ros-{distribution}-{name.replace("_", "-")}' for name in missing)
    advice = f'sudo apt install {packages}' if distribution else 'see docs/installation.md, ROS 2 from wheels'
    return [Finding('messages', f'missing: {", ".join(missing)}', Level.RED, advice)]


def _fast_dds(machine: Machine, environment: Mapping[str, str], size: int, image: tuple[int, int]) -> list[Finding]:
    segment, source, fault = _segment(environment)
    what = f'images of {image[0]}x{image[1]} are {size / MIB:.1f} MiB'
    variable, transports = profile_variable(environment), environment.get(TRANSPORTS_VARIABLE)
    if transports and not environment.get(variable):
        found = f'{what}; {TRANSPORTS_VARIABLE}={transports} decides, which doctor does not judge'
        return [Finding('shared memory', found)]
    if fault:
        return [
            Finding('Fast DDS profile', fault, Level.RED, f'{_export(variable)} before the camera and the node start')
        ]
    findings = []
    if size > segment:
        advice = (
            f"{_export(variable)} in the camera's shell before it starts; our own nodes set it for themselves"
            if segment == DEFAULT_SEGMENT
            else f'raise segment_size and maxMessageSize in {source} to {_round_up(2 * size)}'
        )
        found = f'{what}, the segment is {segment / MIB:.1f} MiB ({source}): none arrives'
        findings.append(Finding('shared memory', found, Level.RED, advice))
    elif 2 * size > segment:
        advice = f'raise segment_size and maxMessageSize in {source} to {_round_up(2 * size)}'
        found = f'{what}, the segment of {segment / MIB:.1f} MiB holds only one: some are lost'
        findings.append(Finding('shared memory', found, Level.YELLOW, advice))
    else:
        findings.append(Finding('shared memory', f'{what}, the segment holds {segment // size} ({source})'))
    return findings + _dev_shm(machine, max(segment, DEFAULT_SEGMENT))


def _export(variable: str) -> str:
    try:
        path = str(profile())
    except KdPerceptionError:
        path = 'PATH/TO/fastdds_shm.xml'
    return f'export {variable}={path}'


def _segment(environment: Mapping[str, str]) -> tuple[int, str, str]:
    """Largest message that shared memory takes, where that is said, and what is wrong with the profile."""
    path = environment.get(profile_variable(environment), '')
    if not path:
        return DEFAULT_SEGMENT, 'no profile', ''
    try:
        content = Path(path).read_bytes()[: MAX_PROFILE_BYTES + 1]
        if len(content) > MAX_PROFILE_BYTES or b'<!' in content.replace(b'<!--', b''):
            return 0, path, f'{path} is no profile: larger than {MAX_PROFILE_BYTES} bytes or with declarations'
        tree = ElementTree.fromstring(content)
    except OSError as error:
        return 0, path, f'{path} cannot be read ({error.strerror}): Fast DDS ignores it silently'
    except ElementTree.ParseError as error:
        return 0, path, f'{path} is not valid XML ({error}): Fast DDS ignores it'
    for transport in tree.iter():
        fields = {child.tag.rpartition('}')[2]: (child.text or '').strip() for child in transport}
        if fields.get('type') == 'SHM':
            sizes = [int(fields[key]) for key in ('segment_size', 'maxMessageSize') if fields.get(key, '').isdecimal()]
            return min(sizes, default=DEFAULT_SEGMENT), path, ''
    return DEFAULT_SEGMENT, f'{path}, without a shared-memory transport', ''


def _round_up(size: int) -> int:
    """To whole MiB."""
    return -(-size // MIB) * MIB


def _dev_shm(machine: Machine, segment: int) -> list[Finding]:
    mount = re.search(r'^\S+ /dev/shm \S+ (\S+)', machine.text('proc/mounts'), re.MULTILINE)
    if mount is None:
        return [Finding('/dev/shm', 'not mounted', Level.RED, 'sudo mount -t tmpfs shm /dev/shm')]
    stated = re.search(r'(?:^|,)size=(\d+)k', mount[1])
    # Without a stated size a tmpfs may take half of the memory.
    total = int(stated[1]) * 1024 if stated else machine.memory_mib().get('MemTotal', 0) * MIB // 2
    files = [path for path in (machine.root / 'dev/shm').glob('*') if path.is_file()]
    used = sum(path.stat().st_size for path in files)
    left = sum(path.name.startswith(('fastrtps', 'fastdds')) for path in files)
    found = f'{total // MIB} MiB, {used // MIB} used, {left} files of Fast DDS'
    if total - used >= 4 * segment:
        return [Finding('/dev/shm', found)]
    if machine.in_container:
        advice = 'start the container with --shm-size=512m, or with --ipc=host to share it with nodes outside'
    else:
        advice = 'end nodes, then remove the leftovers of crashed ones: fastdds shm clean'
    return [Finding('/dev/shm', f'{found}: every node needs {segment // MIB} MiB', Level.YELLOW, advice)]


def _udp(machine: Machine, rmw: str, size: int, image: tuple[int, int]) -> list[Finding]:
    """What of an image the kernel holds for a receiver over the network."""
    limit = machine.number('proc/sys/net/core/rmem_max')
    if limit is None or 'zenoh' in rmw:
        return []
    found = f'net.core.rmem_max {limit / MIB:.1f} MiB'
    if limit >= size:
        return [Finding('UDP buffer', f'{found} holds an image of {image[0]}x{image[1]}')]
    only_remote = 'fastrtps' in rmw
    found += ' is smaller than an image' + (
        ', which matters only for a camera on another machine' if only_remote else ''
    )
    if only_remote:
        return [Finding('UDP buffer', found)]
    advice = f'sudo sysctl -w net.core.rmem_max={_round_up(4 * size)}'
    return [Finding('UDP buffer', found, Level.YELLOW, advice)]
