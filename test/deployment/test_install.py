"""A real installation lays everything where ros2 run and ros2 launch look for it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS = ('kd_perception', 'launch', 'config', 'models', 'resource', 'scripts')
FILES = ('setup.py', 'pyproject.toml', 'package.xml', 'README.md', 'LICENSE')


@pytest.fixture(scope='module', params=['pip', 'colcon'])
def prefix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix into which pip, or the setup.py command that colcon calls, has installed a copy of the checkout."""
    source = tmp_path_factory.mktemp('source')
    for part in PARTS:
        shutil.copytree(REPOSITORY / part, source / part, ignore=shutil.ignore_patterns('__pycache__'))
    for name in FILES:
        shutil.copy(REPOSITORY / name, source)
    prefix = tmp_path_factory.mktemp('prefix')
    if request.param == 'pip':
        command = ['-m', 'pip', 'install', '--quiet', '--no-deps', '--no-build-isolation', '--ignore-installed', source]
    else:
        command = ['-W', 'ignore', 'setup.py', '-q', 'install', '--record', source / 'record']
        command += ['--single-version-externally-managed']
    subprocess.run([sys.executable, *command, '--prefix', prefix], cwd=source, check=True)
    return prefix


def site_packages(prefix: Path) -> Path:
    (folder,) = prefix.glob('lib*/python3*/site-packages')
    return folder


def test_package_is_in_the_ament_index(prefix: Path) -> None:
    share = prefix / 'share'
    assert (share / 'ament_index' / 'resource_index' / 'packages' / 'kd_perception').is_file()
    assert (share / 'kd_perception' / 'package.xml').is_file()


@pytest.mark.parametrize('part', ['launch', 'config', 'models'])
def test_shared_files_are_complete(prefix: Path, part: str) -> None:
    expected = {path.relative_to(REPOSITORY) for path in (REPOSITORY / part).rglob('*') if path.is_file()}
    expected = {path for path in expected if '__pycache__' not in path.parts}
    share = prefix / 'share' / 'kd_perception'
    assert expected <= {path.relative_to(share) for path in share.rglob('*')}


def test_package_files_are_complete(prefix: Path) -> None:
    files = (path for path in (REPOSITORY / 'kd_perception').rglob('*') if path.is_file())
    expected = {path.relative_to(REPOSITORY) for path in files if '__pycache__' not in path.parts}
    installed = site_packages(prefix)
    assert expected <= {path.relative_to(installed) for path in installed.rglob('*')}


def test_training_stays_out(prefix: Path) -> None:
    assert not {'training', 'test', 'benchmarks'} & {path.name for path in site_packages(prefix).iterdir()}


PROGRAMS = ('kd_perception', 'detector_node', 'localizer_node', 'replay_node', 'scene_camera')


def test_every_program_is_found_by_ros2_run_and_on_the_path(prefix: Path) -> None:
    """pip and colcon put bin/ on the PATH; ros2 run looks in lib/."""
    for folder in (prefix / 'lib' / 'kd_perception', prefix / 'bin'):
        assert {path.name for path in folder.iterdir() if os.access(path, os.X_OK)} == set(PROGRAMS)


def environment_of(prefix: Path) -> dict[str, str]:
    """As the workspace's setup.bash, or an activated virtual environment, sets it."""
    return {
        **os.environ,
        'PATH': f'{prefix / "bin"}:{os.environ["PATH"]}',
        'PYTHONPATH': f'{site_packages(prefix)}:{os.environ.get("PYTHONPATH", "")}',
        'AMENT_PREFIX_PATH': f'{prefix}:{os.environ["AMENT_PREFIX_PATH"]}',
        'PYTHONUNBUFFERED': '1',
    }


@pytest.mark.parametrize('folder', ['bin', 'lib/kd_perception'])
def test_the_command_line_runs_what_is_installed(prefix: Path, tmp_path: Path, folder: str) -> None:
    command = [prefix / folder / 'kd_perception', 'bundle', 'show', 'aerial_traffic']
    ran = subprocess.run(
        command, env=environment_of(prefix), cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stderr
    assert str(prefix / 'share' / 'kd_perception' / 'models') in ran.stdout


@pytest.mark.parametrize('signals', [1, 2])
@pytest.mark.parametrize('executable', ['detector_node', 'scene_camera'])
def test_executable_of_ros2_run_starts_and_ends(prefix: Path, tmp_path: Path, executable: str, signals: int) -> None:
    """With a second signal while it ends, as Ctrl-C under ros2 launch gives."""
    command = prefix / 'lib' / 'kd_perception' / executable
    name = f'{prefix.name}_{executable}_{signals}'.replace('-', '_')
    process = subprocess.Popen(
        [command, '--ros-args', '-r', f'__node:={name}'],
        env=environment_of(prefix), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for_node(name)
        process.send_signal(signal.SIGINT)
        if signals > 1:
            assert process.stdout is not None
            process.stdout.readline()  # the frame counters: it is ending now
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == 0
        assert 'Traceback' not in process.communicate()[1]
    finally:
        process.kill()


def wait_for_node(name: str) -> None:
    """Wait until the node of that name has joined the graph."""
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context)
    observer = rclpy.create_node('observer', context=context)
    try:
        deadline = time.monotonic() + PATIENCE
        while name not in observer.get_node_names():
            assert time.monotonic() < deadline, f'{name} did not start'
            time.sleep(0.05)
    finally:
        observer.destroy_node()
        context.try_shutdown()
