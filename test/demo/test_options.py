"""How much the demo shows."""

import argparse
from itertools import repeat

import pytest

from kd_perception.demo.options import DEFAULT_FRAMES, DemoOptions, add_arguments, from_arguments
from kd_perception.demo.run import frames_to_show


class Source:
    """A source of `count` frames at 5 frames per second."""

    name = 'source'
    fps = 5.0

    def __init__(self, count: int | None) -> None:
        self.count = count

    def frames(self) -> repeat:
        return repeat(None)


@pytest.mark.parametrize(
    ('arguments', 'count', 'expected'),
    [
        ([], None, DEFAULT_FRAMES),
        ([], 24, 24),
        (['--frames', '10'], 24, 10),
        (['--frames', '100'], 24, 24),
        (['--frames', '100'], None, 100),
        (['--duration', '4'], None, 20),
        (['--duration', '4', '--fps', '10'], None, 40),
        (['--duration', '60'], 24, 24),
    ],
)
def test_frames_to_show(arguments: list[str], count: int | None, expected: int) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert frames_to_show(from_arguments(parser.parse_args(arguments)), Source(count)) == expected


def test_the_defaults_of_the_command_are_those_of_the_options() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert from_arguments(parser.parse_args([])) == DemoOptions()
