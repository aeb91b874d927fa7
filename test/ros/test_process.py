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
