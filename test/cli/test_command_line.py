"""The command line as a whole."""

import argparse
import subprocess
import sys
from collections.abc import Iterator

import pytest
from detector_process import REPOSITORY

from kd_perception.cli import main


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """All commands and actions below a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command
                yield from commands(command)


@pytest.mark.parametrize('command', list(commands(main._parser())), ids=lambda command: command.prog)
def test_every_help_ends_with_an_example(command):
    assert command.prog.split()[1] in (command.epilog or '')
    assert 'kd_perception ' in command.epilog
    assert command.format_help()


def test_a_checkout_runs_without_being_installed():
    ran = subprocess.run(
        [sys.executable, '-m', 'kd_perception', 'bundle', 'show', 'no_such_bundle'],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.startswith('kd_perception: ')
