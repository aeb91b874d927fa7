"""Several cameras that share one engine: each has its topics, its accounts and its fair share."""

from __future__ import annotations

import threading

import pytest
from detector_process import Client, DetectorProcess, wait_for
from diagnostic_msgs.msg import DiagnosticStatus
from networks import image_with_cells

FRONT, REAR = image_with_cells(5), image_with_cells(1, 2)


@pytest.fixture
def two_cameras(start_detector, make_client) -> tuple[DetectorProcess, Client]:
    """A detector whose client is the front camera, and the rear camera."""
    rear = make_client('rear_client', camera='rear')
    detector = start_detector(client={'name': 'front_client', 'camera': 'front'}, cameras='[front, rear]')
    wait_for(rear.camera.get_subscription_count, 'the subscription to the rear camera')
    wait_for(lambda: rear.count_publishers('rear/detections'), 'detections of the rear camera')
    wait_for(rear.is_known_to_detector, 'the detector to know of the rear camera')
    return detector.wait_until_active('front/detections'), rear


def counts(client: Client, camera: str) -> dict[str, int]:
    """The newest accounts of a camera."""
    keys = ('received', 'published', 'pending', 'lost_by_middleware')
    status = client.status(f'input/{camera}')
    assert status is not None
    return {v.key: int(v.value) for v in status.values if v.key in keys or v.key.startswith('dropped.')}


def test_each_camera_gets_its_own_detections(two_cameras):
    detector, rear = two_cameras
    assert len(detector.client.detect(FRONT, frame_id='front_camera').detections) == 1
    answer = rear.detect(REAR, frame_id='rear_camera')
    assert len(answer.detections) == 2
    assert answer.header.frame_id == 'rear_camera'
    assert len(rear.detections) == 1
    names = {'frame_latency/front', 'frame_latency/rear'}
    wait_for(lambda: {m.status[0].name for m in rear.latencies} == names, 'latencies of both')


def test_cameras_of_different_rates_are_accounted_for_one_by_one(two_cameras):
    detector, rear = two_cameras
    front = detector.client
    front.detect(FRONT)  # what is lost is counted from the first message on, and up to the last one
    rear.detect(REAR)
    ends = threading.Event()

    def show(client: Client, image, rate: float, sent: list[int]) -> None:
        while not ends.wait(1 / rate):
            client.send(image)
            sent.append(1)

    sent: dict[str, list[int]] = {'front': [], 'rear': []}
    threads = [
        threading.Thread(target=show, args=(front, FRONT, 100.0, sent['front'])),
        threading.Thread(target=show, args=(rear, REAR, 10.0, sent['rear'])),
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(sent['rear']) >= 15, 'fifteen frames of the slow camera')
    ends.set()
    for thread in threads:
        thread.join()
    front.detect(FRONT)
    rear.detect(REAR)
    finals = {}
    for camera, client in (('front', front), ('rear', rear)):

        def settled(camera: str = camera) -> dict[str, int] | None:
            now = counts(front, camera)
            return (
                now
                if now['pending'] == 0 and now['received'] + now['lost_by_middleware'] == len(sent[camera]) + 2
                else None
            )

        final = finals[camera] = wait_for(settled, f'the accounts of {camera}')
        dropped = sum(value for key, value in final.items() if key.startswith('dropped.'))
        assert final['received'] == final['published'] + dropped
        wait_for(lambda final=final, client=client: len(client.detections) == final['published'], 'all detections')
    # The quick one does not starve it: as long as both wait, they are served in turn.
    assert 2 * finals['rear']['published'] >= min(finals['rear']['received'], finals['front']['published'])


def test_one_camera_without_images_leaves_the_other_well(two_cameras):
    detector, _ = two_cameras
    detector.client.detect(FRONT)
    detector.client.wait_for_status('input/front', 'active', DiagnosticStatus.OK)
    status = detector.client.wait_for_status('input/rear', 'waiting', DiagnosticStatus.WARN)
    assert '/rear/image' in status.message


@pytest.mark.parametrize(
    ('cameras', 'says'),
    [("['front', 'front']", 'names one camera twice'), ("['front', '7 up']", "'7 up' cannot be a namespace")],
)
def test_impossible_names_are_refused_with_the_reason(start_detector, cameras, says):
    detector = start_detector(cameras=cameras)
    detector.client.wait_for_status('model', says, DiagnosticStatus.ERROR)
    assert detector.is_alive()
