"""`kd_perception replay`: a bag's images, played to the live detector."""

from __future__ import annotations

import argparse
from dataclasses import fields

from kd_perception.ros.replay_options import ReplayOptions

EXIT_MISSING = 3
"""Exit status when stepping through the bag left images unanswered."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `replay`."""
    parser = commands.add_parser(
        'replay',
        help="publish a bag's images to the live detector, at their pace or one by one",
        description='Publishes the recorded images, byte for byte, on `image` (or `image/compressed`, as recorded).',
        epilog=(
            f'Exit status: 0 done, 1 error, {EXIT_MISSING} with --step if images were not answered. '
            'Example: kd_perception replay flight --step --image /drone/camera/image'
        ),
    )
    parser.add_argument('bag', help='folder, .mcap or .db3 file')
    for option in fields(ReplayOptions)[1:]:
        flag = f'--{option.name}'
        if option.default is False:
            parser.add_argument(flag, action='store_true', help=option.metadata['help'])
        else:
            text = option.metadata['help'] + ('' if option.default == '' else ' (default: %(default)s)')
            parser.add_argument(flag, type=type(option.default), default=option.default, help=text)
    parser.add_argument('--image', default='image', help='topic to publish (default: %(default)s)')
    parser.add_argument('--detections', default='detections', help='topic of the answers (default: %(default)s)')
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Replay the bag and say what became of its images."""
    options = ReplayOptions(**{option.name: getattr(arguments, option.name) for option in fields(ReplayOptions)})
    from tqdm import tqdm

    from kd_perception.bags.reader import open_bag
    from kd_perception.ros.process import until_signal
    from kd_perception.ros.replay import Replay, replay_node

    images = open_bag(options.bag, options.topic or None)
    remap = ['--ros-args', '-r', f'image:={arguments.image}', '-r', f'detections:={arguments.detections}']
    with (
        replay_node(remap) as node,
        tqdm(total=None if options.loop else images.count, unit='frame', disable=None, dynamic_ncols=True) as bar,
    ):
        player = Replay(node, images, options)
        with until_signal():
            player.play(bar.update)
    summary = player.summary()
    print(summary)
    return EXIT_MISSING if options.step and summary.missing else 0
