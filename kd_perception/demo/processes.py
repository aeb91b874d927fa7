"""The demo's child processes: started with a log file each, watched, and always ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from kd_perception.errors import KdPerceptionError
from kd_perception.ros.large_messages import allow_large_messages

_LAST_LINES = 15
_PATIENCE = 5.0  # seconds between SIGINT and SIGKILL


class ChildError(KdPerceptionError):
    """A child process that ended before it should; holds the end of its log."""


class Child:
    """A node in a process and a session of its own, so that Ctrl-C reaches it through us alone.

    Args:
        module: what `python -m` runs.
        parameters: ROS parameters by name.
        remap: rules such as `__ns:=/name`.
        log: file that takes all its output.
    """

    def __init__(self, module: str, parameters: dict[str, Any], remap: list[str], log: Path) -> None:
        self._name = module.rpartition('.')[2]
        self._log = log
        command = [sys.executable, '-m', module, '--ros-args']
        for rule in remap:
            command += ['-r', rule]
        for name, value in parameters.items():
            command += ['-p', f'{name}:={_ros_text(value)}']
        with log.open('wb') as stream:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def finished(self) -> bool:
        """Whether it ended well.

        Raises:
            ChildError: it ended badly.
        """
        status = self._process.poll()
        if status:
            raise ChildError(f'{self._name} ended with status {status}; the end of {self._log}:\n{self._tail()}')
        return status == 0

    def check_alive(self) -> None:
        """Raise ChildError if it ended, well or badly."""
        if self.finished():
            raise ChildError(f'{self._name} ended too early; the end of {self._log}:\n{self._tail()}')

    def stop(self) -> None:
        """End it with SIGINT, as a user would; with SIGKILL if that does not help."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tail(self) -> str:
        lines = self._log.read_text(errors='replace').splitlines()[-_LAST_LINES:]
        return '\n'.join(f'  {line}' for line in lines) or '  (nothing)'


def prepare_environment() -> None:
    """Set what this process and its children need before rclpy starts; what the user set is kept."""
    environment = os.environ
    # Two demos on one machine must not hear each other; Linux has room for the ports of domains 0 to 101.
    environment.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 101))
    environment.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    # Inference threads that spin would take the cores from the camera and the recorder.
    environment.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    # The ROS 2 wheels do not set it, and a sourced ROS 2 does not know of the virtual environment.
    environment['AMENT_PREFIX_PATH'] = os.pathsep.join(filter(None, [sys.prefix, environment.get('AMENT_PREFIX_PATH')]))
    allow_large_messages()


def _ros_text(value: Any) -> str:
    """A value as --ros-args reads it; text is quoted so that a name such as 2024 or yes stays text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value)
