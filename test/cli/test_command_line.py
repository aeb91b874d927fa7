"""The command line as a whole."""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from detector_process import REPOSITORY
from networks import make_bundle
from patience import PATIENCE

from kd_perception.bundles.bundle import load_bundle
from kd_perception.cli import console, main


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
        cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.startswith('kd_perception: ')


@pytest.mark.parametrize('words', [['bundle', 'show', 'aerial_traffic'], ['--help'], ['bag', '--help'], ['--version']])
def test_a_reader_that_leaves_early_is_no_error(words):
    """`… | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        [sys.executable, '-m', 'kd_perception', *words],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    os.close(writer)
    # argparse forgives it by itself where Python does not buffer
    assert (ran.returncode in (0, console.BROKEN_PIPE), ran.stderr) == (True, '')


def test_a_bundle_is_whole_also_when_nobody_reads_what_is_said_of_it(tmp_path):
    network = make_bundle(tmp_path / 'bright_cells')
    model = network.folder / network.artifacts[0].file
    made = f'{sys.executable} -m kd_perception bundle create {model} --classes a,b --out {tmp_path / "made"} | true'
    ran = subprocess.run(['bash', '-c', made], stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert (ran.returncode, ran.stderr) == (0, '')
    assert load_bundle(tmp_path / 'made').classes == ('a', 'b')


def test_a_closed_stdout_is_no_error():
    ran = subprocess.run(
        ['bash', '-c', f'{sys.executable} -m kd_perception bundle show aerial_traffic >&-'],
        stderr=subprocess.PIPE, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, '')
