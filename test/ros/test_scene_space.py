"""A flight in meters, live over DDS: scene camera → detector → localizer, compared with the true positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from detector_process import wait_for
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

from kd_perception.bags.sources import SourceError
from kd_perception.ros import qos
from kd_perception.ros.localizer_node import LocalizerNode
from kd_perception.ros.messages import stamp_ns
from kd_perception.ros.parameter_spec import ParameterError
from kd_perception.ros.scene_camera import SceneCamera
from kd_perception.ros.spinning import spinning

FRAMES = 3
NEAR = 4.0
"""Meters between a detection and the vehicle that it shows: less than a lane and a half."""


class Observer(Node):
    """Keeps positions, found and true, by their stamps."""

    def __init__(self) -> None:
        super().__init__('observer')
        self.found: dict[int, Detection3DArray] = {}
        self.truth: dict[int, Detection3DArray] = {}
        self.cameras: dict[int, np.ndarray] = {}
        self.markers: list[MarkerArray] = []
        self.infos: list[CameraInfo] = []
        self.depths: list[Image] = []
        self.create_subscription(Detection3DArray, 'detections_3d', lambda m: self.keep(self.found, m), 50)
        self.create_subscription(Detection3DArray, 'ground_truth_3d', lambda m: self.keep(self.truth, m), 50)
        self.create_subscription(MarkerArray, 'detections_3d/markers', self.markers.append, 50)
        self.create_subscription(CameraInfo, 'camera_info', self.infos.append, qos.IMAGE)
        self.create_subscription(Image, 'depth', self.depths.append, qos.IMAGE)
        self.create_subscription(TFMessage, '/tf', self.keep_camera, 50)

    def keep(self, kept: dict[int, Detection3DArray], message: Detection3DArray) -> None:
        kept[stamp_ns(message.header)] = message

    def keep_camera(self, message: TFMessage) -> None:
        (stamped,) = message.transforms
        at = stamped.transform.translation
        self.cameras[stamp_ns(stamped.header)] = np.array([at.x, at.y, at.z])


def centers(message: Detection3DArray) -> np.ndarray:
    places = [detection.bbox.center.position for detection in message.detections]
    return np.array([(place.x, place.y, place.z) for place in places]).reshape(-1, 3)


@pytest.fixture
def start(_rclpy: None) -> Iterator[Callable[..., Any]]:
    """Start nodes in this process, each with a thread of its own."""
    with ExitStack() as nodes:

        def begin(kind: Callable[..., Node], **settings: Any) -> Any:
            overrides = [Parameter(name, value=value) for name, value in settings.items()]
            return nodes.enter_context(spinning(kind(parameter_overrides=overrides) if settings else kind()))

        yield begin


def errors_of(observer: Observer, on_ground: bool) -> tuple[np.ndarray, int, int]:
    """Errors as shares of the range, of what was found near a vehicle; how many were found, and how many there are."""
    shares, found, there = [], 0, 0
    for stamp in observer.found.keys() & observer.truth.keys() & observer.cameras.keys():
        places, truth = centers(observer.found[stamp]), centers(observer.truth[stamp])
        if on_ground:
            truth[:, 2] = 0.0
        distances = np.linalg.norm(places[:, None] - truth[None], axis=2)
        nearest = distances.argmin(axis=1)
        ranges = np.linalg.norm(truth - observer.cameras[stamp], axis=1)[nearest]
        error = distances.min(axis=1)
        shares += (error / ranges)[error <= NEAR].tolist()
        found += len(places)
        there += len(truth)
    return np.array(shares), found, there


@pytest.mark.parametrize(('mode', 'encoding', 'most'), [('depth', '16UC1', 0.03), ('ground', '32FC1', 0.05)])
def test_positions_of_what_the_detector_finds_are_near_the_truth(start, start_node, mode, encoding, most):
    observer = start(Observer)
    start(LocalizerNode, mode=mode, target_frame='map', max_wait_s=30.0, pixel_deviation=2.0)
    start_node(model='aerial_traffic', latency_budget_ms=60000.0)
    start(SceneCamera, depth=encoding, fps=1.0, seed=1, wait_for_subscribers=1)
    wait_for(lambda: len(observer.found.keys() & observer.truth.keys()) >= FRAMES, 'positions', timeout=300.0)
    shares, found, there = errors_of(observer, on_ground=mode == 'ground')
    figures = (
        f'median error {100 * np.median(shares):.2f} % of the range, of {len(shares)} of {found} near one of {there}'
    )
    print(f'{mode} {encoding}: {figures}')
    assert np.median(shares) <= most
    assert len(shares) >= 0.8 * found
    assert len(shares) >= 0.5 * there
    wait_for(lambda: observer.markers, 'markers')
    kinds = [marker.type for marker in observer.markers[-1].markers[1:]]
    assert observer.markers[-1].markers[0].action == Marker.DELETEALL
    assert kinds == [Marker.CUBE, Marker.TEXT_VIEW_FACING] * (len(kinds) // 2)
    assert observer.infos[-1].k[0] > 0
    assert observer.depths[-1].encoding == encoding


@pytest.mark.parametrize(
    ('settings', 'error', 'says'),
    [
        ({'depth': '8UC1'}, ParameterError, 'depth must be one of off, 32FC1, 16UC1'),
        ({'depth': '32FC1', 'source': 'x.mp4'}, SourceError, 'synthetic flights only'),
    ],
)
@pytest.mark.usefixtures('_rclpy')
def test_a_depth_that_cannot_be_is_an_error_with_the_reason(settings, error, says):
    overrides = [Parameter(name, value=value) for name, value in settings.items()]
    with pytest.raises(error, match=says):
        SceneCamera(parameter_overrides=overrides)


def test_without_depth_there_are_no_such_topics(start):
    camera = start(SceneCamera, fps=1.0)
    names = [name for name, _ in camera.get_publisher_names_and_types_by_node('scene_camera', '/')]
    assert '/image' in names
    assert not {'/depth', '/camera_info', '/tf', '/ground_truth_3d'} & set(names)
