"""What /diagnostics says in each situation: the level, and a sentence that helps."""

from __future__ import annotations

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSPolicyKind

from kd_perception.detection.stage_times import StageTimes
from kd_perception.ros import diagnostics, qos
from kd_perception.ros.input_monitor import InputMonitor
from kd_perception.runtime.frame_counters import FrameCounts, RollingStageTimes

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
SECOND = 1_000_000_000


def view(monitor: InputMonitor, now: float, lifecycle: str = 'active', enabled: bool = True) -> diagnostics.InputView:
    return diagnostics.InputView('/image', lifecycle, enabled, 1.0, now, 'nobody publishes', monitor, FrameCounts())


def fed(stamp_s: float = 10.0) -> InputMonitor:
    monitor = InputMonitor()
    monitor.arrived(int(stamp_s * SECOND), 10 * SECOND, 100.0)
    return monitor


def with_(monitor: InputMonitor, **attributes) -> InputMonitor:
    for name, value in attributes.items():
        setattr(monitor, name, value)
    return monitor


@pytest.mark.parametrize(
    ('view', 'level', 'says'),
    [
        (view(InputMonitor(), 100.0), WARN, 'waiting: nobody publishes'),
        (view(fed(), 100.1), OK, 'active'),
        (view(fed(), 105.0), ERROR, 'stale: no image for 5.0 s'),
        (view(with_(fed(), rejection='step is 3'), 100.1), ERROR, 'rejected: step is 3'),
        (view(with_(fed(), incompatibility='qos!'), 100.1), WARN, 'active, but qos!'),
        (view(with_(InputMonitor(), incompatibility='qos!'), 100.1), WARN, 'waiting: qos!'),
        (view(fed(stamp_s=0.0), 100.1), WARN, '1 missing'),
        (view(fed(stamp_s=99.0), 100.1), WARN, '1 future'),
        (view(fed(), 100.1, enabled=False), OK, 'disabled'),
        (view(fed(), 100.1, lifecycle='inactive'), OK, 'node is inactive'),
    ],
)
def test_input(view, level, says):
    status = diagnostics.input_status(view)
    assert status.level == level
    assert says in status.message


@pytest.mark.parametrize(
    ('ages', 'level', 'says'),
    [
        ([], OK, 'no frame yet'),
        ([50.0] * 100, OK, 'age p50 50.0 ms'),
        ([50.0] * 90 + [500.0] * 10, WARN, 'sometimes over budget'),
        ([500.0] * 100, ERROR, 'over budget'),
    ],
)
def test_latency(ages, level, says):
    times = RollingStageTimes()
    for age in ages:
        times.add(StageTimes(infer=age * 0.9, age=age))
    status = diagnostics.latency_status(diagnostics.LatencyView(200.0, 0, 30.0, times.percentiles()))
    assert status.level == level
    assert says in status.message
    if level != OK:
        assert 'slowest stage: infer' in status.message


def test_model_without_a_bundle_gives_the_reason():
    status = diagnostics.model_status(diagnostics.ModelView(failure='sha256 differs'))
    assert (status.level, status.message) == (ERROR, 'sha256 differs')


@pytest.mark.parametrize('ours', ['subscription', 'publisher'])
def test_an_incompatible_qos_is_told_with_its_cure(ours):
    text = qos.incompatibility('/image', QoSPolicyKind.RELIABILITY, ours)
    assert '/image' in text
    assert 'RELIABILITY' in text
    assert 'best effort' in text
