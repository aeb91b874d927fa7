"""What ROS itself refuses on the command line ends each of our programs in one line, or its first activation in a reason."""

from __future__ import annotations

import pytest
from detector_process import wait_for
from diagnostic_msgs.msg import DiagnosticStatus
from programs import run_program

PROGRAMS = ('start_detector', 'scene_camera', 'replay', 'localizer_node')


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (['-p', 'tiles:='], "'-p tiles:='. A parameter needs a value: -p name:=value."),
        (['-p', 'cameras:=[front, 3]'], 'Sequence should be of same type'),
        (['--params-file', '/nowhere.yaml'], "params file: '--params-file /nowhere.yaml'"),
        (['-r', 'a:=b:=c'], "remap rule: '-r a:=b:=c'"),
        (['--nonsense'], "unknown: ['--nonsense']"),
        (['-p', 'use_sim_time:=maybe'], "'use_sim_time' to 'maybe'"),
    ],
)
@pytest.mark.parametrize('program', PROGRAMS)
def test_arguments_that_ros_refuses_end_in_one_line(program: str, arguments: list[str], says: str):
    ended = run_program(f'kd_perception.ros.{program}', '--ros-args', *arguments)
    (line,) = [line for line in ended.stderr.splitlines() if '[rcl]' not in line]  # which rcl prints itself
    assert ended.returncode == 1
    assert 'ROS arguments: ' in line
    assert says in line
    assert '/project/src' not in line


@pytest.mark.parametrize(
    ('value', 'says'),
    [('reliability:=sometimes', '`sometimes`'), ('depth:=many', "'many'"), ('depth:=-5', 'history depth')],
)
def test_a_qos_that_ros_refuses_is_named_and_the_node_lives_on(start_detector, value: str, says: str):
    detector = start_detector(arguments=['-p', f'qos_overrides./image.subscription.{value}'])
    status = detector.client.wait_for_status(
        'model', 'activate failed: cannot subscribe to /image: ', DiagnosticStatus.ERROR
    )
    assert says in status.message
    wait_for(lambda: 'activate failed: cannot subscribe to /image: ' in detector.log, 'the reason in the log')
    assert 'Traceback' not in detector.log
    assert detector.is_alive()
