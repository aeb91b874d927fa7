"""Fixtures that start a real detector node in its own process, and clients that talk to it over real DDS."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import rclpy
from detector_process import Client, DetectorProcess, NodeInProcess, default_settings, wait_for
from networks import make_bundle
from rclpy.parameter import Parameter

from kd_perception.ros.detector_node import DetectorNode
from kd_perception.ros.spinning import spinning


@pytest.fixture(scope='session')
def _rclpy() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def make_client(_rclpy: None) -> Iterator[Callable[..., Client]]:
    """Make clients that spin in the background."""
    with ExitStack() as clients:

        def make(name: str = 'client', **options: Any) -> Client:
            client = Client(name, **options)
            clients.enter_context(spinning(client))
            return client

        yield make


@pytest.fixture
def start_detector(make_client: Callable[..., Client], tmp_path: Path) -> Iterator[Callable[..., DetectorProcess]]:
    """Start detector processes; those still running at the end of the test are ended."""
    running: list[DetectorProcess] = []

    def start(
        model: Path | str | None = None,
        arguments: list[str] | None = None,
        client: dict[str, Any] | None = None,
        poison: int | None = None,
        is_forked: bool = True,
        **settings: Any,
    ) -> DetectorProcess:
        if model is None:
            make_bundle(tmp_path / 'bright_cells', poison)
            model = tmp_path / 'bright_cells'
        log = tmp_path / f'detector_{len(running)}.log'
        speaker = make_client(**(client or {}))
        running.append(DetectorProcess(speaker, log, model, arguments or [], is_forked, **settings))
        return running[-1]

    yield start
    for detector in running:
        detector.stop()


@pytest.fixture
def start_node(make_client: Callable[..., Client], tmp_path: Path) -> Iterator[Callable[..., NodeInProcess]]:
    """Start nodes in this process."""
    with ExitStack() as nodes:

        def start(**settings: object) -> NodeInProcess:
            client = make_client()
            if 'model' not in settings:
                make_bundle(tmp_path / 'bright_cells')
                settings['model'] = str(tmp_path / 'bright_cells')
            given = {**default_settings(), **settings}
            overrides = [Parameter(name, value=value) for name, value in given.items()]
            node = nodes.enter_context(spinning(DetectorNode(parameter_overrides=overrides)))
            wait_for(lambda: client.camera.get_subscription_count() and client.vision, 'the node')
            wait_for(lambda: client.count_publishers('detections'), 'its publishers')
            return NodeInProcess(client, node)

        yield start
    gc.collect()  # a node is in a cycle, and in the graph until that is collected
