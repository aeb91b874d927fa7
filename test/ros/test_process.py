"""A node as a process notices signals, whichever thread the system gives them to."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

GIVEN_TO_ANOTHER_THREAD = """
import signal, sys, threading
from rclpy.node import Node
from kd_perception.ros import process


class Quiet(Node):
    def __init__(self):
        super().__init__('quiet')
        # The first signal comes when the main thread waits, and goes to a thread that does not run Python code.
        sleeper = threading.Thread(target=threading.Event().wait, daemon=True)
        sleeper.start()
        self.create_timer(0.2, lambda: signal.pthread_kill(sleeper.ident, int(sys.argv[1])))

    def accounts(self):
        return 'well ended'


sys.exit(process.run(Quiet, 'quiet', []))
"""


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_another_thread_is_given_ends_the_process(repository, how):
    command = [sys.executable, '-c', GIVEN_TO_ANOTHER_THREAD, str(int(how))]
    ended = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert 'quiet: well ended' in ended.stdout


IN_THE_WAKE = """
import os, signal, sys
import rclpy
from rclpy.node import Node
from kd_perception.ros import process


class Quiet(Node):
    def __init__(self):
        super().__init__('quiet')
        self.create_timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))

    def accounts(self):
        return 'well ended'


def as_rclpy_does():
    mine = signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, mine)


rclpy.uninstall_signal_handlers = as_rclpy_does
sys.exit(process.run(Quiet, 'quiet', []))
"""


def test_a_second_signal_while_ros_is_shut_down_does_not_kill_it(repository):
    """rclpy gives SIGINT back to the system for a moment, also where it has not taken it."""
    command = [sys.executable, '-c', IN_THE_WAKE]
    ended = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert 'quiet: well ended' in ended.stdout


AT_THE_IMPORT = """
import os, sys
class Stop:
    def find_spec(self, name, *_):
        if name == 'rclpy':
            os.kill(os.getpid(), int(sys.argv[2]))
sys.meta_path.insert(0, Stop())
from kd_perception.cli import console
sys.exit(getattr(console, sys.argv[1])())
"""


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('program', ['detector_node', 'localizer_node', 'replay_node', 'scene_camera'])
def test_a_signal_during_the_imports_of_a_node_ends_it_cleanly(repository, program, how):
    """KeyboardInterrupt in the start of a library written in C comes out as "initialization failed"."""
    command = [sys.executable, '-c', AT_THE_IMPORT, program, str(int(how))]
    ended = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, '')
    assert ended.stdout.startswith(program.removesuffix('_node'))


DESTROYED_BESIDE_THE_EXECUTOR = """
import os, signal, sys, threading
from rclpy import executors
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from std_msgs.msg import Header
from kd_perception.ros import process


class Unlucky(executors.SingleThreadedExecutor):
    def can_execute(self, entity):
        for node in self.get_nodes():
            if node.doomed in node.publishers and entity in node.doomed.event_handlers:
                other = threading.Thread(target=node.destroy_publisher, args=(node.doomed,))
                other.start()
                other.join()
        return super().can_execute(entity)


class Quiet(Node):
    def __init__(self):
        super().__init__('quiet')
        events = PublisherEventCallbacks(incompatible_qos=lambda _: None)
        self.doomed = self.create_publisher(Header, 'doomed', 1, event_callbacks=events)
        self.create_timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))

    def accounts(self):
        return 'well ended' if self.doomed not in self.publishers else 'nothing was destroyed'


executors.SingleThreadedExecutor = Unlucky
sys.exit(process.run(Quiet, 'quiet', []))
"""


def test_a_node_goes_on_when_another_thread_destroys_what_the_executor_is_about_to_wait_for(repository):
    """So does a configuring thread after a failure, with the publishers that it had made."""
    command = [sys.executable, '-c', DESTROYED_BESIDE_THE_EXECUTOR]
    ended = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert 'quiet: well ended' in ended.stdout
