"""`python -m training study int8`: networks in INT8 by every arm."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.commands import add_dataset, add_places, declare
from training.run.overrides import add_overrides

EPILOG = """\
Every network is quantized by every arm and measured through the runtime that the robot uses. Each cell is kept as it ends: the
same command goes on with what is missing, and so does one with more networks, seeds or arms.

arms: fp32, then min-max with one thing changed each, last convolutions in INT8 too: per_tensor, per_channel, entropy, percentile;
with these in float: head_float, percentile_head_float, mixed (more layers in float, by measured sensitivity), qat (given weights)
simulated, only where named: w6a6, w5a5 (weights and activations of 6 or 5 bits), w6a6_per_tensor, w5a5_per_tensor

A network is a bundle, or an arm of a recipe's paired study: NAME=RECIPE.yaml stands for the cells NAME of that study, one network
for each of --seeds.

examples:
  python -m training study int8 aerial_traffic --networks shipped=models/aerial_traffic
  python -m training study int8 my_photos --networks teacher=models/large student@0=models/s0 student@1=models/s1 \\
    distilled@0=models/d0 distilled@1=models/d1 --baseline student --report docs/results/int8.md
  python -m training study int8 aerial_traffic --networks teacher=models/aerial_traffic alone=training/recipes/s3_aerial.yaml \\
    distilled=training/recipes/s3_aerial.yaml --seeds 0 1 2 --qat-stage tuned --baseline alone
  python -m training study int8 my_photos --networks mine=models/mine --qat mine=out/qat/weights.pt --arms head_float qat
  python -m training study int8 my_photos --networks mine=models/mine --dry-run      what is done and what would be run
"""


def add_int8(kinds: Any) -> None:
    """Declare `study int8`."""
    text = 'networks in INT8 by every arm: mAP, precision at a recall, false alarms, calibration error'
    parser = declare(kinds, 'int8', text, EPILOG)
    add_dataset(parser)
    parser.add_argument(
        '--networks',
        nargs='+',
        required=True,
        metavar='NAME[@SEED]=BUNDLE|RECIPE.yaml',
        help="bundles with an fp32 artifact, or arms of a recipe's study",
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='of arms; 0 1 2 by default')
    add_overrides(parser, 'change an entry of the recipes, as their studies were run')
    parser.add_argument(
        '--qat', nargs='+', default=[], metavar='NAME[@SEED]=WEIGHTS', help="QAT's weights, begun at that fp32 artifact"
    )
    parser.add_argument(
        '--qat-stage', metavar='STAGE', help='of the recipes: whose weights these are; trained where that was not done'
    )
    parser.add_argument('--baseline', metavar='NAME', help='with which networks are compared; the first by default')
    parser.add_argument(
        '--arms', nargs='+', default=[], metavar='ARM', help='all but the simulated by default; fp32 always joins'
    )
    parser.add_argument('--images', type=int, default=64, help='calibration images; %(default)s by default')
    parser.add_argument(
        '--recall', type=float, default=0.9, help='for precision and false alarms; %(default)s by default'
    )
    parser.add_argument('--mixed-layers', type=int, default=6, metavar='N', help='most of them; %(default)s by default')
    parser.add_argument('--split', default='val', help='that is measured; val by default')
    parser.add_argument('--workers', type=int, help='cells at a time: physical cores by default; 0 uses this process')
    parser.add_argument(
        '--cell-threads', type=int, metavar='N', help="a cell's CPU threads; cores / workers by default"
    )
    parser.add_argument('--confidence', type=float, default=0.95, help='of the intervals; %(default)s by default')
    parser.add_argument(
        '--report', type=Path, metavar='FILE.md', help="the page; int8.md in the study's folder by default"
    )
    parser.add_argument('--dry-run', action='store_true', help='only say what is done and what is missing')
    add_places(parser)
    parser.set_defaults(command=_run, threads=1)


def _run(options: argparse.Namespace) -> int:
    from training.study.int8_page import run_int8

    return run_int8(options)
