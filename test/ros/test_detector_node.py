"""The detector node as its users meet it: a process, topics, services, signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from detector_process import REPOSITORY, wait_for
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from networks import CELLS, SIZE, endless, image_with_cells, make_bundle
from patience import PATIENCE, patient
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from sensor_msgs.msg import Image

from kd_perception.detection.stage_times import STAGES
from kd_perception.ros import messages, qos


def test_a_frame_becomes_detections_under_its_own_header(start_detector):
    detector = start_detector().wait_until_active()
    answer = detector.client.detect(image_with_cells(5, 10, width=640, height=640), frame_id='nadir_camera')
    assert answer.header.frame_id == 'nadir_camera'
    assert all(d.header == answer.header for d in answer.detections)
    found = messages.from_detections_message(answer)
    np.testing.assert_allclose(found.boxes[np.argsort(found.boxes[:, 0])], CELLS[[5, 10]] * (640 / SIZE), atol=0.5)
    assert {r.hypothesis.class_id for d in answer.detections for r in d.results} == {'0'}


def test_an_empty_frame_gives_an_empty_array(start_detector):
    detector = start_detector().wait_until_active()
    assert detector.client.detect(image_with_cells()).detections == []


def test_label_and_vision_info_reach_a_late_joiner(start_detector, make_client):
    start_detector().wait_until_active()
    late = make_client('late')
    wait_for(lambda: late.labels and late.vision, 'latched infos')
    assert [(c.class_id, c.class_name) for c in late.labels[0].class_map] == [(0, 'bright'), (1, 'blue')]
    assert late.labels[0].threshold == pytest.approx(0.5)
    assert late.vision[0].method == 'bright_cells fp32 onnxruntime'
    assert late.vision[0].database_location.startswith('sha256:')


def test_every_frame_has_its_stages(start_detector):
    detector = start_detector().wait_until_active()
    answer = detector.client.detect(image_with_cells(3))
    message = wait_for(lambda: detector.client.latencies and detector.client.latencies[-1], 'frame latency')
    assert message.header == answer.header
    stages = {v.key: float(v.value) for v in message.status[0].values}
    assert list(stages) == list(STAGES)
    assert stages['infer'] > 0
    parts = sum(value for stage, value in stages.items() if stage != 'age')
    assert stages['age'] == pytest.approx(parts, abs=2.0)


def test_every_frame_of_a_burst_is_accounted_for(start_detector):
    detector = start_detector().wait_until_active()
    for _ in range(200):
        detector.client.send(image_with_cells(1, width=1280, height=1280))
        time.sleep(0.002)
    detector.client.detect(image_with_cells(2))

    def settled():
        counts = detector.counts()
        return counts if counts['pending'] == 0 and counts['published'] == len(detector.client.detections) else None

    counts = wait_for(settled, 'the accounts to settle')
    dropped = {key: value for key, value in counts.items() if key.startswith('dropped.')}
    assert counts['received'] == counts['published'] + sum(dropped.values())
    assert counts['received'] > 20
    assert {key for key, value in dropped.items() if value} <= {'dropped.superseded'}


def test_what_was_sent_is_received_or_counted_as_lost(start_detector):
    detector = start_detector().wait_until_active()
    detector.client.detect(image_with_cells(2))  # numbers are counted from the first message on
    for _ in range(100):  # far quicker than a reader of depth 1 can take them
        detector.client.send(image_with_cells(1, width=640, height=640))
    detector.client.detect(image_with_cells(3))

    def complete():
        counts, lost = detector.counts(), detector.client.value('input', 'lost_by_middleware')
        return counts['received'] + int(lost) == 102 and counts['pending'] == 0

    wait_for(complete, 'received + lost to make 102')


def test_enable_service_stops_and_restarts_detection(start_detector):
    detector = start_detector().wait_until_active()
    assert 'dropped' in detector.enable(False)
    for count in range(1, 4):  # one by one: on a busy machine a reader of depth 1 loses what comes together
        detector.client.send(image_with_cells(1))
        wait_for(
            lambda count=count: detector.counts()['dropped.disabled'] == count, f'{count} frames dropped as disabled'
        )
    detector.client.wait_for_status('input', 'disabled by ~/enable')
    detector.enable(True)
    assert detector.client.detect(image_with_cells(1)).detections


def test_lifecycle_walks_all_states_twice(start_detector):
    detector = start_detector(autostart=False)
    wait_for(lambda: detector.client.status('model'), 'diagnostics of an unconfigured node')
    assert detector.state() == 'unconfigured'
    for _ in range(2):
        for transition, state in [
            (Transition.TRANSITION_CONFIGURE, 'inactive'),
            (Transition.TRANSITION_ACTIVATE, 'active'),
            (Transition.TRANSITION_DEACTIVATE, 'inactive'),
            (Transition.TRANSITION_ACTIVATE, 'active'),
        ]:
            assert detector.change_state(transition)
            assert detector.state() == state
        detector.wait_until_active()
        assert detector.client.detect(image_with_cells(7)).detections
        for transition, state in [
            (Transition.TRANSITION_DEACTIVATE, 'inactive'),
            (Transition.TRANSITION_CLEANUP, 'unconfigured'),
        ]:
            assert detector.change_state(transition)
            assert detector.state() == state


def test_annotated_image_is_drawn_only_for_a_listener(start_detector):
    detector = start_detector().wait_until_active()
    black_with_cell = image_with_cells(5, width=320, height=320)
    answers = [detector.client.detect(black_with_cell).header]  # whose picture may be due when the listener comes
    pictures: list[Image] = []
    detector.client.create_subscription(Image, 'image_annotated', pictures.append, qos.IMAGE)
    wait_for(lambda: detector.client.count_publishers('image_annotated'), 'the annotated topic')

    def drawn_for_the_listener() -> Image | None:
        answers.append(detector.client.detect(black_with_cell).header)
        return pictures[-1] if pictures else None

    picture = wait_for(drawn_for_the_listener, 'an annotated image')
    assert picture.header in answers
    drawn = messages.to_bgr(picture, 10**7)
    assert drawn.shape == black_with_cell.shape
    assert not np.array_equal(drawn, black_with_cell)


def set_parameter(detector, name: str, value: ParameterValue):
    request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
    return detector.client.call(SetParameters, 'detector/set_parameters', request).results[0]


def double(value: float) -> ParameterValue:
    return ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)


def test_score_threshold_is_live(start_detector):
    detector = start_detector().wait_until_active()
    gray = np.full((SIZE, SIZE, 3), 160, np.uint8)
    assert len(detector.client.detect(gray).detections) == 16
    assert set_parameter(detector, 'score_threshold', double(0.9)).successful
    assert len(detector.client.detect(gray).detections) == 0


@pytest.mark.parametrize(
    ('name', 'value', 'says'),
    [
        ('score_threshold', double(1.5), 'score_threshold'),
        ('max_detections', ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=0), 'max_detections'),
        ('model', ParameterValue(type=ParameterType.PARAMETER_STRING, string_value='other'), "no model bundle 'other'"),
        ('autostart', ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=False), 'read-only'),
    ],
)
def test_a_wrong_value_is_refused_with_a_reason(start_detector, name, value, says):
    detector = start_detector().wait_until_active()
    result = set_parameter(detector, name, value)
    assert not result.successful
    assert says in result.reason
    assert detector.client.detect(image_with_cells(1)).detections


def test_parameters_describe_themselves(start_detector):
    detector = start_detector().wait_until_active()
    request = DescribeParameters.Request(names=['score_threshold', 'model', 'image_transport'])
    score, model, transport = detector.client.call(
        DescribeParameters, 'detector/describe_parameters', request
    ).descriptors
    assert score.floating_point_range[0].to_value == 1.0
    assert 'score' in score.description
    assert not model.read_only
    assert transport.additional_constraints == 'one of: auto, raw, compressed'


def test_a_failing_engine_is_retried_then_disabled_until_enabled(start_detector):
    detector = start_detector(poison=250).wait_until_active()
    detector.client.send(image_with_cells(0))
    status = detector.client.wait_for_status('model', 'disabled after', DiagnosticStatus.ERROR)
    assert 'out of data bounds' in status.message
    assert detector.client.value('model', 'engine_errors') == '2'
    wait_for(lambda: detector.counts()['dropped.failed'] == 1, 'one failed frame')
    detector.enable(True)
    assert detector.client.detect(image_with_cells(5)).detections


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(start_detector, how):
    detector = start_detector(is_forked=False).wait_until_active()
    detector.client.detect(image_with_cells(1))
    assert detector.stop(how) == 0
    assert 'Traceback' not in detector.log
    assert '1 frames received, 1 published, dropped: none' in detector.log


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_model_is_built_ends_it_cleanly(start_detector, tmp_path, how):
    """The network that is tried never ends, so that the signal surely comes in between; nothing of it outlives the node."""
    detector = start_detector(is_forked=False).wait_until_active()
    make_bundle(tmp_path / 'endless', network=endless(), name='endless')
    text = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=str(tmp_path / 'endless'))
    assert set_parameter(detector, 'model', text).successful
    wait_for(lambda: 'the first run of endless' in detector.log, 'the build to begin')
    children = wait_for(lambda: processes_of(detector.process.pid), 'the process that tries it')
    assert detector.stop(how) == 0
    assert 'Traceback' not in detector.log
    assert '0 frames received, 0 published, dropped: none' in detector.log
    wait_for(lambda: not any(Path(f'/proc/{child}').exists() for child in children), 'the end of its process')


def test_a_signal_while_it_configures_ends_it_cleanly(start_detector, tmp_path):
    make_bundle(tmp_path / 'endless', network=endless(), name='endless')
    detector = start_detector(tmp_path / 'endless', is_forked=False)
    wait_for(lambda: 'the first run of endless' in detector.log, 'the build to begin')
    assert detector.stop(signal.SIGTERM) == 0
    assert 'Traceback' not in detector.log
    assert '0 frames received, 0 published, dropped: none' in detector.log


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_engine_hangs_ends_it_cleanly(start_detector, tmp_path, how):
    """The network ran well the first time, and hangs at a certain picture: the watchdog sees it, the end waits for nothing."""
    make_bundle(tmp_path / 'trap', network=endless(poison=250), name='trap')
    detector = start_detector(tmp_path / 'trap', watchdog_s=patient(1.0), is_forked=False).wait_until_active()
    assert detector.client.detect(image_with_cells(5)).detections
    detector.client.send(image_with_cells(0))
    detector.client.wait_for_status('model', 'hangs', DiagnosticStatus.ERROR)
    assert detector.stop(how) == 0
    assert 'Traceback' not in detector.log
    assert '2 frames received, 1 published, dropped: 1 failed' in detector.log


def shared_memory_of(pid: int) -> list[Path]:
    """Fast DDS's segments that a process made: their locks are open in it."""
    opened = {Path(os.readlink(descriptor)) for descriptor in Path(f'/proc/{pid}/fd').iterdir()}
    return [path for path in opened if re.fullmatch(r'/dev/shm/fastdds_[0-9a-f]{16}_el', str(path))]


