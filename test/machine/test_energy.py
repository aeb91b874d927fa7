"""Energy read from the sensors of a Jetson of two generations and of a PC, laid out in a folder."""

from __future__ import annotations

import time

import pytest

from kd_perception.machine.energy import EnergyMeter


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{text}\n')


def test_orin_multiplies_volts_and_amperes_of_the_input_rail(tmp_path):
    sensor = tmp_path / 'sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3'
    for number, (label, volts, milliamperes) in enumerate([('VDD_IN', 5000, 2000), ('VDD_CPU_GPU_CV', 5000, 900)], 1):
        write(sensor / f'in{number}_label', label)
        write(sensor / f'in{number}_input', volts)
        write(sensor / f'curr{number}_input', milliamperes)
    write(sensor / 'in7_label', 'sum of shunt voltages')
    write(sensor / 'in7_input', 12)
    with EnergyMeter(tmp_path) as meter:
        started = time.perf_counter()
        time.sleep(0.1)
        slept = time.perf_counter() - started
    assert meter.source == 'ina3221'
    assert meter.joules >= 10 * slept * 0.999, '5 V times 2 A, the other rail is a part of it'
    assert meter.joules / 10 < slept + 5


def test_jetpack_4_adds_up_rails_where_none_feeds_all(tmp_path):
    sensor = tmp_path / 'sys/bus/i2c/drivers/ina3221x/1-0040/iio:device0'
    for number, (label, milliwatts) in enumerate([('GPU', 3000), ('CPU', 1000)]):
        write(sensor / f'rail_name_{number}', label)
        write(sensor / f'in_power{number}_input', milliwatts)
    with EnergyMeter(tmp_path) as meter:
        started = time.perf_counter()
        time.sleep(0.05)
        slept = time.perf_counter() - started
    assert meter.joules >= 4 * slept * 0.999


@pytest.mark.parametrize(('before', 'after', 'joules'), [(1_000_000, 4_000_000, 3.0), (9_000_000, 1_000_000, 2.0)])
def test_rapl_counts_packages_and_starts_again_at_its_range(tmp_path, before, after, joules):
    zones = tmp_path / 'sys/class/powercap'
    for zone, name in (('intel-rapl:0', 'package-0'), ('intel-rapl:0:0', 'core')):
        write(zones / zone / 'name', name)
        write(zones / zone / 'energy_uj', before)
        write(zones / zone / 'max_energy_range_uj', 10_000_000)
    with EnergyMeter(tmp_path) as meter:
        write(zones / 'intel-rapl:0/energy_uj', after)
    assert (meter.source, meter.joules) == ('rapl', joules)


def test_no_sensor_no_figure(tmp_path):
    with EnergyMeter(tmp_path) as meter:
        pass
    assert (meter.source, meter.joules) == ('', None)
