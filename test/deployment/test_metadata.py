"""package.xml, setup.py and the locks say the same, and say all."""

import ast
import importlib.metadata
import itertools
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import kd_perception

REPOSITORY = Path(__file__).resolve().parents[2]
MANIFEST = ElementTree.parse(REPOSITORY / 'package.xml').getroot()
DEPENDENCIES = {element.text for tag in ('depend', 'exec_depend') for element in MANIFEST.iter(tag)}
OPTIONAL = {'foxglove_msgs'}
"""Used where it is installed, and never missed."""
ROS_PACKAGE = re.compile(r'rclpy|cv_bridge|launch|launch_ros|ament_index_python|\w+_msgs|\w+_srvs|\w+_interfaces')
LOCKS = ('runtime', 'ros', 'development', 'engines', 'training')
# Ultralytics asks for these, and works without: a GPU monitor, its web platform, and the OpenCV with windows. OpenVINO
# asks for what reports its use to its makers, timm for what downloads weights.
LEFT_OUT = {
    'nvidia-ml-py',
    'ultralytics-platform',
    'opencv-python',
    'openvino-telemetry',
    'huggingface-hub',
    'safetensors',
}


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
    return {normalized(name): version for name, version in split}


def normalized(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub('[-_.]+', '-', name).lower()


def needs(name: str, version: str) -> set[str]:
    """What a distribution asks for without extras; nothing where it is not installed in this version (sourced ROS 2)."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return set()
    if distribution.version.split('+')[0] != version:
        return set()
    oldest = {'extra': '', 'python_version': '3.11', 'python_full_version': '3.11.0'}  # that the wheels and locks serve
    stated = [Requirement(text) for text in distribution.requires or ()]
    return {normalized(need.name) for need in stated if need.marker is None or need.marker.evaluate(oldest)}


def test_versions_agree() -> None:
    assert MANIFEST.findtext('version') == kd_perception.__version__


def test_manifest_is_a_colcon_python_package() -> None:
    assert MANIFEST.get('format') == '3'
    assert MANIFEST.findtext('export/build_type') == 'ament_python'
    assert MANIFEST.findtext('license') == 'Apache-2.0'


def test_manifest_is_complete_for_a_release() -> None:
    assert {element.get('type') for element in MANIFEST.iter('url')} >= {'repository', 'bugtracker'}
    assert '@' in MANIFEST.find('maintainer').get('email')
    assert 'rviz2' in DEPENDENCIES
    assert {element.text for element in MANIFEST.iter('test_depend')} >= {'python3-pytest', 'python3-hypothesis'}


def test_colcon_finds_pytest() -> None:
    """It looks for it in the extra `test`."""
    requirements = importlib.metadata.requires('kd_perception') or []
    assert any(text.startswith('pytest') and "extra == 'test'" in text.replace('"', "'") for text in requirements)


def test_conftest_needs_nothing_that_colcon_test_may_lack() -> None:
    """It is loaded before a test could be skipped."""
    body = ast.parse((REPOSITORY / 'test' / 'conftest.py').read_text(encoding='utf-8')).body
    names = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or '' for node in body if isinstance(node, ast.ImportFrom)}
    ours = {'absent_packages', 'pytest', 'kd_perception'}
    assert {name.split('.')[0] for name in names} <= ours | set(sys.stdlib_module_names)


def test_changelog_has_the_form_that_bloom_reads() -> None:
    """A title, then versions or Forthcoming, each underlined in full, newest first."""
    lines = (REPOSITORY / 'CHANGELOG.rst').read_text(encoding='utf-8').splitlines()
    assert lines[0] == lines[2] == '^' * len(lines[1]) == '^' * len('Changelog for package kd_perception')
    sections = [above for above, line in itertools.pairwise(lines) if line and set(line) == {'-'}]
    assert sections
    assert re.fullmatch(r'Forthcoming|\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)', sections[0])
    if sections[0] != 'Forthcoming':
        assert sections[0].split()[0] == kd_perception.__version__


def test_documents_and_workflow_install_alike() -> None:
    """What pip brings besides rosdep is one line, the same everywhere."""
    files = ('README.md', 'docs/installation.md', '.github/workflows/ros2.yml')
    texts = [(REPOSITORY / file).read_text(encoding='utf-8') for file in files]
    line = "pip install -c src/kd_perception/requirements/sourced.txt onnxruntime simplejpeg 'jsonschema>=4' numpy"
    assert all(line in text for text in texts)
    assert all('--skip-keys' in text and 'python3-onnxruntime-pip' in text for text in texts)


@pytest.mark.parametrize('folder', ['kd_perception', 'launch'])
def test_manifest_names_every_ros_package_that_is_imported(folder: str) -> None:
    ros = {name for name in imported(folder) if ROS_PACKAGE.fullmatch(name)}
    assert ros - OPTIONAL <= DEPENDENCIES


@pytest.mark.parametrize('lock', LOCKS)
def test_lock_pins_every_version_and_names_no_server(lock: str) -> None:
    assert pins(lock)
    assert '://' not in (REPOSITORY / 'requirements' / f'{lock}.txt').read_text(encoding='utf-8')


def test_locks_do_not_contradict_each_other() -> None:
    versions: dict[str, str] = {}
    for lock in LOCKS:
        for name, version in pins(lock).items():
            assert versions.setdefault(name, version) == version, name


def test_locks_hold_all_that_their_packages_need() -> None:
    locked = {name: version for lock in LOCKS for name, version in pins(lock).items()}
    missing = {name: needs(name, version) - locked.keys() - LEFT_OUT for name, version in locked.items()}
    assert {name: names for name, names in missing.items() if names} == {}


def test_training_extra_states_the_licence_of_ultralytics() -> None:
    setup = (REPOSITORY / 'setup.py').read_text(encoding='utf-8')
    before = setup[: setup.index("'training':")].splitlines()[-3:]
    assert 'AGPL-3.0' in '\n'.join(before)


def test_bags_are_written_with_the_very_messages_that_the_nodes_speak() -> None:
    built, read = (
        {path.name: path.read_text(encoding='utf-8') for path in (REPOSITORY / folder).glob('*.msg')}
        for folder in ('interfaces/vision_msgs/msg', 'kd_perception/bags/vision_msgs')
    )
    assert built
    assert built == read
