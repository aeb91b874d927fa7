"""The environment that every test runs in, set before anything imports rclpy, and where real data lies."""

import fcntl
import os
import signal
import sys
import tempfile
from importlib import util
from pathlib import Path
from typing import IO

import absent_packages
import pytest

from kd_perception.ros.large_messages import profile_variable

REPOSITORY = Path(__file__).resolve().parents[1]


def claim_domain() -> tuple[int, IO[str]]:
    """A ROS domain that no other test process on this machine uses, and the locked file that says so until this process ends."""
    for offset in range(101):
        # Linux has room for the ports of domains 0 to 101; 0 is the user's own.
        domain = 1 + (os.getpid() + offset) % 101
        claim = open(Path(tempfile.gettempdir()) / f'kd_perception_ros_domain_{domain}', 'w')  # noqa: SIM115
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            claim.close()
            continue
        return domain, claim
    raise RuntimeError('all 101 ROS domains are in use by other test processes')


# A shell that starts us in the background has SIGINT ignored, here and in all that we start; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Test processes beside each other must not hear each other.
DOMAIN, _CLAIM = claim_domain()
os.environ['ROS_DOMAIN_ID'] = str(DOMAIN)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
# Without this profile Fast DDS loses images above half a megabyte.
os.environ[profile_variable()] = str(REPOSITORY / 'config' / 'fastdds_shm.xml')
# The ROS 2 wheels do not set it, and a sourced ROS 2 does not know of the virtual environment.
os.environ['AMENT_PREFIX_PATH'] = os.pathsep.join(filter(None, [sys.prefix, os.environ.get('AMENT_PREFIX_PATH')]))
# Inference threads that spin would take the cores from the nodes under test.
os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'


# No time decides, however busy the machine is. tools/fuzz runs the tests that are marked `fuzz` with as many examples as it says.
if util.find_spec('hypothesis'):
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        'untimed',
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        max_examples=int(os.environ.get('KD_FUZZ_EXAMPLES', settings.default.max_examples)),
    )
    settings.load_profile('untimed')


@pytest.fixture(scope='session')
def repository() -> Path:
    """The checkout's root."""
    return REPOSITORY


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """The folder of real data: $KD_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get('KD_DATA') or REPOSITORY.parent / 'shared' / 'data')
    if folder.is_dir():
        return folder
    reason = f'no real data at {folder}: set KD_DATA to the folder that holds it'
    if os.environ.get('CI') == 'true':
        pytest.fail(reason)
    pytest.skip(reason)


def pytest_configure(config: pytest.Config) -> None:
    """Under `colcon test`, which installs nothing, a test of what is not there is skipped; elsewhere it fails."""
    if os.environ.get('COLCON') == '1':
        config.pluginmanager.register(absent_packages)
