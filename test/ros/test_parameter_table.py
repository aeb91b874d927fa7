"""Every parameter of the real node, given wrong, out of range and empty, in each of the ways in which ROS brings a value."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from detector_process import Client, wait_for
from networks import make_bundle
from patience import PATIENCE
from rcl_interfaces.msg import Parameter, ParameterValue, SetParametersResult
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters

from kd_perception.ros import parameters
from kd_perception.ros.detector_node import DetectorNode
from kd_perception.ros.spinning import spinning

pytest.importorskip('rclpy.parameter_client', reason='Humble does not have what ros2 param does in rclpy')
from rclpy.parameter import get_parameter_value, parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient

LONG = 'x' * 5000


class Row(NamedTuple):
    """What a user may write for one parameter, as text of YAML; `is_default` where an empty list stands for the default."""

    wrong_type: str
    not_allowed: str
    empty: str = '[]'
    is_default: bool = False


TABLE = {
    'model': Row('7', LONG, "''"),
    'engine': Row('true', 'onnxruntim', "''"),
    'precision': Row('8', LONG, "''"),
    'max_map_drop': Row('much', '1.5'),
    'threads': Row('2.5', '-1'),
    'providers': Row('[1, 2]', f'[{LONG}]', '[]', is_default=True),
    'tiles': Row('2', '0x0', "''"),
    'tile_overlap': Row('[0.1]', '0.6'),
    'cameras': Row('1', "['7 up']", '[]', is_default=True),
    'image_transport': Row('1.5', 'theora', "''"),
    'annotated_transport': Row('false', 'h264', "''"),
    'score_threshold': Row('true', '.nan'),
    'iou_threshold': Row('high', '1.01'),
    'suppression': Row('[1]', 'classes', "''"),
    'max_detections': Row("'many'", '0'),
    'classes': Row('[1.5]', f'[{LONG}]', '[]', is_default=True),
    'class_thresholds': Row('[0.4]', '[car=high]', '[]', is_default=True),
    'region': Row('[0.0, 1.0]', "'0,0 1,1'", "''"),
    'min_box_pixels': Row('small', '-1.0'),
    'class_id_form': Row('1', 'index', "''"),
    'max_rate_hz': Row('10Hz', '-1.0'),
    'tracker': Row('no', 'sort', "''"),
    'track_high_score': Row('high', '0.05'),
    'track_match_iou': Row('[0.2]', '0.0'),
    'track_keep_s': Row('1s', '61.0'),
    'track_publish_score': Row('low', '-1.5'),
    'track_class': Row('1', 'voted', "''"),
    'max_image_pixels': Row('4e7', '100'),
    'max_age_ms': Row('off', '-0.1'),
    'latency_budget_ms': Row('fast', '.inf'),
    'watchdog_s': Row('10s', '0.0'),
    'degradation': Row('true', 'skip', "''"),
    'degradation_patience_s': Row('[5.0]', '0.1'),
    'degradation_hold_s': Row('no', '1e9'),
    'input_timeout_s': Row('never', '0'),
    'diagnostics_period_s': Row('1Hz', '0.01'),
    'latency_window_frames': Row('300.0', '9'),
    'autostart': Row('1', 'maybe'),
}
MEANT = [
    {
        'tiles': ('off', 'off'),
        'degradation': ('off', 'off'),
        'region': ('off', 'off'),
        'latency_budget_ms': ('100', 100.0),
        'max_map_drop': ('1e-05', 1e-05),
        'providers': ('[]', ['']),
        'input_timeout': ('2.0', 2.0),
    },
    {
        'tiles': ('2x1+whole', '2x1+whole'),
        'degradation': ('no', 'off'),
        'providers': ('CPUExecutionProvider', ['CPUExecutionProvider']),
    },
]
"""Name → text, value: what is no text of the parameter's own type, or its former name, and is understood all the same."""
REFUSED_BY_SERVICE = [
    ('score_treshold', ParameterValue(type=3, double_value=0.4), "did you mean 'score_threshold'?"),
    ('nothing_like_it', ParameterValue(type=1), "there is no parameter 'nothing_like_it'"),
    ('autostart', ParameterValue(type=1, bool_value=True), 'autostart is read-only'),
    ('model', ParameterValue(), 'model cannot be deleted'),
    ('use_sim_time', ParameterValue(type=4, string_value='maybe'), 'Wrong parameter type'),
    ('tiles', ParameterValue(type=5, byte_array_value=[b'\0']), 'tiles must be a text'),
    ('tiles', ParameterValue(type=99), "a type that ROS does not have: 'tiles'"),
    ('', ParameterValue(type=1), "there is no parameter ''"),
    ('x' * 100_000, ParameterValue(type=1), 'xxx…'),
]
"""Name, value, what the refusal says."""
NO_MODELS = {
    '~nosuchuser/models/car': 'home directory',
    'car, van and truck ' * 200: 'too long',
    'loop': 'bundle.yaml',
    'no_such_bundle': "there is no model bundle 'no_such_bundle'",
    '/dev/null': '/dev/null',
}
"""What `model` may be set to that is none → what the refusal says."""

