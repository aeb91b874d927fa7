"""The command line's options that name a detector."""

from __future__ import annotations

import argparse

from kd_perception.detection.thresholds import SUPPRESSIONS
from kd_perception.detection.tiles import OFF, OVERLAP


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """Add --bundle, --engine, --precision, --threads, --tiles, --tile-overlap and --suppression."""
    parser.add_argument('--bundle', default='aerial_traffic', help='folder or name (default: %(default)s)')
    parser.add_argument(
        '--engine',
        default='onnxruntime',
        help='onnxruntime, openvino, …, or auto: the fastest here for the most accurate artifact (default: %(default)s)',
    )
    parser.add_argument('--precision', default='auto', help='auto, fp32, int8, … (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=0, help='CPU threads of one inference; 0: all cores')
    parser.add_argument(
        '--tiles',
        default=OFF,
        metavar='GRID',
        help='see large images in overlapping tiles: off, COLUMNSxROWS such as 2x2, 2x2+whole for the whole image besides, '
        'auto for as many as show it at its own scale and the whole image (default: %(default)s)',
    )
    parser.add_argument(
        '--tile-overlap',
        type=float,
        default=OVERLAP,
        metavar='SHARE',
        help='least share of a tile that the next one shows too, 0 to 0.5 (default: %(default)s)',
    )
    add_suppression(parser, default='')


def add_suppression(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --suppression; empty is the bundle's."""
    parser.add_argument(
        '--suppression',
        choices=SUPPRESSIONS,
        default=default,
        help='which boxes NMS compares: those of one class, or all, so that no object is reported as two classes '
        f'(default: {default or "what the bundle says"})',
    )


def image_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT of an image."""
    width, _, height = text.partition('x')
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f'{text!r} is not WIDTHxHEIGHT, such as 640x640')
    return int(width), int(height)
