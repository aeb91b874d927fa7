"""Files of the machines that we do not have, as far as the doctor reads them."""

from __future__ import annotations

from pathlib import Path

_ARM_CPU = (
    'processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd evtstrm aes crc32 cpuid {more}\nCPU implementer\t: 0x41\n'
)

JETSON_ORIN = {
    'proc/device-tree/model': 'NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0',
    'etc/nv_tegra_release': '# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64',
    'proc/cpuinfo': _ARM_CPU.format(more='asimdhp asimddp'),
    'proc/meminfo': 'MemTotal:        7802792 kB\nMemAvailable:    5123456 kB\nSwapTotal:       3901392 kB\n',
    'proc/mounts': 'tmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0\n',
    'proc/sys/net/core/rmem_max': '212992\n',
    'sys/devices/system/cpu/online': '0-5\n',
    'sys/devices/system/cpu/present': '0-5\n',
    'sys/devices/system/cpu/cpu0/cpufreq/scaling_governor': 'schedutil\n',
    'sys/devices/system/cpu/cpu0/cpufreq/scaling_driver': 'tegra194\n',
    'sys/class/thermal/thermal_zone0/temp': '47250\n',
    'var/lib/nvpmodel/status': 'pmode:0001\n',
    'etc/nvpmodel.conf': (
        '< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n'
        '< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n'
    ),
    'dev/nvgpu/igpu0/gpu': '',
}

RASPBERRY_PI_5 = {
    'proc/device-tree/model': 'Raspberry Pi 5 Model B Rev 1.0\0',
    'proc/cpuinfo': _ARM_CPU.format(more='asimdhp asimdrdm lrcpc dcpop asimddp'),
    'proc/meminfo': 'MemTotal:        4146124 kB\nMemAvailable:    3123456 kB\nSwapTotal:        204784 kB\n',
    'proc/mounts': 'tmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0\n',
    'proc/sys/net/core/rmem_max': '212992\n',
    'sys/devices/system/cpu/online': '0-3\n',
    'sys/devices/system/cpu/present': '0-3\n',
    'sys/devices/system/cpu/cpu0/cpufreq/scaling_governor': 'ondemand\n',
    'sys/devices/system/cpu/cpu0/cpufreq/scaling_driver': 'cpufreq-dt\n',
    'sys/class/thermal/thermal_zone0/temp': '61150\n',
    'sys/class/hwmon/hwmon0/name': 'cpu_thermal\n',
    'sys/class/hwmon/hwmon2/name': 'rpi_volt\n',
    'sys/class/hwmon/hwmon2/in0_lcrit_alarm': '0\n',
}

PC = {
    'sys/class/dmi/id/product_name': 'NUC12WSHi5\n',
    'proc/cpuinfo': 'model name\t: 12th Gen Intel(R) Core(TM) i5-1240P\nflags\t\t: fpu sse4_2 avx avx2 fma avx_vnni\n',
    'proc/meminfo': 'MemTotal:       16205568 kB\nMemAvailable:   12000000 kB\nSwapTotal:             0 kB\n',
    'proc/mounts': 'proc /proc proc rw 0 0\ntmpfs /dev/shm tmpfs rw,nosuid,nodev,size=8102784k 0 0\n',
    'proc/sys/net/core/rmem_max': '212992\n',
    'sys/devices/system/cpu/online': '0-15\n',
    'sys/devices/system/cpu/present': '0-15\n',
    'sys/devices/system/cpu/cpu0/cpufreq/scaling_governor': 'powersave\n',
    'sys/devices/system/cpu/cpu0/cpufreq/scaling_driver': 'intel_pstate\n',
    'sys/class/drm/card1/device/vendor': '0x8086\n',
}


def lay_out(root: Path, *systems: dict[str, str | None]) -> Path:
    """Write the files below `root`; a later system changes an earlier one, and None takes a file away."""
    files: dict[str, str | None] = {}
    for system in systems:
        files |= system
    for name, content in files.items():
        if content is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
    return root
