"""The model exchanged while the real node works: no frame is lost unnoticed, and a bad model leaves the old one running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from detector_process import DetectorProcess, wait_for
from diagnostic_msgs.msg import DiagnosticStatus
from networks import artifact_entry, endless, image_with_cells, make_bundle
from patience import PATIENCE
from rcl_interfaces.msg import Parameter, ParameterEvent, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.parameter import Parameter as NodeParameter
from std_srvs.srv import Trigger

from kd_perception.errors import BundleError
from kd_perception.runtime.model import load
from kd_perception.selection import first_run

FRAME = image_with_cells(5)


@pytest.fixture
def bundles(tmp_path: Path) -> tuple[Path, Path]:
    """Two bundles of the same network under different names and with different class names."""
    make_bundle(tmp_path / 'first', name='first')
    make_bundle(tmp_path / 'second', name='second', classes=['light', 'water'])
    return tmp_path / 'first', tmp_path / 'second'


def reload_model(detector: DetectorProcess) -> Trigger.Response:
    return detector.client.call(Trigger, 'detector/reload_model', Trigger.Request())


def set_text(detector: DetectorProcess, name: str, value: str):
    setting = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)
    request = SetParameters.Request(parameters=[Parameter(name=name, value=setting)])
    return detector.client.call(SetParameters, 'detector/set_parameters', request).results[0]


def get_text(detector: DetectorProcess, name: str) -> str:
    request = GetParameters.Request(names=[name])
    return detector.client.call(GetParameters, 'detector/get_parameters', request).values[0].string_value


@contextmanager
def thirty_frames_a_second(detector: DetectorProcess) -> Iterator[list[int]]:
    """A camera at 30 Hz; the list's length is the number of frames sent."""
    sent: list[int] = []
    end = threading.Event()

    def show() -> None:
        while not end.wait(1 / 30):
            detector.client.send(FRAME)
            sent.append(1)

    camera = threading.Thread(target=show)
    camera.start()
    try:
        yield sent
    finally:
        end.set()
        camera.join()


def wait_for_complete_accounts(detector: DetectorProcess, sent: int) -> dict[str, int]:
    """Wait until every frame is published, dropped with a cause, or known to be lost by the middleware."""

    def complete() -> dict[str, int] | None:
        counts = detector.counts()
        lost = int(detector.client.value('input', 'lost_by_middleware'))
        return counts if counts['pending'] == 0 and counts['received'] + lost == sent else None

    counts = wait_for(complete, f'accounts of {sent} frames')
    dropped = {key: value for key, value in counts.items() if key.startswith('dropped.') and value}
    assert counts['received'] == counts['published'] + sum(dropped.values())
    assert set(dropped) <= {'dropped.superseded'}
    return counts


def test_reloads_under_load_lose_no_frame_uncounted(start_detector, bundles):
    detector = start_detector(bundles[0]).wait_until_active()
    client = detector.client
    with thirty_frames_a_second(detector) as sent:
        wait_for(lambda: len(client.detections) > 5, 'detections')
        for version in (2, 3):
            assert reload_model(detector).success
            wait_for(lambda v=version: client.vision[-1].database_version == v, f'version {version}')
        assert set_text(detector, 'model', str(bundles[1])).successful
        wait_for(lambda: client.vision[-1].database_version == 4, 'version 4')
        seen = len(client.detections)
        wait_for(lambda: len(client.detections) > seen + 5, 'detections of the new model')
    assert client.vision[-1].method.startswith('second fp32 onnxruntime')
    assert [entry.class_name for entry in client.labels[-1].class_map] == ['light', 'water']
    assert [info.database_version for info in client.vision] == [1, 2, 3, 4]
    counts = wait_for_complete_accounts(detector, len(sent))
    assert counts['published'] == len(client.detections)
    client.wait_for_status('model', 'second fp32 on onnxruntime', DiagnosticStatus.OK)
    assert client.value('model', 'database_version') == '4'


def test_a_damaged_bundle_leaves_the_old_model_running(start_detector, bundles):
    detector = start_detector(bundles[0]).wait_until_active()
    client = detector.client
    network = bundles[0] / 'bright_cells.onnx'
    content = network.read_bytes()
    network.write_bytes(content[:-100])
    with thirty_frames_a_second(detector) as sent:
        answer = reload_model(detector)
        assert not answer.success
        assert 'first fp32 goes on' in answer.message
        assert 'truncated or altered' in answer.message
        seen = len(client.detections)
        wait_for(lambda: len(client.detections) > seen + 5, 'detections of the old model')
    wait_for_complete_accounts(detector, len(sent))
    assert client.vision[-1].database_version == 1
    client.wait_for_status('model', 'truncated or altered', DiagnosticStatus.WARN)
    network.write_bytes(content)
    assert reload_model(detector).success
    client.wait_for_status('model', 'first fp32 on onnxruntime', DiagnosticStatus.OK)


def test_a_model_that_fails_while_it_is_built_gives_the_parameter_back(start_detector, bundles):
    (bundles[1] / 'bright_cells.onnx').write_bytes(b'no network')
    document = artifact_entry(bundles[1], 'bright_cells.onnx')
    text = (bundles[1] / 'bundle.yaml').read_text()
    old = next(line for line in text.splitlines() if 'sha256' in line)
    (bundles[1] / 'bundle.yaml').write_text(text.replace(old.split()[-1], document['sha256']))
    detector = start_detector(bundles[0]).wait_until_active()
    assert set_text(detector, 'model', str(bundles[1])).successful
    detector.client.wait_for_status('model', 'reload failed, first fp32 goes on', DiagnosticStatus.WARN)
    assert get_text(detector, 'model') == str(bundles[0])
    assert detector.client.detect(FRAME).detections


