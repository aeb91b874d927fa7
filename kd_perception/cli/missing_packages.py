"""What to install for a module that cannot be imported."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections import defaultdict
from importlib import metadata

PACKAGE = 'kd_perception'

_ROS = re.compile(r'(rclpy|ament_index_python|cv_bridge|\w+_(msgs|srvs|interfaces))$')
_DISTRIBUTIONS = {'backports': 'backports.zstd', 'cv2': 'opencv-python-headless', 'yaml': 'PyYAML'}
"""Modules that pip knows under another name; case, - and _ make no difference to it."""
_NAMESPACES = ('backports',)
"""Folders that several packages share: `from backports import zstd` fails as a missing name, not as a missing module."""


def lack(error: ImportError) -> str:
    """What is not installed, or cannot be loaded, and what to do; one line."""
    module = (error.name or '').partition('.')[0]
    if not isinstance(error, ModuleNotFoundError) and module not in _NAMESPACES:
        return f'{module or "a library"} cannot be loaded: {str(error).strip().splitlines()[0]}'
    if not _ROS.fullmatch(module):
        return f'the Python package {module} is not installed: pip install {shlex.join(packages(module))}'
    distribution = os.environ.get('ROS_DISTRO')
    if distribution and module != 'rclpy':
        return f'{module} is not installed: sudo apt install ros-{distribution}-{module.replace("_", "-")}'
    if distribution:
        return (
            f'rclpy of ROS 2 {distribution} is not there for this Python ({sys.version.split()[0]}): {sys.executable}'
        )
    return f'this needs ROS 2 ({module}): source /opt/ros/DISTRO/setup.bash first; without ROS 2 see docs/ros_on_pip.md'


def packages(module: str) -> list[str]:
    """What pip is to install: the package of a module, and whatever else is missing of the extra that it belongs to."""
    wanted = _DISTRIBUTIONS.get(module, module)
    extras: dict[str, list[str]] = defaultdict(list)
    for text in _requirements():
        requirement, _, marker = text.partition(';')
        extra = re.search(r'extra == [\'"](\w+)', marker)
        extras[extra[1] if extra else ''].append(re.sub('[ ()]', '', requirement))
    of_it = [group for group in extras.values() if _name(wanted) in map(_name, group)]
    missing = [
        [text for text in group if _name(text) == _name(wanted) or not _is_installed(_name(text))] for group in of_it
    ]
    return _numpy_as_it_is() + min(missing, key=len, default=[wanted])


def _requirements() -> list[str]:
    try:
        return metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return []


def _numpy_as_it_is() -> list[str]:
    """The generation that a ROS 2 distribution was compiled for: pip must not replace it."""
    if not os.environ.get('ROS_DISTRO') or not _is_installed('numpy'):
        return []
    generation = int(metadata.version('numpy').partition('.')[0])
    return [f'numpy<{generation + 1}']


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _name(requirement: str) -> str:
    """The distribution that a requirement names, as PyPI compares it."""
    return re.sub('[-_.]+', '-', re.split('[^\\w.-]', requirement)[0]).lower()
