"""Every shipped bundle under every profile on every engine runs, or is refused for a reason named here.

All are decided by the node's own settings. The real node answers a picture with every bundle on every engine, and under every
profile on every engine. Profile and engine are laid over each other as the launch file does it. TensorRT is its stand-in; what
`engine: auto` would measure is given.
"""

from __future__ import annotations

import re
import sys
from importlib import util

import numpy as np
import pytest
import yaml
from detector_process import REPOSITORY, Client, wait_for
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.parameter import Parameter
from tensorrt_stand_in import CudaRuntime, tensorrt

from kd_perception.bags.sources import read_image
from kd_perception.bundles.bundle import load_bundle
from kd_perception.errors import BundleError
from kd_perception.ros.detector_node import DetectorNode
from kd_perception.ros.spinning import spinning
from kd_perception.scene import Scene
from kd_perception.selection import first_run
from kd_perception.selection.selection import select
from kd_perception.selection.timing import Timer, Timing

BUNDLES = sorted(path.parent.name for path in (REPOSITORY / 'models').glob('*/bundle.yaml'))
PROFILES = sorted(path.stem for path in (REPOSITORY / 'config' / 'profiles').glob('*.yaml'))
SMALLEST = 'aerial_traffic_tiny'
ENGINES = ('onnxruntime', 'openvino', 'ncnn', 'tensorrt', 'auto')

REFUSED = {
    # The Raspberry Pis' profiles ask for INT8, of which these engines have another kind; precision:=auto runs them.
    ('raspberry_pi_4', 'ncnn'): 'ncnn quantizes otherwise than ONNX files do',
    ('raspberry_pi_5', 'ncnn'): 'ncnn quantizes otherwise than ONNX files do',
    ('raspberry_pi_4', 'tensorrt'): 'TensorRT takes symmetric INT8 only',
    ('raspberry_pi_5', 'tensorrt'): 'TensorRT takes symmetric INT8 only',
}
"""(profile, engine) → what the refusal says; all others run."""


def settings_of(profile: str) -> dict[str, object]:
    """What a profile sets; nothing for the defaults."""
    if not profile:
        return {}
    document = yaml.safe_load((REPOSITORY / 'config' / 'profiles' / f'{profile}.yaml').read_text(encoding='utf-8'))
    return dict(document['/**']['ros__parameters'])


@pytest.fixture(scope='module')
def cache(tmp_path_factory) -> str:
    """What ran once in a process of its own is known to all that follow."""
    return str(tmp_path_factory.mktemp('cache'))


@pytest.fixture
def machine(monkeypatch, cache) -> None:
    """All engines are there, and what `engine: auto` would measure is known."""
    monkeypatch.setenv('KD_PERCEPTION_CACHE', cache)
    check = first_run.check
    # The stand-in is in this process only.
    monkeypatch.setattr(
        first_run, 'check', lambda chosen, report: None if chosen.engine == 'tensorrt' else check(chosen, report)
    )
    monkeypatch.setitem(sys.modules, 'tensorrt', tensorrt('10.3.0'))
    find_spec = util.find_spec
    monkeypatch.setattr('importlib.util.find_spec', lambda name: True if name == 'tensorrt' else find_spec(name))
    monkeypatch.setattr('kd_perception.engines.tensorrt.load_runtime', CudaRuntime)
    monkeypatch.setattr(Timer, 'time', lambda *_: Timing(9.0, 10.0, 60))
    # The stand-in is in this process alone, and a network's first run is in another one.
    first_run_of_others = first_run.check
    monkeypatch.setattr(
        first_run,
        'check',
        lambda selection, report: None if selection.engine == 'tensorrt' else first_run_of_others(selection, report),
    )


def model(bundle: str) -> str:
    """A shipped bundle's folder."""
    return str(REPOSITORY / 'models' / bundle)


def node_of(profile: str, bundle: str, engine: str) -> DetectorNode:
    """A node with a profile's parameters, and model and engine as launch arguments."""
    settings = {**settings_of(profile), 'model': model(bundle), 'engine': engine, 'threads': 1}
    return DetectorNode(parameter_overrides=[Parameter(name, value=value) for name, value in settings.items()])


@pytest.mark.parametrize('profile', ['', *PROFILES])
def test_every_combination_is_decided(make_client, machine, profile):
    make_client()  # which starts ROS
    node = node_of(profile, SMALLEST, 'onnxruntime')
    try:
        for bundle in BUNDLES:
            for engine in ENGINES:
                settings = node._settings.model({'model': model(bundle), 'engine': engine})
                bundle_read, request = load_bundle(settings.model), settings.request(print)
                if (profile, engine) in REFUSED:
                    with pytest.raises(BundleError, match=re.escape(REFUSED[profile, engine])):
                        select(bundle_read, request)
                else:
                    assert engine in ('auto', select(bundle_read, request).engine)
    finally:
        node.destroy_node()


def change(client: Client, transition: int) -> bool:
    """Ask for a lifecycle transition, as `ros2 lifecycle set` does."""
    request = ChangeState.Request()
    request.transition.id = transition
    return bool(client.call(ChangeState, 'detector/change_state', request).success)


RUN = [
    (SMALLEST, ''),
    (SMALLEST, 'raspberry_pi_5'),
    *(pytest.param(SMALLEST, name, marks=pytest.mark.thorough) for name in PROFILES if name != 'raspberry_pi_5'),
    *(pytest.param(name, '', marks=pytest.mark.thorough) for name in BUNDLES if name != SMALLEST),
]


def picture_for(bundle: str) -> np.ndarray:
    """A picture in which the bundle finds something: a synthetic flight, or the last one in the first row of its card's sheet."""
    if bundle.startswith('aerial_traffic'):
        return Scene(0, 640, 480).frame(30).image
    sheet = read_image(REPOSITORY / 'models' / bundle / 'contact_sheet.jpg')
    return np.ascontiguousarray(sheet[:270, -364:-4])


@pytest.mark.parametrize(('bundle', 'profile'), RUN)
def test_the_node_answers_a_picture_or_says_why_not(make_client, machine, bundle, profile):
    image, client = picture_for(bundle), make_client()
    for engine in ENGINES:
        node = node_of(profile, bundle, engine)
        reason = REFUSED.get((profile, engine), '')
        with spinning(node):
            assert change(client, Transition.TRANSITION_CONFIGURE) != bool(reason), f'{engine}: {node._live.failure}'
            assert reason in node._live.failure
            if not reason:
                assert change(client, Transition.TRANSITION_ACTIVATE)
                wait_for(lambda: client.camera.get_subscription_count(), 'the subscription')
                # A profile may drop what is late, as all is on a busy machine.
                assert client.detect(image, again_s=0.5).detections, f'{engine} finds what the picture shows'
        wait_for(lambda: not client.camera.get_subscription_count(), 'the end of the node')
