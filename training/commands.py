"""What the commands of `python -m training` have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def declare(commands: Any, name: str, text: str, epilog: str) -> argparse.ArgumentParser:
    """Declare a command.

    Args:
        commands: of `ArgumentParser.add_subparsers`.
        text: its line in the list of commands, and the head of its own help.
        epilog: the foot of its own help, printed as it stands: examples.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return parser


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Declare the data set that a command works on; `training.data.root.data_set` finds it."""
    parser.add_argument('dataset', type=Path, help='folder with images/ and labels/, or its name in the data root')


def add_places(parser: argparse.ArgumentParser) -> None:
    """Declare where data are found and working files are left."""
    parser.add_argument('--data', type=Path, help='data root; $KD_DATA or ../shared/data by default')
    parser.add_argument('--out', type=Path, default=Path('out/training'), help='working files; %(default)s by default')
