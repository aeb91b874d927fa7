"""The demo's options. Light to import: nothing of ROS is loaded before the demo really runs."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

DEFAULT_FRAMES = 450
"""Frames of a source without an end."""


@dataclass(frozen=True)
class DemoOptions:
    """What to show and where to leave the results.

    Attributes:
        source: video, folder of images or rosbag2; empty for a synthetic flight.
        topic: image topic of a bag; empty where it has only one.
        model: bundle folder or name.
        precision: artifact of the bundle to run, or auto.
        out: folder for the results.
        frames: how many to show; 0 takes the whole source, or DEFAULT_FRAMES of one without an end.
        duration: seconds to show, where `frames` is 0; 0 for no limit.
        fps: frames per second; 0 takes the source's own rate.
        width: of the synthetic flight, pixels.
        height: of the synthetic flight, pixels.
        seed: of the synthetic flight.
        threads: of the inference; 0 takes one per physical core.
        tracker: gives objects ids: bytetrack, or none.
    """

    source: str = ''
    topic: str = ''
    model: str = 'aerial_traffic'
    precision: str = 'auto'
    out: Path = Path('out/demo')
    frames: int = 0
    duration: float = 0.0
    fps: float = 0.0
    width: int = 640
    height: int = 480
    seed: int = 7
    threads: int = 0
    tracker: str = 'bytetrack'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the demo's options to a parser."""
    default = DemoOptions()
    add = parser.add_argument
    add('--source', default='', help='video, folder of images or rosbag2 (default: a synthetic flight over traffic)')
    add('--topic', default='', help='image topic of a bag that has several')
    add(
        '--model',
        default=default.model,
        help='bundle: a folder, or the name of an installed one (default: %(default)s)',
    )
    add('--precision', default=default.precision, help='artifact of the bundle to run (default: %(default)s)')
    add('--out', type=Path, default=default.out, help='folder for the results (default: %(default)s)')
    add('--frames', type=_not_negative, default=0, help='frames to show (default: the whole source, or 450)')
    add('--duration', type=float, default=0.0, help='seconds to show, instead of --frames')
    add('--fps', type=float, default=0.0, help="frames per second (default: the source's own rate)")
    add('--width', type=int, default=default.width, help='of the synthetic flight (default: %(default)s)')
    add('--height', type=int, default=default.height, help='of the synthetic flight (default: %(default)s)')
    add('--seed', type=int, default=default.seed, help='of the synthetic flight (default: %(default)s)')
    add(
        '--tracker',
        choices=('none', 'bytetrack'),
        default=default.tracker,
        help='give objects ids; none for pictures that do not follow one another (default: %(default)s)',
    )
    add('--threads', type=_not_negative, default=0, help='of the inference (default: one per physical core)')


def from_arguments(arguments: argparse.Namespace) -> DemoOptions:
    """The options of parsed arguments."""
    return DemoOptions(**{name: getattr(arguments, name) for name in DemoOptions.__dataclass_fields__})


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 0')
    return int(text)
