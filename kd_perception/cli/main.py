"""`kd_perception <command>`: the package's command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from kd_perception import __version__
from kd_perception.cli import bag, benchmark, build, bundle, compare, demo, detect, doctor, evaluate, replay, select
from kd_perception.errors import KdPerceptionError
from kd_perception.regular_file import printable, shown, why


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; an error of ours is one line on stderr and exit status 1."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except KdPerceptionError as error:
        print(f'kd_perception: {printable(error)}', file=sys.stderr)
    except BrokenPipeError:
        raise
    except (OSError, RuntimeError) as error:  # of a path that somebody gave: too long, a loop, not ours to write to
        if isinstance(error, RuntimeError) and not str(error).startswith('Symlink loop'):
            raise
        place = getattr(error, 'filename', None) or 'a path'
        print(f'kd_perception: {shown(place)} cannot be used: {why(error)}', file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='kd_perception',
        description='Compressed object detectors on a robot, with every frame accounted for.',
        epilog='The node itself: ros2 launch kd_perception detector.launch.py',
    )
    parser.add_argument('--version', action='version', version=__version__)
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    bundle.add_command(commands)
    bag.add_commands(commands)
    evaluate.add_command(commands)
    compare.add_command(commands)
    detect.add_command(commands)
    replay.add_command(commands)
    doctor.add_command(commands)
    benchmark.add_command(commands)
    select.add_command(commands)
    build.add_command(commands)
    demo.add_command(commands)
    return parser


if __name__ == '__main__':
    sys.exit(main())
