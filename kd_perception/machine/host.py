"""What the operating system tells of the machine: what it is, its temperature and its power mode."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_SYS = Path('/sys')


def describe() -> dict[str, str | int]:
    """What every measurement must name: processor, cores, system, Python, power mode."""
    return {
        'cpu': cpu_model(),
        'cores': len(os.sched_getaffinity(0)),
        'machine': platform.machine(),
        'system': f'{platform.system()} {platform.release()}',
        'python': platform.python_version(),
        'power_mode': governor() or 'not reported',
    }


def cpu_model(root: Path = Path('/proc')) -> str:
    """The processor's name, or the board's where the processor has none (Arm)."""
    for line in _read(root / 'cpuinfo').splitlines():
        key, _, value = line.partition(':')
        if key.strip() == 'model name':
            return value.strip()
    return _read(root / 'device-tree/model').strip('\0') or platform.processor() or 'not reported'


def temperature(sys: Path = _SYS) -> float | None:
    """The hottest thermal zone in °C; None where the system does not tell."""
    readings = [_read(path) for path in sys.glob('class/thermal/thermal_zone*/temp')]
    millidegrees = [int(text) for text in readings if text.lstrip('-').isdecimal()]
    return max(millidegrees) / 1000 if millidegrees else None


def governor(sys: Path = _SYS) -> str | None:
    """The CPU frequency governor of the first core; None where the system does not tell."""
    return _read(sys / 'devices/system/cpu/cpu0/cpufreq/scaling_governor') or None


def gpus(root: Path = Path('/proc')) -> list[str]:
    """Names of the NVIDIA cards; empty where their driver is not loaded. A Jetson's GPU is named by its board."""
    cards = (_read(path) for path in sorted(root.glob('driver/nvidia/gpus/*/information')))
    lines = (line.partition(':') for card in cards for line in card.splitlines())
    return [value.strip() for key, _, value in lines if key.strip() == 'Model']


def peak_memory_mb(proc: Path = Path('/proc')) -> float | None:
    """This process's highest resident memory so far, in MiB; `getrusage` would count its parent's too."""
    for line in _read(proc / 'self/status').splitlines():
        if line.startswith('VmHWM:'):
            return int(line.split()[1]) / 1024
    return None


def memory_of_process_mb(pid: int, proc: Path = Path('/proc')) -> float | None:
    """A process's resident memory, in MiB; None where it, or the system, does not tell."""
    for line in _read(proc / str(pid) / 'status').splitlines():
        if line.startswith('VmRSS:'):
            return int(line.split()[1]) / 1024
    return None


def available_memory_mb(root: Path = Path('/')) -> float | None:
    """Memory that can be had without swapping, in MiB, of machine or container; None where the system does not tell."""
    free = [
        int(line.split()[1]) / 1024
        for line in _read(root / 'proc/meminfo').splitlines()
        if line.startswith('MemAvailable:')
    ]
    group = root / 'sys/fs/cgroup'
    limit, used = _read(group / 'memory.max'), _read(group / 'memory.current')
    if limit.isdecimal() and used.isdecimal():
        free.append(max(0, int(limit) - int(used)) / (1 << 20))
    return min(free, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding='ascii', errors='replace').strip()
    except OSError:
        return ''
