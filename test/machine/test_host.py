"""What the system tells of the machine, read from folders that the test writes."""

from __future__ import annotations

from kd_perception.machine import host


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_hottest_zone_counts(tmp_path):
    write(tmp_path / 'class/thermal/thermal_zone0/temp', '41500\n')
    write(tmp_path / 'class/thermal/thermal_zone1/temp', '63000\n')
    write(tmp_path / 'class/thermal/thermal_zone2/temp', 'garbled\n')
    assert host.temperature(tmp_path) == 63.0


def test_what_the_system_does_not_tell_is_none(tmp_path):
    assert host.temperature(tmp_path) is None
    assert host.governor(tmp_path) is None


def test_governor(tmp_path):
    write(tmp_path / 'devices/system/cpu/cpu0/cpufreq/scaling_governor', 'performance\n')
    assert host.governor(tmp_path) == 'performance'


def test_an_arm_board_is_named_by_its_device_tree(tmp_path):
    write(tmp_path / 'cpuinfo', 'processor\t: 0\nBogoMIPS\t: 108.00\n')
    write(tmp_path / 'device-tree/model', 'Raspberry Pi 5 Model B Rev 1.0\0')
    assert host.cpu_model(tmp_path) == 'Raspberry Pi 5 Model B Rev 1.0'


def test_description_names_what_every_measurement_must():
    assert set(host.describe()) == {'cpu', 'cores', 'machine', 'system', 'python', 'power_mode'}


def test_memory_is_what_machine_and_container_leave(tmp_path):
    assert host.available_memory_mb(tmp_path) is None
    write(tmp_path / 'proc/meminfo', 'MemTotal: 8388608 kB\nMemAvailable: 2097152 kB\n')
    assert host.available_memory_mb(tmp_path) == 2048
    write(tmp_path / 'sys/fs/cgroup/memory.max', 'max\n')
    write(tmp_path / 'sys/fs/cgroup/memory.current', '104857600\n')
    assert host.available_memory_mb(tmp_path) == 2048
    write(tmp_path / 'sys/fs/cgroup/memory.max', '1153433600\n')
    assert host.available_memory_mb(tmp_path) == 1000


def test_the_memory_of_a_process(tmp_path):
    write(tmp_path / '7/status', 'VmHWM:  9216 kB\nVmRSS:  4096 kB\n')
    assert host.memory_of_process_mb(7, tmp_path) == 4
    assert host.memory_of_process_mb(8, tmp_path) is None
