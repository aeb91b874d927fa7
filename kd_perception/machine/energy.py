"""Energy of the board or of the processor, where a sensor tells: INA3221 on Jetson boards, RAPL on PCs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

_ROOT = Path('/')
_INPUT_RAILS = ('VDD_IN', 'POM_5V_IN')
"""Rails that feed the whole module; where a board has none of them, its rails are added up."""
_SAMPLE_S = 0.05


class EnergyMeter:
    """Joules between entering and leaving its `with` block; a sensor of power is sampled 20 times a second.

    Attributes:
        joules: energy of the block; None where no sensor can be read.
        source: what was read, `ina3221` or `rapl`; empty where there is nothing.
    """

    def __init__(self, root: Path = _ROOT) -> None:
        self.joules: float | None = None
        self.source = ''
        self._watts = _ina_watts(root)
        self._counters = [] if self._watts else _rapl_counters(root)
        if self._watts or self._counters:
            self.source = 'ina3221' if self._watts else 'rapl'

    def __enter__(self) -> EnergyMeter:
        self._before = [_number(counter / 'energy_uj') or 0.0 for counter in self._counters]
        if self._watts:
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._sample, args=(self._watts,), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._watts:
            self._stop.set()
            self._thread.join()
        elif self._counters:
            pairs = zip(self._counters, self._before, strict=True)
            self.joules = sum(_counted(counter, before) for counter, before in pairs) / 1e6

    def _sample(self, watts: Callable[[], float]) -> None:
        last, power, joules = time.perf_counter(), watts(), 0.0
        while True:
            stopped = self._stop.wait(_SAMPLE_S)
            now, newer = time.perf_counter(), watts()
            joules += (now - last) * (power + newer) / 2
            last, power = now, newer
            if stopped:
                self.joules = joules
                return


def _ina_watts(root: Path) -> Callable[[], float] | None:
    """What reads the board's power now; JetPack 4 tells power rails, later ones voltage and current of each."""
    rails: dict[str, Callable[[], float]] = {}
    drivers = root / 'sys/bus/i2c/drivers'
    for label in sorted(drivers.glob('ina3221x/*/iio:device*/rail_name_*')):
        power = label.with_name(f'in_power{label.name.removeprefix("rail_name_")}_input')
        if _number(power) is not None:
            rails[_text(label)] = lambda power=power: (_number(power) or 0.0) / 1e3  # type: ignore[misc]
    for label in sorted(drivers.glob('ina3221/*/hwmon/hwmon*/in*_label')):
        number = label.name.removeprefix('in').removesuffix('_label')
        volts, amperes = label.with_name(f'in{number}_input'), label.with_name(f'curr{number}_input')
        if _number(volts) is not None and _number(amperes) is not None:
            rails[_text(label)] = lambda v=volts, a=amperes: (_number(v) or 0.0) * (_number(a) or 0.0) / 1e6  # type: ignore[misc]
    whole = [rails[name] for name in _INPUT_RAILS if name in rails][:1]
    readers = whole or list(rails.values())
    return (lambda: sum(read() for read in readers)) if readers else None


def _rapl_counters(root: Path) -> list[Path]:
    """One counter a processor package; newer kernels let only root read them."""
    zones = sorted((root / 'sys/class/powercap').glob('intel-rapl:*'))
    return [
        zone for zone in zones if _text(zone / 'name').startswith('package') and _number(zone / 'energy_uj') is not None
    ]


def _counted(counter: Path, before: float) -> float:
    """Microjoules since `before`; the counter starts again at its range."""
    now = _number(counter / 'energy_uj') or 0.0
    return now - before if now >= before else now - before + (_number(counter / 'max_energy_range_uj') or 0.0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='ascii', errors='replace').strip()
    except OSError:
        return ''


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if text.lstrip('-').isdecimal() else None
