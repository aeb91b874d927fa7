"""Our programs in processes of their own, forked from one that has imported already what takes each of them a second."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from patience import PATIENCE

_FORKS = multiprocessing.get_context('forkserver')
_FORKS.set_forkserver_preload(['kd_perception.ros.detector_node', 'kd_perception.ros.localizer_node'])


class Program:
    """A running `main()` with an interface like that of `subprocess.Popen`; its end leaves out only that of the interpreter.

    Attributes:
        pid: of its process.
    """

    def __init__(self, module: str, arguments: Sequence[str], out: Path, errors: Path | None = None) -> None:
        """Start it.

        Args:
            module: whose `main` it is.
            arguments: behind the program's name.
            out: takes what it prints.
            errors: takes its standard error; None sends that to `out` too.
        """
        for file in filter(None, (out, errors)):
            file.touch()  # for those who look before it runs
        given = (module, list(arguments), out, errors, dict(os.environ))
        self._process = _FORKS.Process(target=_run, args=given, daemon=True)
        self._process.start()
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit status; minus a signal's number where that was its end; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit status, when it comes."""
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout)
        return status

    def send_signal(self, number: int) -> None:
        """As `kill` does it."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()


def run_program(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder) / 'out', Path(folder) / 'errors'
        program = Program(module, arguments, out, errors)
        try:
            status = program.wait()
        finally:
            program.kill()
        return subprocess.CompletedProcess([module, *arguments], status, out.read_text(), errors.read_text())


def _run(module: str, arguments: list[str], out: Path, errors: Path | None, environment: dict[str, str]) -> None:
    """In the forked process."""
    os.environ.clear()
    os.environ.update(environment)
    sys.stdout.flush()
    for descriptor, path in ((1, out), (2, errors)):
        if path is not None:
            with path.open('wb') as stream:
                os.dup2(stream.fileno(), descriptor)
    if errors is None:
        os.dup2(1, 2)
    sys.argv = [module, *arguments]
    try:
        sys.exit(import_module(module).main())
    finally:
        gc.collect()  # as an interpreter does at its end: ROS's shared memory goes with the last of its objects
