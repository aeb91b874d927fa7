"""The bond with nav2's lifecycle_manager, on the interface of ROS's bondpy; and what else bears that name is left alone.

bondpy is no wheel: a module of its interface (bond_core 4: `Bond(node, topic, id)`, start, break_bond, shutdown) that sends
its heartbeats through the real node stands for it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from detector_process import NodeInProcess, wait_for
from networks import image_with_cells
from std_msgs.msg import String

BONDPY_OF_ROS = """
from std_msgs.msg import String

class Bond:
    def __init__(self, node, topic, id, on_broken=None, on_formed=None):
        self._node, self._id = node, id
        self._publisher = node.create_publisher(String, topic, 10)

    def start(self):
        self._timer = self._node.create_timer(0.05, lambda: self._say('active'))

    def break_bond(self):
        self._node.destroy_timer(self._timer)
        self._say('broken')

    def shutdown(self):
        self._node.destroy_publisher(self._publisher)

    def _say(self, what):
        self._publisher.publish(String(data=f'{self._id} {what}'))
"""
BONDPY_OF_PYPI = 'class Bond:\n    def __init__(self, face_value, coupon_rate):\n        raise ValueError(face_value)\n'


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a module bondpy where Python finds it."""

    def put(code: str) -> None:
        (tmp_path / 'site' / 'bondpy').mkdir(parents=True)
        (tmp_path / 'site' / 'bondpy' / '__init__.py').touch()
        (tmp_path / 'site' / 'bondpy' / 'bondpy.py').write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path / 'site'))

    yield put
    for name in ('bondpy.bondpy', 'bondpy'):
        sys.modules.pop(name, None)


def heard_by(detector: NodeInProcess) -> list[str]:
    heard: list[str] = []
    detector.client.create_subscription(String, 'bond', lambda message: heard.append(message.data), 10)
    return heard


def test_an_active_node_beats_under_its_name_and_an_inactive_one_has_broken_its_bond(start_node, install):
    install(BONDPY_OF_ROS)
    detector = start_node()
    heard = heard_by(detector)
    wait_for(lambda: heard.count('detector active') > 3, 'heartbeats')
    detector.node.trigger_deactivate()
    wait_for(lambda: heard[-1] == 'detector broken', 'the end of the bond')
    detector.node.trigger_activate()
    wait_for(lambda: heard[-1] == 'detector active', 'a new bond')


@pytest.mark.parametrize('code', [BONDPY_OF_PYPI, 'raise RuntimeError("made for Python 2")', 'Bond = 7'])
def test_what_only_bears_the_name_is_left_alone(start_node, install, code):
    install(code)
    detector = start_node()
    assert detector.client.detect(image_with_cells(5)).detections
    assert detector.client.count_publishers('bond') == 0


def test_without_bondpy_there_is_no_bond(start_node):
    assert start_node().client.count_publishers('bond') == 0
