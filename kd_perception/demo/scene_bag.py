"""`kd_perception scene`: a synthetic flight as a bag, with ground truth, for evaluate, RViz or `ros2 bag play`."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_perception.core.errors import KdPerceptionError
from kd_perception.scene import CLASS_NAMES, Scene, SceneSettings, draw_settings

_FIRST_STAMP = 1_000_000_000  # ns; a stamp of 0 would say that nobody stamped the image


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `scene`."""
    parser = commands.add_parser(
        'scene',
        help='write a synthetic drone flight over traffic as a bag with ground truth',
        description='Topics: /image, /ground_truth and /ground_truth/label_info. The same arguments give the same images.',
        epilog='example: kd_perception scene flight && kd_perception evaluate flight',
    )
    add = parser.add_argument
    add('bag', type=Path, help='folder of the bag to make')
    add('--frames', type=int, default=300, help='default: %(default)s')
    add('--fps', type=float, default=30.0, help='default: %(default)s')
    add('--width', type=int, default=640, help='default: %(default)s')
    add('--height', type=int, default=480, help='default: %(default)s')
    add('--seed', type=int, default=0, help='the place (default: %(default)s)')
    add('--any', action='store_true', help='draw camera, light and traffic from the seed too, not only the place')
    add('--jpeg', action='store_true', help='compressed images on /image/compressed instead')
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the bag."""
    try:
        from tqdm import tqdm

        from kd_perception.evaluation.bag_writer import BagWriter
    except ImportError as error:
        raise KdPerceptionError(f"writing bags needs the extra 'demo' ({error}): pip install '.[demo]'") from error
    try:
        settings = draw_settings(arguments.seed) if arguments.any else SceneSettings()
        scene = Scene(arguments.seed, arguments.width, arguments.height, arguments.fps, settings)
    except ValueError as error:
        raise KdPerceptionError(str(error)) from error
    with BagWriter(arguments.bag) as bag:
        bag.label_info('/ground_truth/label_info', _FIRST_STAMP, CLASS_NAMES)
        for k in tqdm(range(arguments.frames), unit=' frames'):
            frame = scene.frame(k)
            stamp = _FIRST_STAMP + round(frame.stamp * 1e9)
            if arguments.jpeg:
                bag.jpeg('/image/compressed', stamp, frame.image)
            else:
                bag.image('/image', stamp, frame.image)
            bag.detections('/ground_truth', stamp, frame.truth)
    print(f'{arguments.bag}: {arguments.frames} frames of {arguments.width}×{arguments.height}')
    return 0
