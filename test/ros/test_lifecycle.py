"""Transitions of the real node: it answers while it configures, and one that fails leaves nothing behind and says why."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from detector_process import Client, wait_for
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from networks import image_with_cells, make_bundle
from patience import PATIENCE
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

from kd_perception.ros.camera import Camera
from kd_perception.ros.detector_node import DetectorNode
from kd_perception.ros.spinning import spinning
from kd_perception.runtime.model import load

FRAME = image_with_cells(5)


class Gate:
    """A build that waits until it is allowed."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.allowed = threading.Event()

    def build(self, settings, report, fallbacks):
        self.begun.set()
        assert self.allowed.wait(PATIENCE)
        return load(settings, report, fallbacks)


@pytest.fixture
def client(make_client) -> Client:
    return make_client()


@pytest.fixture
def make_node(tmp_path) -> Callable[..., DetectorNode]:
    """A node that nothing has been asked of; it is not spun."""
    make_bundle(tmp_path / 'bright_cells')

    def make(**settings: object) -> DetectorNode:
        given = {'model': str(tmp_path / 'bright_cells'), 'diagnostics_period_s': 0.1, 'threads': 1, **settings}
        return DetectorNode(parameter_overrides=[Parameter(name, value=value) for name, value in given.items()])

    return make


def change(client: Client, transition: int) -> bool:
    request = ChangeState.Request()
    request.transition.id = transition
    return client.call(ChangeState, 'detector/change_state', request).success


def state(client: Client) -> str:
    return client.call(GetState, 'detector/get_state', GetState.Request()).current_state.label


def test_services_and_diagnostics_go_on_while_it_configures(make_node, client):
    gate = Gate()
    with spinning(make_node()) as node:
        node._live._build = gate.build
        asked = client.create_client(ChangeState, 'detector/change_state')
        assert asked.wait_for_service(timeout_sec=PATIENCE)
        request = ChangeState.Request()
        request.transition.id = Transition.TRANSITION_CONFIGURE
        answer = asked.call_async(request)
        assert gate.begun.wait(PATIENCE)
        assert state(client) == 'configuring'
        assert client.call(SetBool, 'detector/enable', SetBool.Request(data=True)).success
        seen = len(client.diagnostics)
        wait_for(lambda: len(client.diagnostics) > seen + 3, 'diagnostics')
        assert not change(client, Transition.TRANSITION_CONFIGURE)
        assert not answer.done()
        gate.allowed.set()
        wait_for(answer.done, 'the end of configuring')
        assert answer.result().success
        assert state(client) == 'inactive'


def test_it_starts_by_itself_only_when_it_is_spun(make_node, client):
    node = make_node(autostart=True)
    assert (node.lifecycle_state, node.is_starting) == ('unconfigured', True)
    with spinning(node):
        wait_for(lambda: node.lifecycle_state == 'active', 'the node to be active')
        wait_for(lambda: client.camera.get_subscription_count() and client.count_publishers('detections'), 'topics')
        wait_for(lambda: client.labels, 'matched publishers')
        assert client.detect(FRAME).detections


@pytest.mark.parametrize(
    ('method', 'walk'),
    [
        ('create_publishers', [Transition.TRANSITION_CONFIGURE]),
        ('subscribe', [Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE]),
    ],
)
def test_a_transition_that_fails_half_way_leaves_nothing_behind(make_node, client, monkeypatch, capfd, method, walk):
    def stumble(*_) -> None:
        raise RuntimeError('the middleware stumbles')

    with spinning(make_node()) as node:
        with monkeypatch.context() as patched:
            patched.setattr(Camera, method, stumble)
            assert [change(client, transition) for transition in walk] == [*[True] * (len(walk) - 1), False]
        assert state(client) == 'unconfigured'
        assert (node._live.model, node._pipeline.is_running, node._publishers_of_node) == (None, False, [])
        wait_for(lambda: not client.count_publishers('detections'), 'its publishers to go')
        said = capfd.readouterr().err
        assert 'RuntimeError: the middleware stumbles' in said
        assert change(client, Transition.TRANSITION_CONFIGURE)
        assert change(client, Transition.TRANSITION_ACTIVATE)
        wait_for(lambda: client.camera.get_subscription_count() and client.labels, 'topics')
        assert client.detect(FRAME).detections


def test_a_node_that_goes_while_it_configures_keeps_nothing(make_node):
    gate, node = Gate(), make_node(autostart=True)
    node._live._build = gate.build  # before it is spun, and so starts
    with spinning(node):
        assert gate.begun.wait(PATIENCE)
        builder = node._live._builder
    gate.allowed.set()
    builder.join(PATIENCE)
    assert (node._live.model, node._live.version) == (None, 0)
