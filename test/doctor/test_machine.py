"""What the doctor makes of a Jetson, a Raspberry Pi and a PC, and of what may be wrong with them."""

from __future__ import annotations

import pytest
from board_files import JETSON_ORIN, PC, RASPBERRY_PI_5, lay_out

from kd_perception.doctor import machine
from kd_perception.doctor.findings import Level
from kd_perception.doctor.machine import Machine


def findings(root, *systems):
    return {finding.subject: finding for finding in machine.check(Machine(lay_out(root, *systems)))}


@pytest.mark.parametrize(
    ('system', 'kind', 'tells'),
    [
        (
            JETSON_ORIN,
            'jetson',
            {
                'board': 'NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super',
                'JetPack': 'Jetson Linux 36.4.3, JetPack 6',
                'processor': 'asimdhp; asimddp',
                'cores': '6',
                'CPU governor': 'schedutil',
                'power mode': '1 25W (others: 0 15W, 2 MAXN_SUPER; sudo nvpmodel -m NUMBER)',
                'GPU': 'NVIDIA, integrated',
                'memory': '7619 MiB, 5003 available, swap 3809 MiB',
                'temperature': '47 °C',
            },
        ),
        (
            RASPBERRY_PI_5,
            'raspberry_pi',
            {
                'board': 'Raspberry Pi 5 Model B Rev 1.0',
                'cores': '4',
                'CPU governor': 'ondemand',
                'GPU': 'none',
                'power supply': 'no under-voltage',
            },
        ),
        (
            PC,
            'pc',
            {
                'board': 'NUC12WSHi5',
                'processor': '12th Gen Intel(R) Core(TM) i5-1240P: avx2; no FP16; avx_vnni',
                'CPU governor': 'powersave',
                'GPU': 'Intel',
                'temperature': 'not reported',
            },
        ),
    ],
    ids=['Jetson Orin', 'Raspberry Pi 5', 'PC'],
)
def test_a_healthy_machine_is_green_and_told_apart(tmp_path, system, kind, tells):
    found = findings(tmp_path, system)
    assert Machine(tmp_path).kind == kind
    for subject, text in tells.items():
        assert text in found[subject].found
    assert {finding.level for finding in found.values()} == {Level.GREEN}


@pytest.mark.parametrize(
    ('system', 'change', 'subject', 'level', 'says', 'advises'),
    [
        (
            JETSON_ORIN,
            {'sys/devices/system/cpu/online': '0-1,4\n'},
            'cores',
            Level.YELLOW,
            '3 of 6 are on',
            'nvpmodel -m 0',
        ),
        (
            JETSON_ORIN,
            {'sys/devices/system/cpu/cpu0/cpufreq/scaling_governor': 'powersave'},
            'CPU governor',
            Level.YELLOW,
            'lowest',
            'jetson_clocks',
        ),
        (JETSON_ORIN, {'dev/nvgpu/igpu0/gpu': None}, 'GPU', Level.RED, 'missing', 'nvidia-l4t-core'),
        (
            JETSON_ORIN,
            {'dev/nvgpu/igpu0/gpu': None, '.dockerenv': ''},
            'GPU',
            Level.RED,
            'missing',
            '--runtime nvidia',
        ),
        (
            JETSON_ORIN,
            {'etc/nv_tegra_release': '# R32 (release), REVISION: 7.4, GCID: 1'},
            'JetPack',
            Level.RED,
            'JetPack 4',
            'flash JetPack 5',
        ),
        (JETSON_ORIN, {'etc/nv_tegra_release': None}, 'JetPack', Level.YELLOW, 'does not tell', 'mount it'),
        (JETSON_ORIN, {'sys/class/thermal/thermal_zone0/temp': '80000'}, 'temperature', Level.YELLOW, '80', 'cooling'),
        (JETSON_ORIN, {'sys/class/thermal/thermal_zone0/temp': '97000'}, 'temperature', Level.RED, '97', 'cooling'),
        (
            RASPBERRY_PI_5,
            {'sys/class/hwmon/hwmon2/in0_lcrit_alarm': '1'},
            'power supply',
            Level.RED,
            'under-voltage',
            'official',
        ),
        (
            RASPBERRY_PI_5,
            {'proc/cpuinfo': 'Features\t: fp asimd evtstrm crc32 cpuid\n'},
            'processor',
            Level.YELLOW,
            'no INT8',
            'benchmark',
        ),
        (
            RASPBERRY_PI_5,
            {'proc/meminfo': 'MemTotal: 1000000 kB\nMemAvailable: 500000 kB\n'},
            'memory',
            Level.YELLOW,
            '488 available',
            'swap',
        ),
        (
            RASPBERRY_PI_5,
            {'proc/meminfo': 'MemTotal: 1000000 kB\nMemAvailable: 100000 kB\n'},
            'memory',
            Level.RED,
            '97 available',
            'swap',
        ),
        (
            PC,
            {'proc/cpuinfo': 'model name: Pentium\nflags: fpu sse4_2\n'},
            'processor',
            Level.YELLOW,
            'no vectors',
            'smallest',
        ),
        (
            PC,
            {'sys/devices/system/cpu/cpu0/cpufreq/scaling_driver': 'acpi-cpufreq'},
            'CPU governor',
            Level.YELLOW,
            'lowest',
            'cpupower',
        ),
        (PC, {'sys/fs/cgroup/cpu.max': '150000 100000'}, 'CPU quota', Level.YELLOW, '1.5 cores of 16', 'threads to 1'),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(tmp_path, system, change, subject, level, says, advises):
    finding = findings(tmp_path, system, change)[subject]
    assert (finding.level, says in finding.found, advises in finding.advice) == (level, True, True), finding


def test_a_system_that_tells_nothing_is_no_error(tmp_path):
    assert {finding.level for finding in machine.check(Machine(tmp_path))} == {Level.GREEN}


@pytest.mark.parametrize('name', ['proc/meminfo', 'sys/devices/system/cpu/online', 'etc/nvpmodel.conf', 'proc/cpuinfo'])
@pytest.mark.parametrize('content', ['', '\0\0\xff', '9-\n', 'MemTotal: many kB\n', ',,,-'])
def test_garbled_files_are_no_error(tmp_path, name, content):
    assert machine.check(Machine(lay_out(tmp_path, JETSON_ORIN, {name: content})))


def test_this_machine(tmp_path):
    subjects = {finding.subject for finding in machine.check(Machine())}
    assert {'board', 'processor', 'cores', 'memory'} <= subjects
