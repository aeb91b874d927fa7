"""`engine: auto` and degradation on the real node: what was chosen and why, and doing less while frames come too late."""

from __future__ import annotations

import time
from collections.abc import Iterator

import faulty_engine
import pytest
from detector_process import wait_for
from diagnostic_msgs.msg import DiagnosticStatus
from networks import artifact_entry, image_with_cells, make_bundle
from patience import patient
from rclpy.parameter import Parameter

from kd_perception import engines
from kd_perception.selection.timing import Timer, Timing

FRAME = image_with_cells(5)
TIMES = {'fp32': 40.0, 'int8': 10.0}


@pytest.fixture
def family(tmp_path, monkeypatch) -> Iterator[str]:
    """A bundle of an accurate and a quick artifact, whose timings are given, on an engine that takes commands."""
    monkeypatch.setattr(engines, 'ENGINES', {'onnxruntime': faulty_engine.KIND})
    monkeypatch.setattr(
        Timer,
        'time',
        lambda self, bundle, artifact, *_: Timing(TIMES[artifact.precision] / 2, TIMES[artifact.precision], 60),
    )
    folder = tmp_path / 'cells'
    make_bundle(folder)
    network = (folder / 'bright_cells.onnx').read_bytes()
    entries = []
    for precision, value in (('fp32', 0.50), ('int8', 0.495)):
        (folder / f'{precision}.onnx').write_bytes(network)
        metrics = {'dataset': 'd', 'map50': 0.9, 'map': value}
        entries.append(artifact_entry(folder, f'{precision}.onnx', precision, metrics=metrics))
    make_bundle(folder, artifacts=entries)
    yield str(folder)
    faulty_engine.before_inference.clear()


@pytest.mark.parametrize(
    ('budget', 'precision', 'level', 'says'),
    [
        (100.0, 'fp32', DiagnosticStatus.OK, 'the most accurate of 2'),
        (20.0, 'int8', DiagnosticStatus.OK, 'the most accurate of 2'),
        (5.0, 'int8', DiagnosticStatus.WARN, 'none of 2 fits the budget of 5 ms'),
    ],
)
def test_auto_takes_what_fits_the_budget_and_says_why(start_node, family, budget, precision, level, says):
    client = start_node(model=family, engine='auto', latency_budget_ms=budget).client
    client.wait_for_status('model', f'cells {precision} on onnxruntime', level)
    assert says in client.value('model', 'selection')
    assert client.value('model', 'selection.bright_cells_fp32_on_onnxruntime').startswith('p95 40.0 ms')
    assert client.vision[-1].method.split()[1] == precision


def test_another_budget_changes_the_choice_while_the_node_runs(start_node, family):
    detector = start_node(model=family, engine='auto', latency_budget_ms=100.0)
    detector.client.wait_for_status('model', 'fp32 on onnxruntime')
    detector.node.set_parameters([Parameter('latency_budget_ms', value=20.0)])
    detector.client.wait_for_status('model', 'int8 on onnxruntime')
    assert detector.client.vision[-1].database_version == 2


class Load:
    """A budget that this machine, as busy as it is now, keeps with a tiny network, and what is over it.

    Attributes:
        settings: the budget, and time enough for the frames that a percentile needs.
    """

    def __init__(self) -> None:
        times = min(patient(1.0), 8.0)
        self.settings = {
            'latency_budget_ms': 150.0 * times,
            'degradation_patience_s': 2.5 * times,
            'degradation_hold_s': 2.5 * times,
        }

    def begin(self) -> None:
        """From now on the accurate network takes far more than its budget."""

        def too_slow(info) -> None:
            if info.precision == 'fp32':
                time.sleep(1.7e-3 * self.settings['latency_budget_ms'])

        faulty_engine.before_inference.append(too_slow)

    def end(self) -> None:
        faulty_engine.before_inference.clear()


@pytest.fixture
def load() -> Load:
    return Load()


def keep_sending(detector, until, what: str) -> None:
    """Send 30 frames a second until a condition is met."""

    def met():
        detector.client.send(FRAME)
        time.sleep(0.02)
        return until()

    wait_for(met, what)


def test_under_load_it_steps_down_to_the_quicker_network_and_up_again(start_node, family, load):
    detector = start_node(model=family, engine='auto', degradation='step_down', **load.settings)
    client = detector.client
    client.wait_for_status('model', 'fp32 on onnxruntime', DiagnosticStatus.OK)
    load.begin()
    keep_sending(detector, lambda: 'int8' in client.vision[-1].method, 'the quicker network')
    status = client.wait_for_status('model', 'int8 on onnxruntime', DiagnosticStatus.WARN)
    assert 'degraded to level 1 of 1, a smaller network runs; cause: ' in status.message
    load.end()
    keep_sending(detector, lambda: 'fp32' in client.vision[-1].method, 'the accurate network')
    client.wait_for_status('model', 'fp32 on onnxruntime', DiagnosticStatus.OK)
    assert [info.method.split()[1] for info in client.vision] == ['fp32', 'int8', 'fp32']


def test_a_reload_begins_at_the_top_again(start_node, family, load):
    detector = start_node(model=family, engine='auto', degradation='step_down', **load.settings)
    client = detector.client
    load.begin()
    keep_sending(detector, lambda: 'int8' in client.vision[-1].method, 'the quicker network')
    load.end()
    assert detector.reload().success
    client.wait_for_status('model', 'fp32 on onnxruntime', DiagnosticStatus.OK)
    assert client.value('model', 'degradation') == 'none'


def test_under_load_it_skips_frames_and_counts_them(start_node, family, load):
    detector = start_node(model=family, degradation='skip_frames', **load.settings)
    client = detector.client
    load.begin()
    keep_sending(detector, lambda: int(client.value('input', 'dropped.skipped') or 0) > 3, 'skipped frames')
    client.wait_for_status('model', 'is detected; cause: ', DiagnosticStatus.WARN)
    load.end()
    keep_sending(detector, lambda: client.value('model', 'degradation') == 'none', 'the way back')

    def balanced() -> bool:
        figures = {v.key: v.value for v in client.status('input').values}
        dropped = sum(int(value) for key, value in figures.items() if key.startswith('dropped.'))
        return figures['pending'] == '0' and int(figures['received']) == int(figures['published']) + dropped

    wait_for(balanced, 'balanced accounts')


def test_where_nothing_is_quicker_the_node_says_so(start_node, family, monkeypatch):
    monkeypatch.setitem(TIMES, 'int8', TIMES['fp32'])
    client = start_node(model=family, engine='auto', degradation='step_down').client
    client.wait_for_status('model', 'step_down has nowhere to go', DiagnosticStatus.WARN)
    assert client.detect(FRAME).detections


def test_a_named_engine_is_never_stepped_down_from(start_node, family):
    detector = start_node(model=family, engine='onnxruntime', degradation='off')
    detector.client.wait_for_status('model', 'fp32 on onnxruntime', DiagnosticStatus.OK)
    (result,) = detector.node.set_parameters([Parameter('degradation', value='step_down')])
    assert not result.successful
    assert 'needs engine auto' in result.reason
