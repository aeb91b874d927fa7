"""The systemd unit and the container recipes name things that exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest
import yaml

RECIPES = ('jetson.Dockerfile', 'raspberry_pi.Dockerfile')


@pytest.fixture
def deploy(repository):
    return repository / 'deploy'


def launch_arguments(repository) -> set[str]:
    return set(
        re.findall(r"DeclareLaunchArgument\(\s*'(\w+)'", (repository / 'launch' / 'detector.launch.py').read_text())
    )


def check_launch_line(repository, words) -> None:
    """Every NAME:=VALUE is an argument of the launch file, and every profile a file."""
    given = dict(word.split(':=') for word in words if ':=' in word)
    assert given, 'nothing to check'
    assert set(given) <= launch_arguments(repository)
    if 'profile' in given:
        assert (repository / 'config' / 'profiles' / f'{given["profile"]}.yaml').is_file()


def test_the_unit_starts_the_launch_file_with_its_arguments(repository, deploy):
    lines = (deploy / 'kd_perception.service').read_text().splitlines()
    (arguments,) = [line for line in lines if line.startswith('Environment="ARGUMENTS=')]
    check_launch_line(repository, shlex.split(arguments.partition('=')[2])[0].partition('=')[2].split())
    (start,) = [line for line in lines if line.startswith('ExecStart=')]
    assert 'ros2 launch kd_perception detector.launch.py $ARGUMENTS' in start


def test_the_unit_signals_launch_alone_and_starts_again_what_died(deploy):
    """`ros2 launch` ends with status 0 when its node was killed: on-failure would not start it again."""
    lines = (deploy / 'kd_perception.service').read_text().splitlines()
    assert {'KillMode=mixed', 'KillSignal=SIGINT', 'Restart=always'} <= set(lines)


@pytest.mark.skipif(shutil.which('systemd-analyze') is None, reason='no systemd here')
def test_systemd_accepts_the_unit(deploy):
    command = ['systemd-analyze', 'verify', str(deploy / 'kd_perception.service')]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, '')


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_copies_and_launches_what_is_there(repository, deploy, name):
    text = (deploy / name).read_text()
    for path in re.findall(r'/opt/kd_perception/([\w./]+)', text):
        assert (repository / path).is_file()
    (run,) = re.findall(r'#\s+ros2 launch kd_perception detector.launch.py (.*)', text)
    check_launch_line(repository, run.split())
    assert re.search(rf'docker build -f deploy/{name}', text)


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_installs_the_ros_packages_of_the_manifest(repository, deploy, name):
    """Those beyond ros-base; the others come with it."""
    manifest = (repository / 'package.xml').read_text()
    for package in ('vision_msgs', 'cv_bridge', 'diagnostic_msgs'):
        assert f'<exec_depend>{package}</exec_depend>' in manifest
        assert re.search(rf'ros-\w+-{package.replace("_", "-")}\b', (deploy / name).read_text())


def test_the_workflow_builds_tests_and_launches_in_every_distribution(repository):
    job = yaml.safe_load((repository / '.github' / 'workflows' / 'ros2.yml').read_text())['jobs']['colcon']
    assert job['strategy']['matrix']['distribution'] == ['humble', 'jazzy', 'kilted']
    commands = '\n'.join(step.get('run', '') for step in job['steps'])
    assert re.findall(r'colcon (\S+)', commands) == ['build', 'test', 'test-result']
    assert 'ros2 launch kd_perception detector.launch.py' in commands
    for path in re.findall(r'(?:src/kd_perception/|--ignore=)([\w/.]+)', commands):
        assert (repository / path).exists()
    shell = subprocess.run(['bash', '-n'], input=commands, capture_output=True, text=True)
    assert shell.stderr == ''
