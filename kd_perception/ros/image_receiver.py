"""A subscription served by a thread of its own, which waits for nothing else."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node

LOOK_NS = 1_000_000_000
"""So often the thread looks by itself whether the process has ended."""


class NotByTheExecutor(CallbackGroup):
    """The group of what an executor leaves alone."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """It never began."""


class ImageReceiver:
    """Takes a subscription's messages as soon as they come.

    rclpy's executor builds the list of all that it waits for anew after every message, and looks through it when one comes:
    time in which an image waits. Here there is one thing to wait for. Events of the subscription stay with the executor.
    """

    def __init__(self, node: Node, subscription: Any, receive: Callable[..., None]) -> None:
        """Begin to receive.

        Args:
            node: the subscription's.
            subscription: of rclpy; the executor does not serve it any more.
            receive: called in this thread with a message and what rclpy knows of it.
        """
        self._node = node
        self._subscription = subscription
        self._receive = receive
        self._is_ending = False
        self._woken = node.create_guard_condition(_nothing, callback_group=NotByTheExecutor())
        subscription.callback_group = NotByTheExecutor()
        self._thread = threading.Thread(target=self._run, name='image_receiver', daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Receive nothing more; what is being received is through when this returns. To be called by another thread."""
        self._is_ending = True
        with suppress(InvalidHandle):
            self._woken.trigger()
        self._thread.join()
        self._node.destroy_guard_condition(self._woken)

    def _run(self) -> None:
        context, handle = self._node.context, self._subscription.handle
        try:
            with context.handle, handle, self._woken.handle:
                waited_for = rclpy_implementation.WaitSet(1, 1, 0, 0, 0, 0, context.handle)
                while not self._is_ending and context.ok():
                    waited_for.clear_entities()
                    waited_for.add_subscription(handle)
                    waited_for.add_guard_condition(self._woken.handle)
                    waited_for.wait(LOOK_NS)
                    if handle.pointer in waited_for.get_ready_entities('subscription') and not self._is_ending:
                        self._take()
        except InvalidHandle:  # its node, or ROS, went before it
            pass

    def _take(self) -> None:
        try:
            taken = self._subscription.handle.take_message(self._subscription.msg_type, self._subscription.raw)
            if taken is not None:
                self._receive(*taken)
        except Exception:
            if self._node.context.ok():
                line = f'image not taken:\n{traceback.format_exc()}'
                self._node.get_logger().error(line, throttle_duration_sec=5.0)


def _nothing() -> None:
    pass
