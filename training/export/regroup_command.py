"""`python -m training regroup`: coarser classes for a finished bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.commands import declare

EPILOG = """\
example:
  python -m training regroup models/mine --class-map truck=large_vehicle bus=large_vehicle

The score of a class is then the best of those that it covers. Nothing is trained, and nothing that was measured holds any more:
measure the bundle anew with `python -m training measure BUNDLE DATASET --precision fp32 --write`, then the other precisions.
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command."""
    parser = declare(commands, 'regroup', 'let a bundle of our exporter report coarser classes', EPILOG)
    parser.add_argument('bundle', type=Path, help='folder of the bundle; its files are written anew')
    parser.add_argument(
        '--class-map',
        metavar='OLD=NEW',
        nargs='+',
        required=True,
        help='the new class by an old one, or a YAML file of such lines',
    )
    parser.set_defaults(command=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Write it, say what it reports now."""
    from training.data.class_rules import read_class_map
    from training.export.regrouping import regroup

    bundle = regroup(options.bundle, read_class_map(options.class_map))
    print(f'{bundle.folder}: {", ".join(bundle.classes)}; measure it anew')
    return 0
