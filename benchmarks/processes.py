"""What benchmarks of nodes have in common: camera, detector and listener, each running for the length of a block."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import rclpy
from rclpy.node import Node

from kd_perception.ros.spinning import spinning

PATIENCE = 120.0
"""Seconds that the first detections may take."""

N = TypeVar('N', bound=Node)


def detector_command(settings: Mapping[str, Any]) -> list[str]:
    """How our node is started with some parameters; it measures what is asked for, whatever accuracy that lost."""
    command = [sys.executable, '-m', 'kd_perception.ros.start_detector', '--ros-args', '--log-level', 'warn']
    for name, value in {'autostart': 'true', 'max_map_drop': 1.0, **settings}.items():
        command += ['-p', f'{name}:={value}']
    return command


@contextlib.contextmanager
def running(command: list[str], stdout: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """A process that ends, if need be by force, with the block."""
    process = subprocess.Popen(command, stdout=stdout, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def camera(size: tuple[int, int], rate: float) -> Iterator[subprocess.Popen[str]]:
    """`benchmarks.camera`, sending when the block begins."""
    width, height = map(str, size)
    command = [sys.executable, '-m', 'benchmarks.camera', '--width', width, '--height', height, '--rate', str(rate)]
    with running(command, subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline().strip() != 'ready':
            raise RuntimeError('the camera did not start')
        yield process


def end_camera(process: subprocess.Popen[str]) -> int:
    """Stop it; returns how many frames it has sent."""
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    return int(json.loads(output.strip().splitlines()[-1])['sent'])


@contextlib.contextmanager
def spun(make: Callable[[], N]) -> Iterator[N]:
    """A node of this process, with ROS for the length of the block."""
    rclpy.init()
    try:
        with spinning(make()) as node:
            yield node
    finally:
        rclpy.try_shutdown()


def wait_for_answer(has_come: Callable[[], object], process: subprocess.Popen[str], name: str) -> None:
    """Until a detector's first answer; raises RuntimeError where it ends before, or none comes."""
    deadline = time.monotonic() + PATIENCE
    while not has_come():
        if process.poll() is not None:
            raise RuntimeError(f'{name} ended with status {process.returncode} before its first answer')
        if time.monotonic() > deadline:
            raise RuntimeError(f'{name} gave no answer within {PATIENCE:.0f} s; it may say why on stderr')
        time.sleep(0.002)
