"""Every `ros2 …` line of the documentation names files, arguments, parameters, topics and services that there are."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kd_perception.ros import parameters
from kd_perception.ros.interface import endpoints
from kd_perception.ros.parameter_spec import ParameterSpec

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    *REPOSITORY.glob('*.md'),
    *(REPOSITORY / 'docs').rglob('*.md'),
    *(REPOSITORY / 'models').rglob('*.md'),
    *(REPOSITORY / 'deploy').glob('*.Dockerfile'),
]
COMMAND = re.compile(r'\bros2 (launch|run|param|service|topic|lifecycle) ([^`\n]+)')
SPECS = {node: parameters.specs(source) for node, source in parameters.PAGES.values()}
PROGRAMS = {'detector_node': 'detector', 'localizer_node': 'localizer', 'scene_camera': 'scene_camera'}
TRANSITIONS = {'configure', 'activate', 'deactivate', 'cleanup', 'shutdown'}


def commands() -> list[Any]:
    """Page, verb and words of every command, comments left out; those of other packages as well."""
    found = []
    for page in PAGES:
        for verb, rest in COMMAND.findall(page.read_text(encoding='utf-8').replace('\\\n', ' ')):
            words = shlex.split(rest.split('&&')[0].rstrip(' ,;…').split(' …')[0], comments=True)
            if len(words) > 1 and words[0] in ('kd_perception', 'set', 'call', 'echo'):
                found.append(pytest.param(verb, words, id=f'{page.name}: {verb} {" ".join(words)}'))
    return found


def declared(file: str) -> dict[str, list[str] | None]:
    """The arguments of a launch file, and the values that they may have where these are listed."""
    tree = ast.parse((REPOSITORY / 'launch' / file).read_text(encoding='utf-8'))
    arguments = {} if file != 'replay.launch.py' else declared('detector.launch.py')
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, 'id', '') == 'DeclareLaunchArgument':
            choices = next((keyword.value for keyword in call.keywords if keyword.arg == 'choices'), None)
            arguments[ast.literal_eval(call.args[0])] = None if choices is None else ast.literal_eval(choices)
    return arguments


def assigned(words: list[str]) -> dict[str, str]:
    """The name:=value words."""
    return dict(word.split(':=', 1) for word in words if ':=' in word)


def check_launch(_: str, file: str, *words: str) -> None:
    arguments = declared(file)
    given = assigned([*words])
    assert [word for word in words if ':=' not in word] in ([], ['--show-args'])
    assert given.keys() <= arguments.keys()
    for name, value in given.items():
        choices = arguments[name]
        assert choices is None or value in choices
    for profile in filter(None, given.get('profile', '').split(',')):
        assert (REPOSITORY / 'config' / 'profiles' / f'{profile}.yaml').is_file()


def check_run(_: str, program: str, *words: str) -> None:
    assert (REPOSITORY / 'scripts' / program).is_file()
    node = PROGRAMS[program]
    assert not words or words[0] == '--ros-args'
    for option, word in zip(words[1::2], words[2::2], strict=True):
        name, _, value = word.partition(':=')
        if option == '-p':
            SPECS[node][name].read(yaml.safe_load(value))
        else:
            assert option == '-r'
            assert name in {endpoint.name for endpoint in endpoints(node)}


def check_param(verb: str, node: str, name: str, value: str) -> None:
    spec: ParameterSpec = SPECS[node.lstrip('/')][name]
    assert verb == 'set'
    assert not spec.read_only
    spec.read(yaml.safe_load(value))


def check_service(verb: str, name: str, kind: str, *_: str) -> None:
    assert verb == 'call'
    node, service = name.lstrip('/').split('/')
    assert (f'~/{service}', kind) in {(one.name, one.type) for one in endpoints(node) if one.direction == 'service'}


def check_topic(verb: str, name: str) -> None:
    assert verb == 'echo'
    assert name in {endpoint.name for node in SPECS for endpoint in endpoints(node)}


def check_lifecycle(verb: str, node: str, transition: str) -> None:
    assert (verb, node) == ('set', '/detector')
    assert transition in TRANSITIONS


CHECKS: dict[str, Callable[..., None]] = {
    'launch': check_launch,
    'run': check_run,
    'param': check_param,
    'service': check_service,
    'topic': check_topic,
    'lifecycle': check_lifecycle,
}


@pytest.mark.parametrize(('verb', 'words'), commands())
def test_a_documented_command_names_what_there_is(verb: str, words: list[str]) -> None:
    CHECKS[verb](*words)


def test_the_documentation_has_commands_of_every_kind() -> None:
    assert {command.values[0] for command in commands()} == CHECKS.keys()


def test_every_argument_of_the_localizers_launch_file_stands_on_its_page() -> None:
    text = (REPOSITORY / 'docs' / 'localizer.md').read_text(encoding='utf-8')
    assert [name for name in declared('localizer.launch.py') if not re.search(rf'\b{name}\b', text)] == []
