"""The environment that every test runs in, set before anything imports rclpy, and where real data lies."""

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Two test runs on one machine must not hear each other; Linux has room for the ports of domains 0 to 101.
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 101)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
# Without this profile Fast DDS loses images above half a megabyte.
os.environ['FASTDDS_DEFAULT_PROFILES_FILE'] = str(REPOSITORY / 'config' / 'fastdds_shm.xml')
# The ROS 2 wheels do not set it, and a sourced ROS 2 does not know of the virtual environment.
os.environ['AMENT_PREFIX_PATH'] = os.pathsep.join(filter(None, [sys.prefix, os.environ.get('AMENT_PREFIX_PATH')]))
# Inference threads that spin would take the cores from the nodes under test.
os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'


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