@pytest.mark.parametrize('is_forked', [True, False])
def test_its_shared_memory_goes_with_it(start_detector, is_forked):
    detector = start_detector(is_forked=is_forked).wait_until_active()
    assert detector.client.detect(image_with_cells(1)).detections
    segments = shared_memory_of(detector.process.pid)
    assert segments
    assert detector.stop() == 0
    assert not [path for path in segments if path.exists()]


def processes_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [
        int(child) for task in Path(f'/proc/{pid}/task').iterdir() for child in (task / 'children').read_text().split()
    ]


def test_many_signals_end_it_as_cleanly_as_one(start_detector):
    """What Ctrl-C under `ros2 launch` gives: the terminal's signal, and launch's a moment later."""
    detector = start_detector(is_forked=False).wait_until_active()
    detector.client.detect(image_with_cells(1))
    for _ in range(50):
        if detector.is_alive():
            detector.process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    assert detector.stop() == 0
    assert 'Traceback' not in detector.log
    assert '1 frames received, 1 published, dropped: none' in detector.log


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_imports_ends_it_cleanly(how):
    """The program is stopped at the very import of ROS 2."""
    stop_at_import = f"""
import os, sys
class Stop:
    def find_spec(self, name, *_):
        if name == 'rclpy':
            os.kill(os.getpid(), {int(how)})
sys.meta_path.insert(0, Stop())
from kd_perception.ros import start_detector
sys.exit(start_detector.main())
"""
    command = [sys.executable, '-c', stop_at_import]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stderr) == (0, '')
    assert ended.stdout == 'detector: 0 frames received, 0 published, dropped: none\n'


SIGNAL_BEFORE_PUBLISHING = """
import sys
import rclpy
from kd_perception.ros import detector_node

def publish_too_late(node):
    rclpy.shutdown()  # what rclpy does upon a signal
    publish(node)

publish = detector_node.DetectorNode._publish_diagnostics
detector_node.DetectorNode._publish_diagnostics = publish_too_late
sys.exit(detector_node.main())
"""


def test_a_signal_between_a_timer_and_its_publishing_ends_it_cleanly():
    command = [sys.executable, '-c', SIGNAL_BEFORE_PUBLISHING]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stderr) == (0, '')
    assert '0 frames received' in ended.stdout


def test_misspelt_parameter_is_pointed_out(start_detector):
    detector = start_detector(score_treshold=0.4).wait_until_active()
    wait_for(lambda: "did you mean 'score_threshold'" in detector.log, 'the hint')
