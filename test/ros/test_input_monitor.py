"""The camera's state and its stamps, on clocks that the test moves."""

from __future__ import annotations

import pytest

from kd_perception.ros.input_monitor import InputMonitor, InputState, Loss, age_ms

SECOND = 1_000_000_000


def test_state_follows_the_frames():
    monitor = InputMonitor()
    assert monitor.state(100.0, timeout=1.0) is InputState.WAITING
    monitor.arrived(5 * SECOND, 5 * SECOND, 100.0)
    assert monitor.state(100.9, timeout=1.0) is InputState.ACTIVE
    assert monitor.state(101.1, timeout=1.0) is InputState.STALE
    assert monitor.silence(101.1) == pytest.approx(1.1)
    monitor.arrived(6 * SECOND, 6 * SECOND, 102.0)
    monitor.rejection = 'broken'
    assert monitor.state(102.0, timeout=1.0) is InputState.REJECTED
    monitor.rejection = ''
    assert monitor.state(102.0, timeout=1.0) is InputState.ACTIVE


@pytest.mark.parametrize(
    ('stamps', 'faults'),
    [
        ([9.8, 9.9, 10.0], {}),
        ([0.0], {'missing': 1}),
        ([11.0], {'future': 1}),
        ([10.04], {}),  # clocks of two machines differ a little
        ([10.0, 9.0, 9.5], {'backward': 1}),  # a bag that starts anew goes back once
        ([10.0, 10.0], {}),
    ],
)
def test_stamp_faults_are_counted_by_kind(stamps, faults):
    monitor = InputMonitor()
    for index, stamp in enumerate(stamps):
        monitor.arrived(int(stamp * SECOND), 10 * SECOND, float(index))
    assert dict(monitor.stamp_faults) == faults


@pytest.mark.parametrize(('stamp', 'clock', 'age'), [(10.0, 10.25, 250.0), (0.0, 10.0, 0.0), (10.5, 10.0, 0.0)])
def test_age_is_never_negative(stamp, clock, age):
    assert age_ms(int(stamp * SECOND), int(clock * SECOND)) == pytest.approx(age)
    assert InputMonitor().arrived(int(stamp * SECOND), int(clock * SECOND), 0.0) == pytest.approx(age)


@pytest.mark.parametrize(
    ('numbers', 'lost'),
    [
        ([(b'a', 7), (b'a', 8), (b'a', 9)], 0),
        ([(b'a', 7), (b'a', 10)], 2),
        ([(b'a', 1), (b'b', 500), (b'a', 2), (b'b', 502)], 1),  # each publisher counts for itself
        ([(b'a', 9), (b'a', 1), (b'a', 2)], 0),  # a publisher that began anew
    ],
)
def test_gaps_in_a_publishers_numbers_are_lost_messages(numbers, lost):
    monitor = InputMonitor()
    for publisher, number in numbers:
        monitor.numbered(publisher, number)
    assert monitor.lost == lost


def test_only_so_many_publishers_are_remembered():
    monitor = InputMonitor()
    for number in range(1000):
        monitor.numbered(str(number).encode(), 1)
    assert monitor.lost == 0


def test_losses_are_recent_for_ten_seconds_and_counted_for_ever():
    monitor = InputMonitor()
    for number in (1, 2, 8):  # five are missing
        monitor.numbered(b'camera', number)
        monitor.arrived(SECOND, SECOND, 100.0)
    assert monitor.recent_loss(105.0) == Loss(5, 8)
    monitor.arrived(SECOND, SECOND, 111.0)
    assert monitor.recent_loss(111.0) == Loss(0, 1)
    assert monitor.lost == 5


def test_a_new_beginning_keeps_what_was_counted():
    monitor = InputMonitor()
    monitor.numbered(b'camera', 1)
    monitor.numbered(b'camera', 4)
    monitor.arrived(0, SECOND, 100.0)
    monitor.rejection = 'broken'
    monitor.begin(200.0)
    assert (monitor.lost, dict(monitor.stamp_faults), monitor.recent_faults(200.0)) == (2, {'missing': 1}, {})
    assert monitor.state(200.0, 1.0) is InputState.WAITING
    assert monitor.silence(203.0) == pytest.approx(3.0)
    monitor.arrived(SECOND, SECOND, 201.0)
    assert (monitor.state(201.0, 1.0), monitor.recent_loss(201.0)) == (InputState.ACTIVE, Loss(0, 1))


@pytest.mark.parametrize(('age_s', 'faults'), [(59.0, {}), (61.0, {'old': 1})])
def test_a_stamp_of_another_time_is_no_latency(age_s, faults):
    monitor = InputMonitor()
    monitor.arrived(1000 * SECOND, int((1000 + age_s) * SECOND), 0.0)
    assert dict(monitor.stamp_faults) == faults


def test_an_odd_stamp_is_recent_for_ten_seconds():
    monitor = InputMonitor()
    monitor.arrived(0, SECOND, 100.0)
    assert monitor.recent_faults(109.0) == {'missing': 1}
    assert monitor.recent_faults(111.0) == {}