@pytest.mark.parametrize(
    ('name', 'value', 'says'),
    [
        ('model', 'nothing_like_it', "no model bundle 'nothing_like_it'"),
        ('precision', 'int8', 'has no artifact onnxruntime/int8'),
        ('engine', 'onnxruntim', "did you mean 'onnxruntime'?"),
    ],
)
def test_what_cannot_come_true_is_refused_at_once(start_detector, bundles, name, value, says):
    detector = start_detector(bundles[0]).wait_until_active()
    before = get_text(detector, name)
    result = set_text(detector, name, value)
    assert not result.successful
    assert says in result.reason
    assert get_text(detector, name) == before
    assert detector.client.detect(FRAME).detections


def test_reloading_an_unconfigured_node_is_refused(start_detector, bundles):
    detector = start_detector(bundles[0], autostart=False)
    wait_for(lambda: detector.client.status('model'), 'diagnostics')
    answer = reload_model(detector)
    assert not answer.success
    assert 'not configured' in answer.message


def test_a_build_that_fails_just_after_a_newer_setting_restores_nothing_over_it(start_node, bundles):
    """The newer setting is accepted in the very moment before the failure, when nothing has been asked for by it yet."""
    detector = start_node(model=str(bundles[0]))
    node, built = detector.node, []

    def build(settings, report, fallbacks):
        built.append(settings.tiles)
        if settings.tiles == 'off':
            (accepted,) = node.set_parameters([NodeParameter('tiles', value='2x1')])
            assert accepted.successful
            raise BundleError('fails just now')
        return load(settings, report, fallbacks)

    node._live._build = build
    assert node.set_parameters([NodeParameter('model', value=str(bundles[1]))])[0].successful
    wait_for(lambda: detector.client.vision[-1].method.startswith('second'), 'the newer setting to be followed')
    assert (node.setting('model'), node.setting('tiles')) == (str(bundles[1]), '2x1')
    assert built == ['off', '2x1']


def test_parameters_are_restored_in_one_set(start_node, bundles):
    """Whoever listens never sees half of them."""
    detector = start_node(model=str(bundles[0]))
    node = detector.node
    events: list[ParameterEvent] = []
    detector.client.create_subscription(ParameterEvent, '/parameter_events', events.append, 20)
    wait_for(lambda: node.count_subscribers('/parameter_events'), 'the listener')

    def refuse(settings, report, fallbacks):
        raise BundleError('will not do')

    node._live._build = refuse
    changes = {'model': str(bundles[1]), 'tiles': '2x1', 'max_map_drop': 0.5}
    assert node.set_parameters_atomically([NodeParameter(name, value=v) for name, v in changes.items()]).successful
    wait_for(lambda: node.setting('model') == str(bundles[0]), 'the parameters to be restored')
    wait_for(lambda: len(events) >= 2, 'the events')
    assert [{change.name for change in event.changed_parameters} for event in events] == [set(changes)] * 2
    assert detector.client.detect(FRAME).detections


def test_a_failed_setting_is_not_asked_for_again_and_again(start_node, bundles):
    detector = start_node(model=str(bundles[0]), watchdog_s=9.0)
    node, built = detector.node, []

    def refuse(settings, report, fallbacks):
        built.append(settings)
        raise BundleError('will not do')

    node._live._build = refuse
    for number, threads in enumerate((2, 3), 1):
        assert node.set_parameters([NodeParameter('threads', value=threads)])[0].successful
        wait_for(lambda: node.setting('threads') == 1, 'the parameter to be restored')
        answer = detector.client.status('model')
        wait_for(lambda seen=answer: detector.client.status('model') is not seen, 'a look at the parameters')
        assert len(built) == number


def test_reloads_at_the_same_time_are_answered_each_by_its_number(start_node, bundles):
    """The first is built when the second comes: it has not been installed, and says so."""
    detector = start_node(model=str(bundles[0]))
    node = detector.node
    begun, allowed = threading.Event(), threading.Event()

    def build(settings, report, fallbacks):
        begun.set()
        assert allowed.wait(PATIENCE)
        return load(settings, report, fallbacks)

    node._live._build = build
    client = detector.client.create_client(Trigger, 'detector/reload_model')
    assert client.wait_for_service(timeout_sec=PATIENCE)
    first = client.call_async(Trigger.Request())
    assert begun.wait(PATIENCE)
    second = client.call_async(Trigger.Request())
    wait_for(lambda: node._live._requests == 3, 'the second request')
    wait_for(first.done, 'the answer to the first')
    assert (first.result().success, second.done()) == (False, False)
    assert first.result().message == 'request 2: request 3 took its place'
    allowed.set()
    wait_for(second.done, 'the answer to the second')
    assert (second.result().success, second.result().message[:10]) == (True, 'request 3:')
    assert node._live.version == 2


def test_a_network_that_never_ends_is_refused_and_the_old_one_goes_on(start_node, bundles, tmp_path, monkeypatch):
    detector = start_node(model=str(bundles[0]))
    make_bundle(tmp_path / 'endless', network=endless(), name='endless')
    monkeypatch.setattr(first_run, 'CPU_RUN_LIMIT_S', 1.0)
    node = detector.node
    assert node.set_parameters([NodeParameter('model', value=str(tmp_path / 'endless'))])[0].successful
    assert detector.client.detect(FRAME).detections  # while the other one is tried
    status = detector.client.wait_for_status('model', 'the engine hangs', DiagnosticStatus.WARN)
    assert 'reload failed, first fp32 goes on: endless fp32 on onnxruntime failed in its first run' in status.message
    assert node.setting('model') == str(bundles[0])
    assert detector.client.detect(FRAME).detections
