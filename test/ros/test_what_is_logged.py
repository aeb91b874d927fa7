"""What a user reads in the log of the real node: each condition when it begins and when it is over, once each."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from detector_process import Client, DetectorProcess, wait_for
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from networks import image_with_cells
from patience import patient
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from kd_perception.ros import messages, qos

FRAME = image_with_cells(5)
LARGE = image_with_cells(5, width=640, height=640)
RELIABLE = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE)


def lines(detector: DetectorProcess, *words: str) -> list[str]:
    """The lines of the log that hold all these words."""
    return [line for line in detector.log.splitlines() if all(word in line for word in words)]


def wait_for_line(detector: DetectorProcess, *words: str) -> str:
    wait_for(lambda: lines(detector, *words), f'a line with {words} in\n{detector.log}')
    (line,) = lines(detector, *words)
    return line


def keep_sending(client: Client, until: Callable[[], object], what: str, image=FRAME, pause: float = 0.02) -> None:
    def met() -> object:
        client.send(image)
        time.sleep(pause)
        return until()

    wait_for(met, what)


def nobody(client: Client) -> None:
    client.destroy_publisher(client.camera)


def another_transport(client: Client) -> None:
    client.destroy_publisher(client.camera)
    client.create_publisher(CompressedImage, 'image/compressed', qos.IMAGE)


def another_topic(client: Client) -> None:
    client.destroy_publisher(client.camera)
    client.create_publisher(Image, '/front_camera/image_raw', qos.IMAGE)


@pytest.mark.parametrize(
    ('camera', 'arguments', 'says'),
    [
        (
            nobody,
            [],
            'nobody publishes on /image, and nothing else publishes sensor_msgs/msg/Image: start the camera, or remap image:=',
        ),
        (another_topic, [], 'image:=/front_camera/image_raw (there are /front_camera/image_raw)'),
        (
            another_transport,
            ['-p', 'image_transport:=raw'],
            'nobody publishes on /image, but /image/compressed is there: set image_transport:=compressed',
        ),
        (
            None,
            ['-p', 'qos_overrides./image.subscription.reliability:=reliable'],
            'a publisher on /image has a QoS incompatible with our subscription (RELIABILITY)',
        ),
        (
            None,
            ['-p', 'use_sim_time:=true'],
            'use_sim_time is true and no /clock has come (nobody publishes it)',
        ),
        (None, [], '/client publishes on /image, but nothing has arrived: is the camera running?'),
    ],
    ids=['nobody', 'another topic', 'another transport', 'QoS', 'no clock', 'a silent camera'],
)
def test_why_no_image_comes_is_read_from_the_graph_and_logged_once(start_detector, camera, arguments, says):
    detector = start_detector(arguments=arguments)
    if camera is not None:
        camera(detector.client)
    line = wait_for_line(detector, 'input: waiting: ', says)
    assert '[WARN]' in line
    seen = len(detector.client.diagnostics)
    wait_for(lambda: len(detector.client.diagnostics) > seen + 5, 'five more reports')
    assert len(lines(detector, 'input: waiting: ', says)) == 1  # what a slow discovery showed before is another line
    detector.client.wait_for_status('input', says, DiagnosticStatus.WARN)


def test_a_raw_camera_is_found_where_a_compressed_one_is_expected(start_detector):
    detector = start_detector(image_transport='compressed')  # the client publishes raw images
    wait_for_line(detector, 'nobody publishes on /image/compressed, but /image is there: set image_transport:=raw')


def test_a_topic_of_another_type_comes_with_the_way_to_read_it(start_detector):
    remapping = ['-r', 'image:=image/compressed']
    detector = start_detector(client={'transport': 'compressed'}, arguments=remapping, image_transport='raw')
    says = '/image/compressed carries sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image; set '
    wait_for_line(detector, 'input: waiting: ', says + 'image_transport:=compressed and remap image:=/image')


def test_the_remapped_compressed_topic_is_the_one_that_is_named(start_detector):
    remapping = ['-r', '__ns:=/r1', '-r', 'image/compressed:=/cam/image_raw/compressed']
    detector = start_detector(arguments=remapping, image_transport='compressed')
    wait_for(lambda: detector.client.value('input', 'topic') == '/cam/image_raw/compressed', 'the topic')
    detector.client.wait_for_status('input', 'nobody publishes on /cam/image_raw/compressed')


def test_a_camera_that_falls_silent_and_returns_is_two_lines(start_detector):
    detector = start_detector(input_timeout_s=patient(0.5)).wait_until_active()
    detector.client.detect(FRAME)
    line = wait_for_line(detector, 'input: stale: no image for')
    assert '[ERROR]' in line
    assert '/client still publishes on /image and sends nothing' in line
    assert 'MB' not in line  # what came was small

    def is_over() -> object:
        detector.client.detect(FRAME)  # one by one: images that are lost would be another condition
        return lines(detector, '(was: stale)')

    wait_for(is_over, 'the recovery')
    assert len(lines(detector, 'input: stale')) == 1


def test_a_broken_picture_is_logged_and_one_among_good_ones_as_well(start_detector):
    detector = start_detector(
        client={'transport': 'compressed'},
        image_transport='compressed',
        diagnostics_period_s=patient(0.2),  # long enough for a broken and a good one
        input_timeout_s=60.0,
    ).wait_until_active()
    client = detector.client

    def show(content: bytes) -> None:
        message = CompressedImage(header=client.now_header(), format='jpeg')
        messages.fill_data(message, content)
        client.camera.publish(message)

    show(b'no picture')
    assert '[ERROR]' in wait_for_line(detector, 'input: image rejected: ')
    good = bytes(messages.jpeg_message(FRAME, client.now_header()).data)
    counts = iter(range(10_000))

    def mixed() -> object:
        show(b'no picture' if next(counts) % 2 == 0 else good)
        time.sleep(0.01)
        return lines(detector, '[WARN]', 'image(s) rejected: ')

    wait_for(mixed, 'a broken picture among good ones')


def test_images_that_the_middleware_loses_are_a_warning_with_its_cure(start_detector):
    """Real loss: the reader of depth 1 is overwritten by a burst. The counter outlives the activation, as all others do."""
    detector = start_detector(input_timeout_s=30.0).wait_until_active()
    client = detector.client
    client.detect(LARGE)

    def burst() -> object:
        for _ in range(60):
            client.send(LARGE)
        return lines(detector, '[WARN]', 'lost by the middleware')

    wait_for(burst, 'the loss')
    line = wait_for_line(detector, '[WARN]', 'images were lost by the middleware')
    assert 'fastdds_shm.xml), or use image_transport:=compressed' in line  # 1.2 MB each
    client.wait_for_status('input', 'lost by the middleware', DiagnosticStatus.WARN)
    assert float(client.value('input', 'lost_percent')) >= 5.0
    keep_sending(client, lambda: lines(detector, '(was: loss)'), 'the end of the loss', pause=0.2)
    assert len(lines(detector, 'lost by the middleware')) == 1
    assert detector.change_state(Transition.TRANSITION_DEACTIVATE)
    client.wait_for_status('input', 'node is inactive', DiagnosticStatus.OK)
    lost = int(client.value('input', 'lost_by_middleware'))
    received = detector.counts()['received']
    assert lost >= 3
    assert detector.change_state(Transition.TRANSITION_ACTIVATE)
    client.wait_for_status('input', 'waiting: ')
    assert (int(client.value('input', 'lost_by_middleware')), detector.counts()['received']) == (lost, received)


def test_the_budget_is_warned_about_until_the_node_is_deactivated(start_detector):
    detector = start_detector(latency_budget_ms=1.0).wait_until_active()
    client = detector.client
    keep_sending(client, lambda: lines(detector, 'latency: ', 'over budget: '), 'the budget', LARGE)
    client.wait_for_status('latency', 'over budget')
    assert detector.change_state(Transition.TRANSITION_DEACTIVATE)
    client.wait_for_status('latency', 'node is inactive', DiagnosticStatus.OK)
    wait_for_line(detector, 'latency: node is inactive (was: ')
    assert detector.change_state(Transition.TRANSITION_ACTIVATE)
    client.wait_for_status('latency', 'no frame yet', DiagnosticStatus.OK)


def test_a_node_that_nobody_configures_says_what_to_do(start_detector):
    detector = start_detector(autostart=False)
    line = wait_for_line(detector, 'model: no model loaded; the node is unconfigured: configure and activate it')
    assert '[WARN]' in line
    assert detector.change_state(Transition.TRANSITION_CONFIGURE)
    wait_for_line(detector, '(was: no model)')


def test_each_transition_is_a_line(start_detector):
    detector = start_detector(autostart=False)
    wait_for(lambda: detector.client.status('model'), 'the node')
    for name in ('configure', 'activate', 'deactivate', 'cleanup'):
        assert detector.change_state(getattr(Transition, f'TRANSITION_{name.upper()}'))
        wait_for_line(detector, f'{name}: done')


def test_two_detectors_of_one_name_are_reported(start_detector, make_client):
    detector = start_detector().wait_until_active()
    detector.client.wait_for_status('model', 'bright_cells', DiagnosticStatus.OK)
    twin = Node('detector')
    try:
        line = wait_for_line(detector, '[WARN]', '2 nodes are named /detector')
        assert 'give one another name or namespace' in line
        detector.client.wait_for_status('model', '2 nodes are named /detector', DiagnosticStatus.WARN)
    finally:
        twin.destroy_node()
    detector.client.wait_for_status('model', 'bright_cells', DiagnosticStatus.OK)
    wait_for_line(detector, '(was: two nodes of one name)')


def test_the_hardware_id_is_the_node_whatever_runs(start_detector):
    detector = start_detector(arguments=['-r', '__ns:=/robot'], autostart=False)
    wait_for(lambda: detector.client.diagnostics, 'diagnostics')
    statuses = detector.client.diagnostics[-1].status
    assert {status.hardware_id for status in statuses} == {'robot/detector'}
    assert [status.name for status in statuses] == [f'robot/detector: {task}' for task in ('input', 'latency', 'model')]
