"""A node spun in a thread of its own, beside whatever the program does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from rclpy.exceptions import InvalidHandle
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

N = TypeVar('N', bound=Node)


def spin(executor: Executor) -> None:
    """Execute callbacks until the executor, or ROS, is shut down.

    rclpy's executor fails with InvalidHandle where another thread destroys a publisher, say, that it is about to wait for.
    It is spun on with what is left.
    """
    with suppress(ExternalShutdownException):
        while _fails_for_what_is_destroyed(executor):
            pass


def _fails_for_what_is_destroyed(executor: Executor) -> bool:
    try:
        executor.spin()
    except InvalidHandle:
        return True
    return False


@contextmanager
def spinning(node: N) -> Iterator[N]:
    """Spin a node in its context, end and destroy it at the exit."""
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    thread = threading.Thread(target=spin, args=(executor,), name=f'{node.get_name()}_spinning', daemon=True)
    thread.start()
    try:
        yield node
    finally:
        executor.shutdown()
        thread.join(5.0)
        node.destroy_node()
