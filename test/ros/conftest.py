"""Fixtures that start a real detector node in its own process, and clients that talk to it over real DDS."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from detector_process import Client, DetectorProcess
from networks import make_bundle
from rclpy.executors import SingleThreadedExecutor


@pytest.fixture(scope='session')
def _rclpy() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def make_client(_rclpy: None) -> Iterator[Callable[..., Client]]:
    """Make clients that spin in the background."""
    stops: list[Callable[[], None]] = []

    def make(name: str = 'client', **options: Any) -> Client:
        client, executor = Client(name, **options), SingleThreadedExecutor()
        executor.add_node(client)
        thread = threading.Thread(target=executor.spin, daemon=True)
        thread.start()

        def stop() -> None:
            executor.shutdown()
            thread.join(5.0)
            client.destroy_node()

        stops.append(stop)
        return client

    yield make
    for stop in stops:
        stop()


@pytest.fixture
def start_detector(make_client: Callable[..., Client], tmp_path: Path) -> Iterator[Callable[..., DetectorProcess]]:
    """Start detector processes; those still running at the end of the test are ended."""
    running: list[DetectorProcess] = []

    def start(
        model: Path | str | None = None,
        arguments: list[str] | None = None,
        client: dict[str, Any] | None = None,
        poison: int | None = None,
        **settings: Any,
    ) -> DetectorProcess:
        if model is None:
            make_bundle(tmp_path / 'bright_cells', poison)
            model = tmp_path / 'bright_cells'
        log = tmp_path / f'detector_{len(running)}.log'
        running.append(DetectorProcess(make_client(**(client or {})), log, model, arguments or [], **settings))
        return running[-1]

    yield start
    for detector in running:
        detector.stop()