Give = Callable[[dict[str, str]], tuple[DetectorNode, dict[str, str]]]
"""Gives parameters to a node, as texts of YAML. Returns the node, and name → refusal; empty where the value was taken."""


def test_the_table_names_every_parameter():
    assert list(TABLE) == list(parameters.specs())


@pytest.fixture
def client(make_client) -> Client:
    return make_client()


@pytest.fixture
def start(_rclpy, tmp_path) -> Iterator[Callable[..., DetectorNode]]:
    """Start a node in this process, by a command line that ROS itself parses."""
    nodes: list[Any] = []
    make_bundle(tmp_path / 'bright_cells')

    def begin(*arguments: str) -> DetectorNode:
        nodes.append(spinning(DetectorNode(cli_args=['--ros-args', *arguments])))
        return nodes[-1].__enter__()

    yield begin
    for node in nodes:
        node.__exit__(None, None, None)
    nodes.clear()
    gc.collect()  # a node is in a cycle, and in the graph until that is collected


def parameter_file(folder: Path, texts: dict[str, str], node: str = '/**') -> Path:
    file = folder / 'mine.yaml'
    file.write_text(f'{node}:\n  ros__parameters:\n' + ''.join(f'    {name}: {text}\n' for name, text in texts.items()))
    return file


def results(texts: dict[str, str], answers: list[SetParametersResult]) -> dict[str, str]:
    return {name: '' if answer.successful else answer.reason for name, answer in zip(texts, answers, strict=True)}


@pytest.fixture(params=['file', '-p', 'set', 'load'])
def give(request, start, client, tmp_path) -> Give:
    """The four ways."""

    def by_file(texts: dict[str, str]) -> tuple[DetectorNode, dict[str, str]]:
        node = start('--params-file', str(parameter_file(tmp_path, texts)))
        return node, {name: node.refused_parameters.get(name, '') for name in texts}

    def by_command_line(texts: dict[str, str]) -> tuple[DetectorNode, dict[str, str]]:
        node = start(*(word for name, text in texts.items() for word in ('-p', f'{name}:={text}')))
        return node, {name: node.refused_parameters.get(name, '') for name in texts}

    def by_set(texts: dict[str, str]) -> tuple[DetectorNode, dict[str, str]]:
        """As `ros2 param set` does it."""
        node = start('-p', f'model:={tmp_path}/bright_cells')
        given = [Parameter(name=name, value=get_parameter_value(text)) for name, text in texts.items()]
        return node, results(texts, set_parameters(client, given))

    def by_load(texts: dict[str, str]) -> tuple[DetectorNode, dict[str, str]]:
        """As `ros2 param load` does it."""
        node = start('-p', f'model:={tmp_path}/bright_cells')
        return node, results(texts, load(client, parameter_file(tmp_path, texts)))

    return {'file': by_file, '-p': by_command_line, 'set': by_set, 'load': by_load}[request.param]


def set_parameters(client: Client, given: list[Parameter]) -> list[SetParametersResult]:
    return client.call(SetParameters, 'detector/set_parameters', SetParameters.Request(parameters=given)).results


def load(client: Client, file: Path) -> list[SetParametersResult]:
    loader = AsyncParameterClient(client, 'detector')
    assert loader.wait_for_services(PATIENCE)
    answer = loader.load_parameter_file(str(file), use_wildcard=True)
    wait_for(answer.done, 'the answer to the file')
    return answer.result().results


