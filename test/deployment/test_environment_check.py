"""What is missing for an environment is said in one line that names what to install."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).resolve().parents[2] / 'tools' / 'check_environment'

# This Python under another version, or without the modules of a virtual environment.
PRETENDER = """#!/bin/sh
exec {python} -c 'import sys; sys.version_info = {version}; sys.modules.update({without}); exec(sys.argv[1])' "$2"
"""


def run(python: str, ros: str = 'wheels', **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(CHECK), python, ros],
        capture_output=True,
        text=True,
        env={'PATH': '/usr/bin:/bin', **environment},
        check=False,
    )


def pretender(folder: Path, version: tuple[int, int], without: tuple[str, ...] = ()) -> str:
    path = folder / 'python'
    missing = str(dict.fromkeys(without)).replace("'", '"')
    path.write_text(PRETENDER.format(python=sys.executable, version=version, without=missing))
    path.chmod(0o755)
    return str(path)


def test_nothing_is_said_where_nothing_is_missing() -> None:
    result = run(sys.executable, 'wheels' if sys.version_info >= (3, 11) else 'sourced')
    assert (result.returncode, result.stdout, result.stderr) == (0, '', '')


@pytest.mark.parametrize(
    ('version', 'without', 'ros', 'said'),
    [
        ((3, 9), (), 'wheels', 'install 3.11, 3.12 or 3.13'),
        ((3, 14), (), 'wheels', 'source a ROS 2'),
        ((3, 8), (), 'sourced', '3.10 or newer'),
        ((3, 12), ('ensurepip',), 'wheels', 'apt install python3.12-venv'),
    ],
)
def test_unfit_python(tmp_path: Path, version: tuple[int, int], without: tuple[str, ...], ros: str, said: str) -> None:
    result = run(pretender(tmp_path, version, without), ros)
    assert result.returncode == 1
    assert said in result.stderr
    assert result.stderr.count('\n') == 1


@pytest.mark.parametrize(
    ('environment', 'said'),
    [({'CC': 'no-such-cc'}, 'no C compiler'), ({'CXX': 'no-such-c++'}, 'no C++ compiler')],
)
def test_missing_compiler(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    result = run(pretender(tmp_path, (3, 12)), **environment)
    assert result.returncode == 1
    assert said in result.stderr
    assert 'apt install build-essential' in result.stderr


def test_missing_python() -> None:
    result = run('no-such-python')
    assert result.returncode == 1
    assert 'no no-such-python found' in result.stderr
