"""package.xml, setup.py and the locks say the same, and say all."""

import ast
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import kd_perception

REPOSITORY = Path(__file__).resolve().parents[2]
MANIFEST = ElementTree.parse(REPOSITORY / 'package.xml').getroot()
DEPENDENCIES = {element.text for tag in ('depend', 'exec_depend') for element in MANIFEST.iter(tag)}
ROS_PACKAGE = re.compile(r'rclpy|cv_bridge|launch|launch_ros|ament_index_python|\w+_msgs|\w+_srvs|\w+_interfaces')
LOCKS = ('runtime', 'ros', 'development', 'training')


def imported(folder: str) -> set[str]:
    """Top-level names of what the Python files below a folder import."""
    names: set[str] = set()
    for path in (REPOSITORY / folder).rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module or '')
    return {name.split('.')[0] for name in names}


def pins(lock: str) -> dict[str, str]:
    """Normalized name → version of one lock file."""
    lines = (REPOSITORY / 'requirements' / f'{lock}.txt').read_text(encoding='utf-8').splitlines()
    stated = [line for line in lines if line and not line.startswith(('#', '-r '))]
    split = [line.split('==') for line in stated]
    return {re.sub('[-_.]+', '-', name).lower(): version for name, version in split}


def test_versions_agree() -> None:
    assert MANIFEST.findtext('version') == kd_perception.__version__


def test_manifest_is_a_colcon_python_package() -> None:
    assert MANIFEST.get('format') == '3'
    assert MANIFEST.findtext('export/build_type') == 'ament_python'
    assert MANIFEST.findtext('license') == 'Apache-2.0'


@pytest.mark.parametrize('folder', ['kd_perception', 'launch'])
def test_manifest_names_every_ros_package_that_is_imported(folder: str) -> None:
    ros = {name for name in imported(folder) if ROS_PACKAGE.fullmatch(name)}
    assert ros <= DEPENDENCIES


@pytest.mark.parametrize('lock', LOCKS)
def test_lock_pins_every_version_and_names_no_server(lock: str) -> None:
    assert pins(lock)
    assert '://' not in (REPOSITORY / 'requirements' / f'{lock}.txt').read_text(encoding='utf-8')


def test_locks_do_not_contradict_each_other() -> None:
    versions: dict[str, str] = {}
    for lock in LOCKS:
        for name, version in pins(lock).items():
            assert versions.setdefault(name, version) == version, name


def test_training_extra_states_the_licence_of_ultralytics() -> None:
    setup = (REPOSITORY / 'setup.py').read_text(encoding='utf-8')
    before = setup[: setup.index("'training':")].splitlines()[-3:]
    assert 'AGPL-3.0' in '\n'.join(before)
