"""Faults of the engine, injected into the real node: it raises, hangs or runs out of memory, and every frame is accounted for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import faulty_engine
import pytest
from detector_process import NodeInProcess, wait_for
from diagnostic_msgs.msg import DiagnosticStatus
from networks import image_with_cells
from patience import PATIENCE, patient

from kd_perception import engines
from kd_perception.errors import EngineError
from kd_perception.selection import first_run

FRAME = image_with_cells(5)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable]]:
    """What happens before every inference. Another process, where networks run first, does not know of this engine."""
    monkeypatch.setitem(engines.ENGINES, 'onnxruntime', faulty_engine.KIND)
    monkeypatch.setattr(first_run, 'check', lambda selection, report: None)
    yield faulty_engine.before_inference
    faulty_engine.before_inference.clear()


@pytest.fixture
def start(start_node, faults) -> Callable[..., NodeInProcess]:
    """Start a node in this process, on the engine that takes commands."""
    return start_node


@pytest.fixture
def hang(faults) -> Iterator[threading.Event]:
    """Every inference hangs until the event is set."""
    release = threading.Event()
    faults.append(lambda info: release.wait(PATIENCE))
    yield release
    release.set()


def fail_times(count: int, words: str) -> Callable:
    """A fault that strikes `count` times."""
    left = [words] * count

    def fault(info) -> None:
        if left:
            raise EngineError(left.pop())

    return fault


def test_a_single_failure_is_retried_and_the_frame_published(start, faults):
    detector = start()
    faults.append(fail_times(1, 'a bit flipped'))
    assert detector.client.detect(FRAME).detections
    wait_for(lambda: detector.client.value('model', 'engine_errors') == '1', 'the error to be counted')
    detector.client.wait_for_status('model', 'bright_cells fp32 on onnxruntime', DiagnosticStatus.OK)


def test_an_engine_that_hangs_is_left_behind_and_a_reload_recovers(start, faults):
    detector = start(watchdog_s=patient(1.0))
    client = detector.client
    assert client.detect(FRAME).detections
    release = threading.Event()
    faults.append(lambda info: release.wait(PATIENCE))
    client.send(FRAME)
    status = client.wait_for_status('model', 'onnxruntime (CPUExecutionProvider) hangs', DiagnosticStatus.ERROR)
    assert '~/reload_model' in status.message
    detector.wait_for_counts(received=2, published=1, dropped_failed=1, pending=0)
    client.send(FRAME)
    detector.wait_for_counts(received=3, dropped_disabled=1, pending=0)
    answer = detector.enable()
    assert not answer.success
    assert 'reload_model' in answer.message
    faults.clear()
    assert detector.reload().success
    client.wait_for_status('model', 'bright_cells fp32', DiagnosticStatus.OK)
    assert client.detect(FRAME).detections
    release.set()  # the old thread wakes up, and its frame must not be published or counted again
    assert client.detect(FRAME).detections
    detector.wait_for_counts(received=5, published=3, dropped_failed=1, dropped_disabled=1, pending=0)


def test_a_frame_waiting_behind_a_hanging_one_is_accounted_for(start, hang):
    hang.set()
    detector = start(watchdog_s=patient(1.0))
    hang.clear()
    for count in range(1, 4):
        detector.client.send(FRAME)
        detector.wait_for_counts(received=count)
    detector.wait_for_counts(dropped_failed=1, pending=0)
    values = {cause: int(detector.client.value('input', f'dropped.{cause}')) for cause in ('disabled', 'superseded')}
    assert sum(values.values()) == 2


def test_a_device_out_of_memory_gives_way_to_the_cpu(start, faults):
    detector = start(providers=[faulty_engine.GPU, 'CPUExecutionProvider'])

    def exhausted(info) -> None:
        if info.device == 'cuda':
            raise EngineError('CUDA failure 2: out of memory ; GPU=0')

    faults.append(exhausted)
    detector.client.send(FRAME)
    status = detector.client.wait_for_status('model', 'running on the CPU after: out of memory on cuda')
    assert status.level == DiagnosticStatus.ERROR
    assert detector.client.value('model', 'engine_errors') == '1'  # not tried a second time
    assert detector.client.value('model', 'provider') == 'CPUExecutionProvider'
    assert detector.client.detect(FRAME).detections
    wait_for(lambda: detector.client.vision[-1].database_version == 2, 'the new version')
    detector.wait_for_counts(received=2, published=1, dropped_failed=1, pending=0)
    assert detector.enable().success
    seen = detector.client.status('model')
    wait_for(lambda: detector.client.status('model') is not seen, 'a newer status')
    detector.client.wait_for_status('model', 'running on the CPU after: ', DiagnosticStatus.ERROR)


def test_a_cpu_out_of_memory_is_disabled_until_enabled(start, faults):
    detector = start()
    faults.append(fail_times(1, 'std::bad_alloc'))
    detector.client.send(FRAME)
    detector.client.wait_for_status('model', 'disabled after: out of memory on cpu', DiagnosticStatus.ERROR)
    assert detector.enable().success
    assert detector.client.detect(FRAME).detections
    detector.wait_for_counts(received=2, published=1, dropped_failed=1, pending=0)


def test_a_node_ends_although_its_engine_hangs(start, hang, make_client):
    hang.set()
    detector = start(watchdog_s=60.0)
    hang.clear()
    detector.client.send(FRAME)
    detector.wait_for_counts(received=1)
    detector.node.destroy_node()
    assert (
        '1 frames received, 0 published, dropped: 1 disabled' in detector.node.accounts()
    )  # the end waits for no verdict
