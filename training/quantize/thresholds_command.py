"""`python -m training thresholds`: the score threshold of each of a bundle's artifacts, by a rule."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.commands import add_dataset, declare

if TYPE_CHECKING:
    from training.quantize.thresholds import Rule

EPILOG = """\
examples:
  python -m training thresholds models/mine my_photos --match fp32
      INT8 finds as many objects as FP32 does at its threshold
  python -m training thresholds models/mine my_photos --recall 0.9 --split calibration
      every artifact the highest threshold that finds 90 % of the objects
  python -m training thresholds models/mine my_photos --false-alarms 0.5 --dry-run
      every artifact the lowest threshold with at most one wrong detection in two images; only shown

The split is detected with every artifact, through the runtime that the robot uses; the thresholds are written into bundle.yaml,
and node, evaluate and detect take them unless set otherwise. Figures on a split on which thresholds were chosen are no longer
independent of it: better choose on a split that neither trains nor measures.
"""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command."""
    text = "choose the score threshold of each of a bundle's artifacts by a rule, and write it into the bundle"
    parser = declare(commands, 'thresholds', text, EPILOG)
    parser.add_argument('bundle', type=Path, help='folder of the bundle')
    add_dataset(parser)
    parser.add_argument('--split', default='val', help='on which they are chosen; val by default')
    rule = parser.add_mutually_exclusive_group(required=True)
    rule.add_argument('--recall', type=float, metavar='SHARE', help='of the objects that is to be found, 0 … 1')
    rule.add_argument('--false-alarms', type=float, metavar='N', help='wrong detections per image, at most')
    rule.add_argument('--match', metavar='PRECISION', help='the recall that the artifact of this precision has')
    parser.add_argument('--dry-run', action='store_true', help='only show what would be written')
    parser.set_defaults(command=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Choose, show, write."""
    from kd_perception.bundles.bundle import load_bundle
    from training.data.root import data_set
    from training.quantize.thresholds import choose, table, write

    bundle, rule = load_bundle(options.bundle), rule_of(options)
    dataset = data_set(options.dataset, options.data)
    chosen = choose(bundle, rule, dataset, options.split, threads=options.threads)
    print(table(chosen.changes))
    for artifact in chosen.left:
        print(f'{artifact.engine}/{artifact.precision} keeps its threshold: the engine is not installed here')
    if options.dry_run:
        return 0
    command = (
        f'python -m training thresholds models/{bundle.name} {dataset.name} --split {options.split} {_given(options)}'
    )
    write(bundle, rule, chosen, f'{dataset.name}/{options.split}', command)
    print(f'written: {bundle.folder / "bundle.yaml"}')
    return 0


def rule_of(options: argparse.Namespace) -> Rule:
    """The rule that was given.

    Raises:
        QuantizationError: its value means nothing.
    """
    from training.quantize.thresholds import FalseAlarms, Match, Recall

    if options.recall is not None:
        return Recall(options.recall)
    return Match(options.match) if options.match else FalseAlarms(options.false_alarms)


def _given(options: argparse.Namespace) -> str:
    if options.recall is not None:
        return f'--recall {options.recall:g}'
    return f'--match {options.match}' if options.match else f'--false-alarms {options.false_alarms:g}'
