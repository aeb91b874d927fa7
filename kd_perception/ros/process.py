"""A node as a process: it is spun until SIGINT or SIGTERM, says its last lines, and ends with status 0, whatever still hangs."""

from __future__ import annotations

import gc
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kd_perception.errors import KdPerceptionError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WAKE_PERIOD_S = 0.1
"""Longest time until a signal is noticed that another thread was given."""


def end_at_once_on_signals(last_words: str) -> None:
    """Until `run` takes over, a signal ends the process with status 0: imports take a second, in which nothing is lost."""

    def end(*_: Any) -> None:
        print(last_words, flush=True)
        os._exit(0)

    for number in SIGNALS:
        signal.signal(number, end)


def run(make_node: Callable[[], Any], name: str, args: list[str] | None = None) -> int:
    """Make a node and spin it until a signal, or until rclpy is shut down.

    Args:
        make_node: makes the node, whose `accounts()` are the last lines of the process.
        name: what stands before each of them.
        args: the process's arguments; None takes `sys.argv`.

    Returns:
        The exit status.
    """
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from kd_perception.ros.spinning import spin
    from kd_perception.ros.startup import start_node, start_ros

    # An event's lock is not for handlers: a second signal in the wake of the first would wait for it for ever.
    asked_to_end: queue.SimpleQueue[None] = queue.SimpleQueue()
    is_ending = threading.Event()
    for number in SIGNALS:
        signal.signal(number, lambda *_: asked_to_end.put(None))
    try:
        start_ros(args, signal_handler_options=SignalHandlerOptions.NO)
        node = start_node(make_node)
    except KdPerceptionError as error:
        print(f'{name}: {error}', file=sys.stderr)
        _shut_down()
        return 1
    failures: list[BaseException] = []

    def run_callbacks(executor: SingleThreadedExecutor) -> None:
        try:
            spin(executor)
        except BaseException as error:
            if rclpy.ok() and not is_ending.is_set():  # else something fails wherever the end came in between
                failures.append(error)
        asked_to_end.put(None)

    executor = SingleThreadedExecutor()
    executor.add_node(node)
    # The main thread does nothing but wait: there, every signal is obeyed at once, also the second one.
    spinning = threading.Thread(target=run_callbacks, args=(executor,), name='executor', daemon=True)
    spinning.start()
    _await(asked_to_end)
    is_ending.set()
    executor.shutdown(timeout_sec=0.5)
    spinning.join(0.5)
    node.destroy_node()
    for line in node.accounts().splitlines():
        print(f'{name}: {line}', flush=True)
    _shut_down()
    ignore_signals()
    # The middleware gives back its shared memory, 17 MB of /dev/shm, with the last object of the node; they are in a cycle.
    del node, executor, spinning
    gc.collect()
    if failures:
        raise failures[0]
    _end_despite_threads()
    return 0


def _shut_down() -> None:
    """End ROS, and leave the handlers as they are: rclpy sets the system's for a moment, in which a signal kills."""
    import rclpy

    rclpy.try_shutdown(uninstall_handlers=False)


def _await(asked_to_end: queue.SimpleQueue[None]) -> None:
    """Wait for an entry. The system may give a signal to any thread, which does not wake this one: it looks by itself."""
    while True:
        with suppress(queue.Empty):
            return asked_to_end.get(timeout=WAKE_PERIOD_S)


@contextmanager
def until_signal() -> Iterator[None]:
    """A block that the first SIGINT, as KeyboardInterrupt, leaves; what comes after it is not cut off by a second one."""
    try:
        yield
    except KeyboardInterrupt:
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)


def ignore_signals() -> None:
    """For the last moments of the process, in which Python has given back its handlers and a signal would be its end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end_despite_threads() -> None:
    """A thread in a library (a build, a stuck engine) would abort the interpreter's end."""
    if threading.active_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
