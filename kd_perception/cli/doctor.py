"""`kd_perception doctor`: the report on terminal or as JSON, and an engine's self-test."""

from __future__ import annotations

import argparse
import json
import os
import sys

from kd_perception.bundles.bundle import find_bundle, installed_bundles, load_bundle
from kd_perception.cli.detector_options import image_size
from kd_perception.cli.pictures import add_picture, read_pictures
from kd_perception.doctor import bundles, engine_setup, machine, ros_setup
from kd_perception.doctor.findings import Finding, Level, as_json, render, worst


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `doctor`."""
    parser = commands.add_parser(
        'doctor',
        help='check machine, ROS 2, engines and bundles, and say what to do',
        description=(
            'Looks at this machine, its ROS 2, its engines and its model bundles. Every line is green (✔), yellow (!: look '
            'at it) or red (✘: repair it), and what is not green says what to do. Changes nothing.'
        ),
        epilog=(
            'Exit status: 0, or 1 when something is red. Examples: '
            'kd_perception doctor --image 1920x1080 · '
            'kd_perception doctor --json · '
            'kd_perception doctor --self-test tensorrt --model aerial_traffic'
        ),
    )
    parser.add_argument(
        '--image',
        type=image_size,
        default=(1280, 720),
        metavar='WIDTHxHEIGHT',
        help="size of the camera's images, which must fit through the middleware (default: 1280x720)",
    )
    parser.add_argument('--model', help='bundle to look at: folder or name (default: all that are installed)')
    parser.add_argument(
        '--self-test',
        metavar='ENGINE',
        help='load the bundle on this engine, compare with FP32 on ONNX Runtime, and time it',
    )
    add_picture(parser, 'for --self-test: a photograph of what the bundle detects, in place of synthetic scenes')
    parser.add_argument('--json', action='store_true', help='for other programs and for bug reports')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Look, print, and judge."""
    if options.self_test:
        return _self_test(options)
    sections = examine(options.image, options.model)
    if options.json:
        print(json.dumps(as_json(sections), indent=1, ensure_ascii=False))
    else:
        print(render(sections, color=sys.stdout.isatty() and 'NO_COLOR' not in os.environ))
    return 1 if worst(sections) == Level.RED else 0


def examine(image: tuple[int, int], model: str | None = None) -> dict[str, list[Finding]]:
    """Look at everything.

    Args:
        image: width and height of the camera's images.
        model: one bundle; None looks at all that are installed.
    """
    here = machine.Machine()
    by_name = {folder.name: folder for folder in reversed(installed_bundles())}
    folders = [find_bundle(model)] if model else [by_name[name] for name in sorted(by_name)]
    return {
        'Machine': machine.check(here),
        'ROS 2': ros_setup.check(here, os.environ, image),
        'Engines': engine_setup.check(here.kind),
        'Bundles': bundles.check(folders),
    }


def _self_test(options: argparse.Namespace) -> int:
    from kd_perception.doctor.self_test import self_test

    pictures = list(read_pictures(options.picture).values())
    bundle = load_bundle(find_bundle(options.model or 'aerial_traffic'))
    result = self_test(options.self_test, bundle, lambda line: print(line, file=sys.stderr), pictures)
    print(json.dumps(result.as_json(), indent=1, ensure_ascii=False) if options.json else result.text())
    return 0 if result.passed else 1
