"""What the console scripts start. What is missing, or ends a program from outside, is one line, never a traceback."""

from __future__ import annotations

# No more than this: a signal while modules are imported here would still be a traceback.
import importlib
import os
import signal
import sys
from collections.abc import Callable

INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE


def kd_perception() -> int:
    """The command line."""
    return run('kd_perception', 'kd_perception.cli.main')


def detector_node() -> int:
    """The lifecycle node."""
    return run('detector', 'kd_perception.ros.start_detector', interrupted=0)


def replay_node() -> int:
    """The node that plays a bag."""
    return _run_node('replay', 'kd_perception.ros.replay', 'nothing played')


def localizer_node() -> int:
    """The node that makes positions of boxes."""
    return _run_node('localizer', 'kd_perception.ros.localizer_node', '0 of 0 frames published')


def scene_camera() -> int:
    """The synthetic camera."""
    return _run_node('scene_camera', 'kd_perception.ros.scene_camera', '0 frames published')


def run(name: str, module: str, interrupted: int = INTERRUPTED) -> int:
    """Import a program's module, so that what it lacks is said as well, and run its `main`. Arguments as of `guard`."""
    return guard(name, lambda: int(importlib.import_module(module).main()), interrupted)


def _run_node(name: str, module: str, last_words: str) -> int:
    """Run a node's program. It obeys signals before its imports, where KeyboardInterrupt would become any error of a library."""
    from kd_perception.ros.process import end_at_once_on_signals

    end_at_once_on_signals(f'{name}: {last_words}')
    return run(name, module, interrupted=0)


def guard(name: str, program: Callable[[], int], interrupted: int = INTERRUPTED) -> int:
    """Run a program; returns the exit status.

    Args:
        name: what its messages begin with.
        program: whatever it imports may be missing.
        interrupted: the exit status where SIGINT ends it.
    """
    try:
        try:
            return program()
        finally:
            print(end='', flush=True)  # here, where a broken pipe is caught, and not at the interpreter's end
    except ImportError as error:
        if _is_of_an_interrupt(error):
            return interrupted
        if (error.name or '').partition('.')[0] == 'kd_perception':
            raise
        from kd_perception.cli.missing_packages import lack

        print(f'{name}: {lack(error)}', file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever reads our output has seen enough (`… | head`); what is still buffered must not fail at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return interrupted


def _is_of_an_interrupt(error: BaseException | None) -> bool:
    """Whether KeyboardInterrupt is behind an error: the start of a library written in C makes "initialization failed" of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
