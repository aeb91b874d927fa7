"""`kd_perception demo`: the detector node at work, camera to recorder."""

from __future__ import annotations

import argparse
import sys

from kd_perception.demo.options import add_arguments, from_arguments


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `demo`."""
    demo = commands.add_parser(
        'demo',
        help='show the detector node at work: camera, detector and recorder over DDS',
        description='Leaves an annotated video, a contact sheet, summary.json and both logs in the output folder.',
        epilog='example: kd_perception demo --model models/aerial_traffic_small --frames 150 --out out/small',
    )
    add_arguments(demo)
    demo.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from kd_perception.demo.run import run

    options = from_arguments(arguments)
    try:
        summary, headlines = run(options)
    except KeyboardInterrupt:
        print(f'kd_perception: interrupted; what was recorded is in {options.out}', file=sys.stderr)
        return 130
    print(f'\n{summary}\n\n  {options.out}: annotated.mp4, contact_sheet.png, summary.json\n')
    print('\n'.join(headlines))
    return 0
