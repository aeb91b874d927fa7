"""A node spun in a thread of its own, beside whatever the program does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

N = TypeVar('N', bound=Node)


@contextmanager
def spinning(node: N) -> Iterator[N]:
    """Spin a node in its context, end and destroy it at the exit."""
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)

    def spin() -> None:
        with suppress(ExternalShutdownException, InvalidHandle):  # wherever the shutdown comes in between
            executor.spin()

    thread = threading.Thread(target=spin, name=f'{node.get_name()}_spinning', daemon=True)
    thread.start()
    try:
        yield node
    finally:
        executor.shutdown()
        thread.join(5.0)
        node.destroy_node()