@pytest.mark.parametrize('column', ['wrong_type', 'not_allowed', 'empty'])
def test_what_a_parameter_cannot_be_is_refused_by_name_and_the_default_stays(give: Give, column: str):
    texts = {name: getattr(row, column) for name, row in TABLE.items()}
    node, refusals = give(texts)
    for name, row in TABLE.items():
        assert (name in refusals[name]) != (column == 'empty' and row.is_default), f'{name}: {refusals[name]!r}'
        assert refusals[name].isprintable()
        if name != 'model':
            assert node.setting(name) == parameters.specs()[name].default_value


@pytest.mark.parametrize('meant', MEANT)
def test_what_is_meant_is_taken(give: Give, meant: dict[str, tuple[str, object]]):
    node, refusals = give({name: text for name, (text, _) in meant.items()})
    assert refusals == dict.fromkeys(meant, '')
    assert {name: node.setting(parameters.find(name).name) for name in meant} == {n: v for n, (_, v) in meant.items()}


def test_a_node_loads_its_own_dump(start, client, tmp_path):
    """All of it: also what is read-only, the word off, and what ROS itself declares."""
    node = start('-p', f'model:={tmp_path}/bright_cells', '-p', 'max_map_drop:=1e-05', '-p', 'autostart:=true')
    wait_for(lambda: node.lifecycle_state == 'active', 'the node to be active')
    names = client.call(ListParameters, 'detector/list_parameters', ListParameters.Request()).result.names
    values = client.call(GetParameters, 'detector/get_parameters', GetParameters.Request(names=names)).values
    dump = {name: parameter_value_to_python(value) for name, value in zip(names, values, strict=True)}
    assert {'tiles', 'use_sim_time', 'autostart'} < set(dump)
    assert any(name.startswith('qos_overrides.') for name in dump)
    file = tmp_path / 'dump.yaml'
    file.write_text(yaml.dump({'/detector': {'ros__parameters': dump}}))
    refused = [answer.reason for answer in load(client, file) if not answer.successful]
    assert refused == []
    assert {name: parameter_value_to_python(node.get_parameter(name).get_parameter_value()) for name in names} == dump
    assert node.values.items() <= dump.items()


def test_what_a_service_alone_can_bring_is_refused_in_a_sentence(start, client, tmp_path):
    start('-p', f'model:={tmp_path}/bright_cells')
    for name, value, says in REFUSED_BY_SERVICE:
        (result,) = set_parameters(client, [Parameter(name=name, value=value)])
        assert not result.successful, name
        assert says in result.reason


def test_a_provider_that_is_not_here_is_refused_at_once(start, client, tmp_path):
    start('-p', f'model:={tmp_path}/bright_cells', '-p', 'autostart:=true', '-p', 'threads:=1')
    client.wait_for_status('model', 'bright_cells')
    value = ParameterValue(type=9, string_array_value=['TpuExecutionProvider'])
    (result,) = set_parameters(client, [Parameter(name='providers', value=value)])
    assert not result.successful
    assert 'TpuExecutionProvider' in result.reason


def test_a_former_name_is_accepted_with_a_warning(start_detector):
    detector = start_detector(latency_window=50)
    wait_for(lambda: 'the parameter latency_window is called latency_window_frames now' in detector.log, 'the warning')


def test_a_model_that_is_none_is_refused_and_the_old_one_goes_on(start, client, tmp_path):
    loop = tmp_path / 'loop'
    loop.mkdir()
    (loop / 'bundle.yaml').symlink_to('bundle.yaml')
    node = start('-p', f'model:={tmp_path}/bright_cells', '-p', 'autostart:=true', '-p', 'threads:=1')
    client.wait_for_status('model', 'bright_cells')
    for model, says in NO_MODELS.items():
        value = ParameterValue(type=4, string_value=str(loop) if model == 'loop' else model)
        (result,) = set_parameters(client, [Parameter(name='model', value=value)])
        assert not result.successful, model
        assert says in result.reason
        assert node.setting('model') == f'{tmp_path}/bright_cells'
