"""The machine: board, processor, clocks, memory, temperature, container. All is read below one root folder."""

from __future__ import annotations

import re
from pathlib import Path

from kd_perception.doctor.findings import MIB, Finding, Level
from kd_perception.machine import host

_JETPACK = {32: '4', 34: '5', 35: '5', 36: '6', 38: '7'}
"""Release of Jetson Linux (L4T) → JetPack."""

_INT8_FEATURES = ('amx_int8', 'avx512_vnni', 'avx_vnni', 'asimddp', 'i8mm')
_FP16_FEATURES = ('asimdhp', 'amx_fp16', 'avx512_fp16')
_VECTOR_FEATURES = ('avx512f', 'avx2', 'sve', 'asimd')


class Machine:
    """Reads the system's files below `root`; what is not there is empty."""

    def __init__(self, root: Path = Path('/')) -> None:
        self.root = root
        self.proc = root / 'proc'
        self.sys = root / 'sys'

    def text(self, path: str) -> str:
        """A file's content without the white space and zero bytes around it."""
        try:
            return (self.root / path).read_text(encoding='utf-8', errors='replace').strip('\0 \n\t')
        except OSError:
            return ''

    def number(self, path: str) -> int | None:
        """A file that holds one whole number; None where there is none."""
        text = self.text(path)
        return int(text) if text.isdecimal() else None

    @property
    def board(self) -> str:
        """The board's name by the device tree; empty on PCs."""
        return self.text('proc/device-tree/model')

    @property
    def kind(self) -> str:
        """`jetson`, `raspberry_pi`, `arm` or `pc`."""
        if self.text('etc/nv_tegra_release') or 'jetson' in self.board.lower():
            return 'jetson'
        if 'raspberry pi' in self.board.lower():
            return 'raspberry_pi'
        return 'arm' if 'Features' in self.text('proc/cpuinfo') else 'pc'

    @property
    def in_container(self) -> bool:
        """Whether this is the inside of a container."""
        marked = any((self.root / mark).exists() for mark in ('.dockerenv', 'run/.containerenv'))
        return marked or bool(re.search(r'docker|containerd|kubepods|lxc', self.text('proc/1/cgroup')))

    def memory_mib(self) -> dict[str, int]:
        """/proc/meminfo in MiB."""
        rows = re.findall(r'^(\w+):\s+(\d+) kB$', self.text('proc/meminfo'), re.MULTILINE)
        return {name: int(kibibytes) // 1024 for name, kibibytes in rows}

    def features(self) -> set[str]:
        """The processor's instruction sets, as the kernel calls them."""
        match = re.search(r'^(?:flags|Features)\s*:(.*)$', self.text('proc/cpuinfo'), re.MULTILINE)
        return set(match[1].split()) if match else set()


def check(machine: Machine) -> list[Finding]:
    """All of the machine."""
    groups = [_board, _jetpack, _processor, _cores, _governor, _power_mode, _gpu, _memory, _temperature]
    groups += [_supply, _container]
    return [finding for group in groups for finding in group(machine)]


def _board(machine: Machine) -> list[Finding]:
    return [Finding('board', machine.board or machine.text('sys/class/dmi/id/product_name') or 'not reported')]


def _jetpack(machine: Machine) -> list[Finding]:
    if machine.kind != 'jetson':
        return []
    release = re.search(r'R(\d+) \(release\), REVISION: ([\d.]+)', machine.text('etc/nv_tegra_release'))
    if release is None:
        advice = 'in a container mount it: docker run -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro …'
        return [Finding('JetPack', '/etc/nv_tegra_release does not tell', Level.YELLOW, advice)]
    jetpack = _JETPACK.get(int(release[1]))
    found = f'Jetson Linux {release[1]}.{release[2]}' + (f', JetPack {jetpack}' if jetpack else '')
    if int(release[1]) < 34:
        return [
            Finding(
                'JetPack',
                found,
                Level.RED,
                'its Python is older than 3.10: flash JetPack 5 or later, or use a container',
            )
        ]
    return [Finding('JetPack', found)]


def _processor(machine: Machine) -> list[Finding]:
    has = machine.features()
    name = host.cpu_model(machine.proc)
    parts = [
        ' '.join(feature for feature in group if feature in has) or f'no {what}'
        for what, group in (('vectors', _VECTOR_FEATURES), ('FP16', _FP16_FEATURES), ('INT8', _INT8_FEATURES))
    ]
    found = f'{name}: {"; ".join(parts)}'
    if machine.kind == 'pc' and has and 'avx2' not in has:
        advice = 'without AVX2 every engine is slow: choose the smallest bundle of the family (engine: auto does)'
        return [Finding('processor', found, Level.YELLOW, advice)]
    if has and not has.intersection(_INT8_FEATURES):
        advice = 'INT8 may be no quicker than FP32 here: let `kd_perception benchmark` or engine: auto decide'
        return [Finding('processor', found, Level.YELLOW, advice)]
    return [Finding('processor', found)]


def _cores(machine: Machine) -> list[Finding]:
    online, present = (_count(machine.text(f'sys/devices/system/cpu/{name}')) for name in ('online', 'present'))
    findings = []
    if online and present and online < present:
        cure = 'choose a mode with all cores (sudo nvpmodel -m 0)' if machine.kind == 'jetson' else 'switch them on'
        findings.append(Finding('cores', f'{online} of {present} are on', Level.YELLOW, cure))
    elif online:
        findings.append(Finding('cores', f'{online}'))
    quota = re.fullmatch(r'(\d+) (\d+)', machine.text('sys/fs/cgroup/cpu.max'))
    if quota and online and int(quota[1]) / int(quota[2]) < online:
        share = int(quota[1]) / int(quota[2])
        advice = (
            f'the quota stops threads in bursts: set the parameter threads to {max(1, int(share))}, or raise --cpus'
        )
        findings.append(Finding('CPU quota', f'{share:g} cores of {online}', Level.YELLOW, advice))
    return findings


def _count(ranges: str) -> int:
    """How many numbers are in the kernel's `0-3,6`."""
    spans = [span.partition('-') for span in ranges.split(',') if span]
    if not all(low.isdecimal() and (not dash or high.isdecimal()) for low, dash, high in spans):
        return 0
    return sum(int(high or low) - int(low) + 1 for low, _, high in spans)


def _governor(machine: Machine) -> list[Finding]:
    governor = host.governor(machine.sys)
    if governor is None:
        return [Finding('CPU governor', 'not reported (the hypervisor or firmware decides)')]
    driver = machine.text('sys/devices/system/cpu/cpu0/cpufreq/scaling_driver')
    # These two drivers call their load-following governor powersave.
    if governor != 'powersave' or driver in ('intel_pstate', 'amd-pstate-epp'):
        return [Finding('CPU governor', governor)]
    advice = 'sudo jetson_clocks' if machine.kind == 'jetson' else 'sudo cpupower frequency-set -g performance'
    return [Finding('CPU governor', 'powersave: the clock stays at its lowest', Level.YELLOW, advice)]


def _power_mode(machine: Machine) -> list[Finding]:
    status = re.search(r'pmode:(\d+)', machine.text('var/lib/nvpmodel/status'))
    if status is None:
        return []
    number = int(status[1])
    names = dict(re.findall(r'POWER_MODEL ID=(\d+) NAME=(\S+)', machine.text('etc/nvpmodel.conf')))
    others = ', '.join(f'{n} {name}' for n, name in names.items() if int(n) != number)
    choice = f' (others: {others}; sudo nvpmodel -m NUMBER)' if others else ''
    return [Finding('power mode', f'{number} {names.get(str(number), "")}'.strip() + choice)]


def _gpu(machine: Machine) -> list[Finding]:
    if machine.kind == 'jetson':
        if any((machine.root / 'dev' / node).exists() for node in ('nvgpu', 'nvhost-gpu', 'nvhost-ctrl-gpu')):
            return [Finding('GPU', 'NVIDIA, integrated')]
        advice = 'start the container with --runtime nvidia' if machine.in_container else 'reinstall nvidia-l4t-core'
        return [Finding('GPU', 'its device files are missing', Level.RED, advice)]
    names = host.gpus(machine.proc) + [
        name
        for vendor, name in (('0x8086', 'Intel'), ('0x1002', 'AMD'))
        if any(machine.text(str(card)) == vendor for card in _cards(machine))
    ]
    return [Finding('GPU', ', '.join(names) or 'none')]


def _cards(machine: Machine) -> list[Path]:
    cards = (machine.sys / 'class/drm').glob('card[0-9]*/device/vendor')
    return sorted(card.relative_to(machine.root) for card in cards)


def _memory(machine: Machine) -> list[Finding]:
    memory = machine.memory_mib()
    if 'MemTotal' not in memory:
        return []
    total, free = memory['MemTotal'], memory.get('MemAvailable', 0)
    limit = machine.number('sys/fs/cgroup/memory.max')
    cap = f', limited to {limit // MIB} MiB by the container' if limit and limit // MIB < total else ''
    found = f'{total} MiB, {free} available, swap {memory.get("SwapTotal", 0)} MiB{cap}'
    advice = 'end other programs, or add swap; a node needs 200 to 350 MiB, building a TensorRT engine far more'
    level = Level.RED if free < 200 else Level.YELLOW if free < 700 else Level.GREEN
    return [Finding('memory', found, level, advice if level else '')]


def _temperature(machine: Machine) -> list[Finding]:
    celsius = host.temperature(machine.sys)
    if celsius is None:
        return [Finding('temperature', 'not reported')]
    level = Level.RED if celsius >= 90 else Level.YELLOW if celsius >= 75 else Level.GREEN
    advice = 'the board slows down when hot: better cooling, or a lower power mode' if level else ''
    return [Finding('temperature', f'{celsius:.0f} °C', level, advice)]


def _supply(machine: Machine) -> list[Finding]:
    """The Raspberry Pi's sensor of its supply; at under-voltage the firmware lowers the clock."""
    folders = [path.parent.relative_to(machine.root) for path in sorted(machine.sys.glob('class/hwmon/hwmon*/name'))]
    sensors = [folder for folder in folders if machine.text(f'{folder}/name') == 'rpi_volt']
    if not sensors:
        return []
    if machine.number(f'{sensors[0]}/in0_lcrit_alarm'):
        advice = 'use the official power supply and a short cable: the clock is lowered meanwhile'
        return [Finding('power supply', 'under-voltage', Level.RED, advice)]
    return [Finding('power supply', 'no under-voltage')]


def _container(machine: Machine) -> list[Finding]:
    return [Finding('container', 'yes')] if machine.in_container else []
