"""What the operating system tells of the machine right now: temperature and power mode."""

from __future__ import annotations

from pathlib import Path

_SYS = Path('/sys')


def temperature(sys: Path = _SYS) -> float | None:
    """The hottest thermal zone in °C; None where the system does not tell."""
    readings = [_read(path) for path in sys.glob('class/thermal/thermal_zone*/temp')]
    millidegrees = [int(text) for text in readings if text.lstrip('-').isdecimal()]
    return max(millidegrees) / 1000 if millidegrees else None


def governor(sys: Path = _SYS) -> str | None:
    """The CPU frequency governor of the first core; None where the system does not tell."""
    return _read(sys / 'devices/system/cpu/cpu0/cpufreq/scaling_governor') or None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding='ascii', errors='replace').strip()
    except OSError:
        return ''
