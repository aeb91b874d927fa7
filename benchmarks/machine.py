"""The machine that a measurement was made on, and how busy it was."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kd_perception.machine import host

LIBRARIES = ('numpy', 'opencv-python-headless', 'onnxruntime', 'ros-rclpy')


def describe() -> dict[str, Any]:
    """CPU, cores, memory, system, versions, and the load before the measurement began."""
    return {
        'cpu': _cpu_model(),
        'cores': len(os.sched_getaffinity(0)),
        'memory_gb': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9, 1),
        'governor': host.governor() or 'not reported',
        'system': f'{platform.system()} {platform.release()} {platform.machine()}',
        'python': platform.python_version(),
        'ros_distro': os.environ.get('ROS_DISTRO', 'wheels'),
        'versions': {name: _version(name) for name in LIBRARIES},
        'load_average_before': [round(load, 2) for load in os.getloadavg()],
    }


def _cpu_model() -> str:
    """The kernel's name of the CPU; on Arm boards the board's name, which says more."""
    board = Path('/proc/device-tree/model')
    if board.exists():
        return board.read_text(errors='replace').strip('\0\n ')
    fields: dict[str, str] = {}
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        key, _, value = line.partition(':')
        fields[key.strip()] = value.strip()
    return f'{fields.get("model name", "CPU")} (family {fields.get("cpu family")}, model {fields.get("model")})'


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return 'not from a wheel'
