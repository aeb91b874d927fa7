"""A real detector node in its own process, and a client that talks to it over real DDS."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState, GetState
from patience import PATIENCE, patient
from programs import Program
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionInfo

from kd_perception.ros import messages, qos
from kd_perception.ros.detector_node import DetectorNode

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAM = 'kd_perception.ros.start_detector'
AGAIN_S = 20.0
"""So long an image waits for its answer before it is sent again: longer than any test's node needs for one."""


def wait_for(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """Poll until `condition` gives something true, and return it."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.01)
    pytest.fail(f'waited {timeout} s in vain for {what}')


class Client(Node):
    """Publishes images and keeps everything that the detector says."""

    def __init__(self, name: str, transport: str = 'raw', image_qos: QoSProfile = qos.IMAGE, camera: str = '') -> None:
        super().__init__(name)
        prefix = f'{camera}/' if camera else ''
        self.detections: list[Detection2DArray] = []
        self.latencies: list[DiagnosticArray] = []
        self.diagnostics: list[DiagnosticArray] = []
        self.labels: list[LabelInfo] = []
        self.vision: list[VisionInfo] = []
        kind, topic = (CompressedImage, 'image/compressed') if transport == 'compressed' else (Image, 'image')
        self.camera = self.create_publisher(kind, prefix + topic, image_qos)
        self.create_subscription(Detection2DArray, f'{prefix}detections', self.detections.append, 20)
        self.create_subscription(DiagnosticArray, 'detector/frame_latency', self.latencies.append, qos.IMAGE)
        self.create_subscription(DiagnosticArray, '/diagnostics', self.diagnostics.append, 20)
        self.create_subscription(LabelInfo, 'label_info', self.labels.append, qos.LATCHED)
        self.create_subscription(VisionInfo, 'vision_info', self.vision.append, qos.LATCHED)

    def now_header(self, frame_id: str = 'camera', offset_s: float = 0.0) -> Header:
        """A header stamped now, or `offset_s` seconds off."""
        return messages.header_at(self.get_clock().now().nanoseconds + int(offset_s * 1e9), frame_id)

    def send(self, image: np.ndarray, header: Header | None = None) -> Header:
        """Publish a BGR image as bgr8."""
        header = header or self.now_header()
        self.camera.publish(messages.image_message(image, header))
        return header

    def status(self, task: str) -> DiagnosticStatus | None:
        """The newest status of a diagnostics task."""
        for message in reversed(self.diagnostics):
            for status in message.status:
                if status.name.endswith(f': {task}'):
                    return status
        return None

    def value(self, task: str, key: str) -> str:
        """The newest value of one figure of a task; empty before the first."""
        status = self.status(task)
        return next((v.value for v in status.values if v.key == key), '') if status else ''

    def is_known_to_detector(self) -> bool:
        """Whether the newest diagnostics of our images' topic say anything but that nobody publishes there."""
        topic = self.camera.topic_name
        for message in reversed(self.diagnostics):
            for status in message.status:
                if any(value.key == 'topic' and value.value == topic for value in status.values):
                    return not re.search('node is|nobody publishes', status.message)
        return False

    def wait_for_status(self, task: str, text: str, level: bytes | None = None) -> DiagnosticStatus:
        """Wait for a status whose message holds `text`."""

        def met() -> DiagnosticStatus | None:
            status = self.status(task)
            fits = status is not None and text in status.message and level in (None, status.level)
            return status if fits else None

        try:
            return wait_for(met, f'{task} status with {text!r}')
        except pytest.fail.Exception as failure:
            raise AssertionError(f'{failure}; it says {self.status(task)}') from failure

    def call(self, kind: type, name: str, request: Any) -> Any:
        """Call a service and wait for the answer."""
        client = self.create_client(kind, name)
        assert client.wait_for_service(timeout_sec=PATIENCE), f'no service {name}'
        future = client.call_async(request)
        wait_for(future.done, f'an answer of {name}')
        self.destroy_client(client)
        return future.result()

    def detect(self, image: np.ndarray, again_s: float = AGAIN_S, **header: Any) -> Detection2DArray:
        """Send an image and wait for its detections.

        It is sent again, with a new stamp, after `again_s` without an answer: what is best effort may be lost, and a node may
        drop an image that a busy machine brings late.
        """
        seen, deadline = len(self.detections), time.monotonic() + PATIENCE
        stamps: list[Time] = []
        while time.monotonic() < deadline:
            stamps.append(self.send(image, self.now_header(**header)).stamp)
            until = time.monotonic() + again_s
            while time.monotonic() < until:
                answer = next((d for d in self.detections[seen:] if d.header.stamp in stamps), None)
                if answer is not None:
                    return answer
                time.sleep(0.01)
        pytest.fail(f'{len(stamps)} images without detections; the input is {self.status("input")}')


def default_settings() -> dict[str, Any]:
    """What a node of a test starts with."""
    return {'autostart': True, 'diagnostics_period_s': 0.1, 'input_timeout_s': patient(1.0), 'threads': 1}


class DetectorProcess:
    """`detector_node` in a process of its own, with a client beside it."""

    def __init__(
        self,
        client: Client,
        log: Path,
        model: Path | str,
        arguments: list[str],
        is_forked: bool = True,
        **settings: Any,
    ) -> None:
        """Start it; one that is not forked has an interpreter of its own, from the first import to the end."""
        self.client = client
        self._log = log
        settings = {**default_settings(), 'model': str(model), **settings}
        words = ['--ros-args', *arguments]
        for name, value in settings.items():
            words += ['-p', f'{name}:={str(value).lower() if isinstance(value, bool) else value}']
        self.process: Program | subprocess.Popen[bytes]
        if is_forked:
            self.process = Program(PROGRAM, words, log)
            return
        environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(REPOSITORY), os.environ.get('PYTHONPATH', '')])}
        with log.open('wb') as stream:
            command = [sys.executable, '-m', PROGRAM, *words]
            self.process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)

    @property
    def log(self) -> str:
        """All that the process printed so far."""
        return self._log.read_text(errors='replace')

    def wait_until_active(self, detections: str = 'detections') -> DetectorProcess:
        """Wait until the node is subscribed, and knows who publishes its images: what is sent before that is lost."""
        client = self.client
        wait_for(lambda: client.camera.get_subscription_count() or self._died(), 'the detector to subscribe')
        wait_for(lambda: client.labels and client.vision, 'label and vision info')
        wait_for(
            lambda: client.count_publishers(detections) and client.count_publishers('/diagnostics'), 'its publishers'
        )
        wait_for(client.is_known_to_detector, 'the detector to know of the camera')
        return self

    def _died(self) -> bool:
        status = self.process.poll()
        if status is not None:
            pytest.fail(f'the detector ended with {status}:\n{self.log}')
        return False

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def change_state(self, transition: int) -> bool:
        """Ask for a lifecycle transition."""
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self.client.call(ChangeState, 'detector/change_state', request).success)

    def state(self) -> str:
        """The lifecycle state's label."""
        return str(self.client.call(GetState, 'detector/get_state', GetState.Request()).current_state.label)

    def enable(self, on: bool) -> str:
        """Call ~/enable and return what it says."""
        return str(self.client.call(SetBool, 'detector/enable', SetBool.Request(data=on)).message)

    def counts(self) -> dict[str, int]:
        """The newest frame accounts from /diagnostics."""
        status = self.client.status('input')
        assert status is not None
        keys = ('received', 'published', 'pending')
        return {v.key: int(v.value) for v in status.values if v.key in keys or v.key.startswith('dropped.')}

    def stop(self, how: int = signal.SIGINT, timeout: float = PATIENCE) -> int:
        """End the process with a signal and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f'the detector did not end within {timeout} s of signal {how}:\n{self.log}')


class NodeInProcess:
    """The node in this process, so that faults can be injected, with a client beside it."""

    def __init__(self, client: Client, node: DetectorNode) -> None:
        self.client = client
        self.node = node

    def reload(self) -> Trigger.Response:
        """Call ~/reload_model."""
        return self.client.call(Trigger, 'detector/reload_model', Trigger.Request())

    def enable(self) -> SetBool.Response:
        """Call ~/enable with true."""
        return self.client.call(SetBool, 'detector/enable', SetBool.Request(data=True))

    def wait_for_counts(self, **expected: int) -> None:
        """Wait for these accounts; `dropped_x` stands for `dropped.x`."""
        figures = {key.replace('dropped_', 'dropped.'): str(value) for key, value in expected.items()}
        wait_for(
            lambda: all(self.client.value('input', key) == value for key, value in figures.items()), f'counts {figures}'
        )
