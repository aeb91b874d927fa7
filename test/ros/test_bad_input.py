"""Bad input on the real node: a clear message with the cause, counted, the node running, the next good frame detected."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import yaml
from detector_process import DetectorProcess, wait_for
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from networks import image_with_cells, make_bundle
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from kd_perception.detection.image import decode_compressed
from kd_perception.errors import ImageError
from kd_perception.ros import messages, qos

GOOD = image_with_cells(5)


def jpeg(image: np.ndarray = GOOD) -> bytes:
    return cv2.imencode('.jpg', image)[1].tobytes()


def assert_next_good_frame_is_detected(detector: DetectorProcess, **header) -> None:
    assert detector.is_alive()
    assert len(detector.client.detect(GOOD, **header).detections) == 1


def send_raw(detector: DetectorProcess, data: bytes, **fields) -> None:
    message = Image(header=detector.client.now_header(), **fields)
    messages.fill_data(message, data)
    detector.client.camera.publish(message)


def send_compressed(detector: DetectorProcess, data: bytes, declared: str = 'jpeg') -> CompressedImage:
    message = CompressedImage(header=detector.client.now_header(), format=declared)
    messages.fill_data(message, data)
    detector.client.camera.publish(message)
    return message


def wait_for_detections_of(detector: DetectorProcess, message: CompressedImage):
    def answer():
        return next((d for d in detector.client.detections if d.header.stamp == message.header.stamp), None)

    return wait_for(answer, 'detections of the compressed image')


def frame(encoding: str = 'bgr8', width: int = 64, height: int = 64, step: int = 192, length: int = 12288):
    return {'encoding': encoding, 'width': width, 'height': height, 'step': step}, bytes(length)


@pytest.mark.parametrize(
    'rows',
    [
        [
            (frame(length=12287), 'data has 12287 bytes but step 192 x 64 rows makes 12288'),
            (frame(length=12289), 'data has 12289 bytes but step 192 x 64 rows makes 12288'),
            (frame(length=0), 'data has 0 bytes'),
            (frame(step=191, length=191 * 64), 'step is 191 but a row has 192 bytes'),
            (frame(step=0), 'step is 0 but a row has 192 bytes'),
            (frame(step=2**32 - 1), 'data has 12288 bytes but step 4294967295 x 64 rows'),
        ],
        [
            (frame(width=0), 'image of 0x64: width and height must be 1 to'),
            (frame(height=0, length=0), 'image of 64x0: width and height must be 1 to'),
            (frame(width=2**32 - 1, height=2**32 - 1), 'over the limit of 40000000 pixels'),
            (frame(width=40000, height=1, step=120000, length=120000), 'image of 40000x1'),
            (frame('nv12', width=63, step=63, length=63 * 96), 'its width and height must be even'),
        ],
        [
            (frame('32FC1', step=256, length=64 * 256), "'32FC1'"),
            (frame(''), "''"),
            (frame('BGR8'), "'BGR8'"),
            (frame('x' * 5000), 'xxx…'),
        ],
    ],
    ids=['length and step', 'size', 'encoding'],
)
def test_a_frame_that_contradicts_itself_is_rejected_with_its_numbers(start_detector, rows) -> None:
    detector = start_detector().wait_until_active()
    for count, ((fields, data), cause) in enumerate(rows, start=1):
        send_raw(detector, data, **fields)
        detector.client.wait_for_status('input', 'rejected: ', DiagnosticStatus.ERROR)
        wait_for(lambda cause=cause: cause in detector.client.value('input', 'rejection'), f'the rejection {cause!r}')
        wait_for(lambda count=count: detector.counts()['dropped.undecodable'] == count, f'{count} undecodable frames')
        assert_next_good_frame_is_detected(detector)
    assert 'image rejected: ' in detector.log
    assert 'Traceback' not in detector.log
    detector.client.wait_for_status('input', 'active', DiagnosticStatus.OK)


def test_a_truncated_jpeg_is_rejected_and_a_whole_one_is_detected(start_detector) -> None:
    detector = start_detector(client={'transport': 'compressed'}, image_transport='compressed').wait_until_active()
    for data, cause in [
        (jpeg()[:-20], 'truncated: it breaks off before its end marker'),
        (jpeg()[:20], 'truncated or damaged'),
        (b'', 'is empty: 0 bytes'),
        (b'GIF89a' + bytes(99), "GIF, declared as 'jpeg'; only JPEG and PNG are decoded"),
        (bytes(12) + cv2.imencode('.png', GOOD)[1].tobytes(), 'compressedDepth'),
    ]:
        send_compressed(detector, data)
        wait_for(lambda cause=cause: cause in detector.client.value('input', 'rejection'), f'the rejection {cause!r}')
        answer = wait_for_detections_of(detector, send_compressed(detector, jpeg()))
        assert len(answer.detections) == 1
    wait_for(lambda: detector.counts()['dropped.undecodable'] == 5, 'five undecodable frames')
    assert detector.is_alive()


def test_the_limit_of_pixels_holds_before_decoding(start_detector) -> None:
    detector = start_detector(
        client={'transport': 'compressed'}, image_transport='compressed', max_image_pixels=5000
    ).wait_until_active()
    send_compressed(detector, jpeg(image_with_cells(1, width=128, height=128)))
    detector.client.wait_for_status('input', 'JPEG declares 128x128 pixels; the limit is 5000 in all')
    assert len(wait_for_detections_of(detector, send_compressed(detector, jpeg())).detections) == 1


def refusal_of(stream: bytes, declared: str) -> str:
    """Why the core refuses a stream; empty when it does not."""
    try:
        decode_compressed(stream, declared=declared)
    except ImageError as error:
        return str(error)
    return ''


@pytest.mark.thorough
def test_odd_images_of_many_decoders_tests_are_each_decided(start_detector, shared_data) -> None:
    detector = start_detector(client={'transport': 'compressed'}, image_transport='compressed').wait_until_active()
    files = sorted(path for path in (shared_data / 'odd_images').rglob('*') if path.is_file())
    assert len(files) > 150
    refused = published = 0
    for path in files:
        refusal = refusal_of(path.read_bytes(), path.suffix)
        sent = send_compressed(detector, path.read_bytes(), path.suffix)
        if refusal:
            refused += 1
            wait_for(lambda count=refused: detector.counts()['dropped.undecodable'] == count, f'refusal of {path.name}')
            assert refusal[:60] in detector.client.value('input', 'rejection'), path.name
        else:
            published += 1
            wait_for_detections_of(detector, sent)
    assert refused > 50
    assert published > 50
    assert len(wait_for_detections_of(detector, send_compressed(detector, jpeg())).detections) == 1
    wait_for(lambda: detector.counts()['published'] == published + 1, 'the accounts')
    assert detector.counts()['received'] == len(files) + 1


def test_odd_stamps_are_counted_and_their_frames_detected(start_detector) -> None:
    detector = start_detector().wait_until_active()
    client = detector.client
    zero = client.send(GOOD, messages.header_at(0, 'camera'))
    answer = wait_for(lambda: client.detections and client.detections[-1], 'detections of the unstamped frame')
    assert answer.header == zero
    client.wait_for_status('input', '1 missing', DiagnosticStatus.WARN)
    assert_next_good_frame_is_detected(detector)
    assert_next_good_frame_is_detected(detector, offset_s=-2.0)
    client.wait_for_status('input', '1 backward', DiagnosticStatus.WARN)
    assert_next_good_frame_is_detected(detector)
    assert_next_good_frame_is_detected(detector, offset_s=60.0)
    client.wait_for_status('input', '1 future', DiagnosticStatus.WARN)
    assert_next_good_frame_is_detected(detector)
    wait_for(lambda: client.value('input', 'stamp.backward') == '2', 'the way back from the future')
    ages = [float(v.value) for message in client.latencies for v in message.status[0].values if v.key == 'age']
    assert min(ages) >= 0
    assert max(ages) < 60_000


def test_frames_over_the_age_limit_are_dropped_as_stale(start_detector) -> None:
    detector = start_detector(max_age_ms=1000.0).wait_until_active()
    detector.client.send(GOOD, detector.client.now_header(offset_s=-5.0))
    wait_for(lambda: detector.counts()['dropped.stale'] == 1, 'one stale frame')
    assert_next_good_frame_is_detected(detector)


def missing_folder(folder) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def missing_network(folder) -> None:
    (folder / 'bright_cells.onnx').unlink()


def truncated_network(folder) -> None:
    network = folder / 'bright_cells.onnx'
    network.write_bytes(network.read_bytes()[:-100])


def altered_network(folder) -> None:
    network = folder / 'bright_cells.onnx'
    content = bytearray(network.read_bytes())
    content[len(content) // 2] ^= 1
    network.write_bytes(content)


def network_outside(folder) -> None:
    (folder / 'bright_cells.onnx').rename(folder.parent / 'bright_cells.onnx')
    document = yaml.safe_load((folder / 'bundle.yaml').read_text())
    document['artifacts'][0]['file'] = '../bright_cells.onnx'
    (folder / 'bundle.yaml').write_text(yaml.safe_dump(document))


def link_to_outside(folder) -> None:
    (folder / 'bright_cells.onnx').rename(folder.parent / 'outside.onnx')
    (folder / 'bright_cells.onnx').symlink_to('../outside.onnx')


def truncated_description(folder) -> None:
    text = (folder / 'bundle.yaml').read_text()
    (folder / 'bundle.yaml').write_text(text[: len(text) // 2])


def start_by_hand(detector: DetectorProcess) -> bool:
    """configure and activate, as a lifecycle manager does."""
    if not detector.change_state(Transition.TRANSITION_CONFIGURE):
        return False
    return detector.change_state(Transition.TRANSITION_ACTIVATE)


@pytest.mark.parametrize(
    ('damage', 'cause'),
    [
        (missing_folder, 'the folder does not exist'),
        (missing_network, 'bright_cells.onnx'),
        (truncated_network, 'truncated or altered'),
        (altered_network, 'truncated or altered'),
        (network_outside, 'lies outside its bundle'),
        (link_to_outside, 'lies outside its bundle'),
        (truncated_description, 'bundle.yaml'),
    ],
)
def test_a_bad_model_is_refused_and_a_repaired_one_is_taken(start_detector, tmp_path, damage, cause) -> None:
    folder = tmp_path / 'bundle'
    make_bundle(folder)
    damage(folder)
    detector = start_detector(model=folder)
    client = detector.client
    client.wait_for_status('model', cause, DiagnosticStatus.ERROR)
    wait_for(lambda: f'cannot configure: {client.status("model").message}' in detector.log, 'the reason in the log')
    assert str(folder) in client.status('model').message
    assert detector.state() == 'unconfigured'
    assert not start_by_hand(detector)
    (folder / 'bright_cells.onnx').unlink(missing_ok=True)
    make_bundle(folder)
    assert start_by_hand(detector)
    detector.wait_until_active()
    assert_next_good_frame_is_detected(detector)
    client.wait_for_status('model', 'bright_cells fp32 on onnxruntime', DiagnosticStatus.OK)


def set_double(detector: DetectorProcess, name: str, value: float):
    setting = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
    request = SetParameters.Request(parameters=[Parameter(name=name, value=setting)])
    return detector.client.call(SetParameters, 'detector/set_parameters', request).results[0]


@pytest.mark.parametrize('value', ['1.5', '-3.0', '.nan', 'high'])
def test_a_parameter_that_starts_out_of_range_is_refused_until_it_is_set_right(start_detector, value: str) -> None:
    detector = start_detector(score_threshold=value)
    detector.client.wait_for_status('model', 'score_threshold', DiagnosticStatus.ERROR)
    wait_for(lambda: 'cannot configure: score_threshold' in detector.log, 'the reason in the log')
    assert detector.state() == 'unconfigured'
    assert set_double(detector, 'score_threshold', 0.5).successful
    assert start_by_hand(detector)
    detector.wait_until_active()
    assert_next_good_frame_is_detected(detector)


@pytest.mark.parametrize('value', [1.5, float('nan'), float('inf')])
def test_a_parameter_set_out_of_range_is_refused_with_its_bounds(start_detector, value: float) -> None:
    detector = start_detector().wait_until_active()
    result = set_double(detector, 'score_threshold', value)
    assert not result.successful
    assert 'score_threshold' in result.reason
    assert_next_good_frame_is_detected(detector)


def test_a_camera_that_stops_is_stale_and_one_that_returns_is_active(start_detector) -> None:
    detector = start_detector(input_timeout_s=0.3)
    detector.wait_until_active()
    client = detector.client
    client.wait_for_status('input', 'waiting', DiagnosticStatus.WARN)
    assert_next_good_frame_is_detected(detector)
    client.wait_for_status('input', 'stale: no image for', DiagnosticStatus.ERROR)
    client.destroy_publisher(client.camera)
    client.wait_for_status('input', 'nobody publishes on /image', DiagnosticStatus.ERROR)
    client.camera = client.create_publisher(Image, 'image', qos.IMAGE)
    detector.wait_until_active()
    assert_next_good_frame_is_detected(detector)
    client.wait_for_status('input', 'active', DiagnosticStatus.OK)
    assert detector.counts()['received'] == 2


def test_a_publisher_with_an_incompatible_qos_is_named_in_words(start_detector) -> None:
    reliable = ['-p', 'qos_overrides./image.subscription.reliability:=reliable']
    detector = start_detector(arguments=reliable)
    client = detector.client
    status = client.wait_for_status('input', 'incompatible', DiagnosticStatus.WARN)
    assert 'RELIABILITY' in status.message
    assert 'set the reader to best effort' in status.message
    assert 'a publisher on /image has a QoS incompatible' in detector.log
    profile = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE)
    client.destroy_publisher(client.camera)
    client.camera = client.create_publisher(Image, 'image', profile)
    detector.wait_until_active()
    assert_next_good_frame_is_detected(detector)


def test_a_topic_of_another_type_is_named_in_words(start_detector) -> None:
    remapping = ['-r', 'image:=image/compressed']
    detector = start_detector(client={'transport': 'compressed'}, arguments=remapping, image_transport='raw')
    status = detector.client.wait_for_status('input', 'carries sensor_msgs/msg/CompressedImage', DiagnosticStatus.WARN)
    assert 'set image_transport' in status.message
    assert detector.is_alive()
