"""The scene camera as a process of its own, heard over DDS."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detector_process import wait_for
from mjpeg_server import MjpegServer
from programs import Program
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, LabelInfo

from kd_perception.bags.ground_truth import IGNORED
from kd_perception.bags.reader import objects_in
from kd_perception.bags.sources import open_source
from kd_perception.bags.truth_sources import annotated
from kd_perception.ros import messages, qos
from kd_perception.ros.spinning import spinning
from kd_perception.scene import CLASS_NAMES

REPOSITORY = Path(__file__).resolve().parents[2]
NAMESPACE = '/scene_camera_test'
LABELS = {str(number): name for number, name in enumerate(CLASS_NAMES)}
BEST_EFFORT = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


class Viewer(Node):
    """Keeps all images and their ground truth."""

    def __init__(self) -> None:
        super().__init__('viewer', namespace=NAMESPACE)
        self.images: list[Image] = []
        self.truth: list[Detection2DArray] = []
        self.labels: list[LabelInfo] = []
        self.create_subscription(Detection2DArray, 'ground_truth', self.truth.append, 50)
        self.create_subscription(LabelInfo, 'ground_truth/label_info', self.labels.append, qos.LATCHED)
        self.create_subscription(Image, 'image', self.images.append, BEST_EFFORT)


@pytest.fixture
def viewer(_rclpy: None) -> Iterator[Viewer]:
    with spinning(Viewer()) as node:
        yield node


class CameraProcess(Program):
    """The program `scene_camera`."""

    def __init__(self, folder: Path, parameters: dict[str, Any]) -> None:
        words = ['--ros-args', '-r', f'__ns:={NAMESPACE}']
        for name, value in parameters.items():
            words += ['-p', f'{name}:={str(value).lower() if isinstance(value, bool) else value}']
        self._out, self._errors = folder / 'out', folder / 'errors'
        super().__init__('kd_perception.ros.scene_camera', words, self._out, self._errors)

    def end(self) -> tuple[int, str, str]:
        """Wait for its end; returns exit status, output and errors."""
        status = self.wait()
        return status, self._out.read_text(), self._errors.read_text()


@pytest.fixture
def start_camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., CameraProcess]]:
    """Start cameras; those still running at the end of the test are killed."""
    running: list[CameraProcess] = []

    def start(**parameters: Any) -> CameraProcess:
        running.append(CameraProcess(tmp_path_factory.mktemp('camera'), parameters))
        return running[-1]

    yield start
    for camera in running:
        camera.kill()
        camera.wait()


@pytest.mark.parametrize('encoding', ['bgr8', 'rgb8'])
def test_a_flight_is_shown_whole_with_its_ground_truth(viewer: Viewer, start_camera, encoding: str) -> None:
    camera = start_camera(
        frames=20, width=320, height=240, seed=5, fps=50.0, encoding=encoding, frame_id='nadir', wait_for_subscribers=1
    )
    status, output, _ = camera.end()
    assert status == 0
    assert '20 frames of scene 5 published' in output
    wait_for(lambda: len(viewer.images) == len(viewer.truth) == 20 and viewer.labels, 'the flight')
    assert tuple(entry.class_name for entry in viewer.labels[0].class_map) == CLASS_NAMES

    stamps = [messages.stamp_ns(image.header) for image in viewer.images]
    assert stamps == sorted(set(stamps))
    assert [truth.header for truth in viewer.truth] == [image.header for image in viewer.images]
    expected = open_source('', seed=5, width=320, height=240, fps=50.0).frames()
    for image, truth, frame in zip(viewer.images, viewer.truth, expected, strict=False):
        assert (image.encoding, image.header.frame_id) == (encoding, 'nadir')
        assert np.array_equal(messages.to_bgr(image, 10**6), frame.image)
        entries = [annotated(entry, LABELS) for entry in objects_in(truth)]
        objects, ignored = frame.truth.objects, frame.truth.ignored
        assert np.allclose([entry.box for entry in entries], np.concatenate([objects.boxes, ignored]), atol=1e-3)
        names = [CLASS_NAMES[class_id] for class_id in objects.class_ids]
        assert [entry.class_name for entry in entries] == names + [IGNORED] * len(ignored)
        assert [entry.track for entry in entries] == [*map(str, objects.track_ids.tolist()), *[''] * len(ignored)]
    assert any(entry.id == IGNORED for truth in viewer.truth for entry in truth.detections)


def test_a_folder_is_shown_once_and_has_no_ground_truth(viewer: Viewer, start_camera, tmp_path: Path) -> None:
    for index, shade in enumerate((30, 90, 200)):
        cv2.imwrite(str(tmp_path / f'{index}.png'), np.full((40, 60, 3), shade, np.uint8))
    camera = start_camera(source=tmp_path, loop=False, fps=20.0, wait_for_subscribers=1)
    assert camera.end()[0] == 0
    wait_for(lambda: len(viewer.images) == 3, 'the folder')
    assert [messages.to_bgr(image, 10**6)[0, 0, 0] for image in viewer.images] == [30, 90, 200]
    assert viewer.truth == []


def test_a_folder_is_shown_again_and_again(viewer: Viewer, start_camera, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / 'one.png'), np.full((40, 60, 3), 77, np.uint8))
    start_camera(source=tmp_path, fps=50.0)
    wait_for(lambda: len(viewer.images) > 5, 'images')


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(viewer: Viewer, start_camera, how: signal.Signals) -> None:
    camera = start_camera(width=160, height=120)
    wait_for(lambda: viewer.images, 'images')
    camera.send_signal(how)
    status, output, errors = camera.end()
    assert status == 0, errors
    assert 'frames of scene 0 published' in output
    assert 'Traceback' not in errors


@pytest.mark.parametrize(
    ('parameters', 'says'),
    [
        ({'source': '/no/such/place'}, 'no such file or folder'),
        ({'source': REPOSITORY / 'LICENSE'}, 'LICENSE is a text file: neither a video'),
        ({'source': '/dev/null'}, 'neither a file nor a folder'),
        ({'encoding': 'mono8'}, 'encoding must be one of bgr8, rgb8'),
        ({'depth': '64FC1'}, 'depth must be one of off, 32FC1, 16UC1'),
        ({'fps': -3.0}, 'fps'),
        ({'width': 'wide'}, 'width'),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(start_camera, parameters: dict, says: str) -> None:
    status, _, errors = start_camera(**parameters).end()
    assert status == 1
    assert errors.startswith('scene_camera: ')
    assert says in errors
    assert errors.count('\n') == 1


def test_a_network_camera_is_shown_as_it_comes(start_camera, viewer):
    server = MjpegServer(frames=10000)
    camera = start_camera(source=server.address, wait_for_subscribers=1, frames=0)
    wait_for(lambda: len(viewer.images) > 5, 'images')
    assert (viewer.images[-1].width, viewer.images[-1].height) == (64, 48)
    assert not viewer.truth
    camera.send_signal(signal.SIGINT)
    assert camera.wait() == 0
    server.close()
