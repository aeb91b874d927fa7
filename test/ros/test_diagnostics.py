"""What /diagnostics says in each situation: the level, and a sentence that helps."""

from __future__ import annotations

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSPolicyKind

from kd_perception.detection.stage_times import STAGES, StageTimes
from kd_perception.ros import diagnostics, qos
from kd_perception.ros.input_monitor import InputMonitor
from kd_perception.runtime.frame_counters import FrameCounts, RollingStageTimes

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
SECOND = 1_000_000_000


def view(monitor: InputMonitor, now: float = 100.1, lifecycle: str = 'active', **more) -> diagnostics.InputView:
    given = {'enabled': True, 'counts': FrameCounts(), **more}
    return diagnostics.InputView(
        topic='/image',
        lifecycle=lifecycle,
        timeout=1.0,
        monotonic=now,
        hint='nobody publishes',
        monitor=monitor,
        **given,
    )


def fed(*stamps_s: float, lost: int = 0) -> InputMonitor:
    """A monitor that got its first frame at 100 s of the monotonic and 10 s of the node's clock; `lost` before the last one."""
    monitor = InputMonitor()
    for number, stamp in enumerate(stamps_s or (10.0,)):
        monitor.lost += lost if number == len(stamps_s) - 1 else 0
        monitor.arrived(int(stamp * SECOND), 10 * SECOND, 100.0)
    return monitor


def rejecting(*causes: str) -> InputMonitor:
    monitor = fed()
    for cause in causes:
        monitor.rejection = cause
    return monitor


@pytest.mark.parametrize(
    ('view', 'level', 'says', 'condition'),
    [
        (view(InputMonitor()), WARN, 'waiting: nobody publishes', 'waiting'),
        (view(InputMonitor(), clock_fault='no /clock'), WARN, 'waiting: no /clock; nobody publishes', 'waiting'),
        (view(InputMonitor(), incompatibility='qos!'), WARN, 'waiting: qos!', 'QoS'),
        (view(fed()), OK, 'active', ''),
        (view(fed(), 105.0), ERROR, 'stale: no image for 5.0 s; nobody publishes', 'stale'),
        (view(rejecting('step is 3')), ERROR, 'rejected: step is 3', 'rejected'),
        (view(rejecting('step is 3', ''), rejected_lately=2), WARN, '2 image(s) rejected: step is 3', 'some rejected'),
        (view(rejecting('step is 3', '')), OK, 'active', ''),
        (view(fed(), incompatibility='qos!'), WARN, 'active, but qos!', 'QoS'),
        (view(fed(99.0), clock_fault='no /clock'), WARN, 'active, but no /clock', 'clock'),
        (view(fed(*[10.0] * 17, lost=83), cure_of_loss='do this'), WARN, '83 of the last 100 images were lost', 'loss'),
        (view(fed(*[10.0] * 17, lost=83), cure_of_loss='do this'), WARN, '(83 %): do this', 'loss'),
        (view(fed(*[10.0] * 97, lost=3)), OK, 'active', ''),
        (view(fed(*[10.0] * 2, lost=2)), OK, 'active', ''),
        (view(fed(*[10.0] * 17, lost=83), 111.0), ERROR, 'stale', 'stale'),
        (view(fed(0.0)), WARN, '1 missing', 'stamps'),
        (view(fed(99.0)), WARN, '1 future', 'stamps'),
        (view(fed(), enabled=False), OK, 'disabled', ''),
        (view(InputMonitor(), lifecycle='inactive'), OK, 'node is inactive', ''),
    ],
)
def test_input(view, level, says, condition):
    report = diagnostics.input_report(view)
    assert (report.status.level, report.condition) == (level, condition)
    assert says in report.status.message


def latency(ages: list[float], lifecycle: str = 'active') -> diagnostics.TaskReport:
    times = RollingStageTimes()
    for age in ages:
        times.add(StageTimes(infer=age * 0.9, age=age))
    return diagnostics.latency_report(diagnostics.LatencyView(lifecycle, 200.0, 0, 30.0, times.percentiles()))


@pytest.mark.parametrize(
    ('ages', 'level', 'says', 'condition'),
    [
        ([], OK, 'no frame yet', ''),
        ([50.0] * 100, OK, 'age p50 50.0 ms', ''),
        ([50.0] * 90 + [500.0] * 10, WARN, 'sometimes over budget', 'sometimes over budget'),
        ([500.0] * 100, ERROR, 'over budget', 'over budget'),
    ],
)
def test_latency(ages, level, says, condition):
    report = latency(ages)
    assert (report.status.level, report.condition) == (level, condition)
    assert says in report.status.message
    if level != OK:
        assert 'slowest stage: infer' in report.status.message


def test_the_warning_about_the_budget_ends_with_deactivation():
    report = latency([500.0] * 100, 'inactive')
    assert (report.status.level, report.status.message, report.condition) == (OK, 'node is inactive', '')


def test_every_percentile_has_a_key_of_its_own_and_is_a_plain_number():
    values = {value.key: value.value for value in latency([50.0] * 99 + [90.0]).status.values}
    for stage in STAGES:
        for figure in ('p50', 'p95', 'p99', 'max'):
            assert float(values[f'{stage}.{figure}_ms']) >= 0
    assert (float(values['age.p50_ms']), float(values['age.max_ms'])) == (50.0, 90.0)
    assert values['level'] == '0'


TEXTS = {'state', 'topic', 'enabled', 'qos', 'rejection', 'worst_stage', 'temperature_c', 'power_mode'}


@pytest.mark.parametrize(
    'report', [diagnostics.input_report(view(fed())), latency([50.0] * 9)], ids=['input', 'latency']
)
def test_what_is_no_text_is_a_number_that_plotters_read(report):
    """PlotJuggler and Foxglove make a curve of every value that is a number and nothing else."""
    for value in report.status.values:
        assert value.key in TEXTS or float(value.value) >= 0, value.key


@pytest.mark.parametrize(
    ('view', 'level', 'says'),
    [
        (diagnostics.ModelView(failure='sha256 differs'), ERROR, 'sha256 differs'),
        (diagnostics.ModelView(), WARN, 'no model loaded; the node is unconfigured: configure and activate it'),
        (
            diagnostics.ModelView(building_s=3.0, requested='mine on ncnn'),
            WARN,
            'no model loaded; building mine on ncnn for 3 s',
        ),
        (diagnostics.ModelView(namesakes='2 nodes are named /detector'), WARN, '2 nodes are named /detector'),
    ],
)
def test_no_model_is_not_ok(view, level, says):
    status = diagnostics.model_report(view).status
    assert status.level == level
    assert says in status.message


@pytest.mark.parametrize('ours', ['subscription', 'publisher'])
def test_an_incompatible_qos_comes_with_its_cure(ours):
    text = qos.incompatibility('/image', QoSPolicyKind.RELIABILITY, ours)
    assert '/image' in text
    assert 'RELIABILITY' in text
    assert 'best effort' in text
