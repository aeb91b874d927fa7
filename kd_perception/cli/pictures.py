"""The command line's pictures: `--picture`, once or more often."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kd_perception.errors import ImageError, KdPerceptionError
from kd_perception.regular_file import shown

if TYPE_CHECKING:
    from kd_perception.detection.image import BgrImage


def add_picture(parser: argparse.ArgumentParser, help: str) -> None:
    """Add `--picture`."""
    parser.add_argument(
        '--picture', type=Path, action='append', default=[], help=f'{help}; several times for several pictures'
    )


def read_pictures(paths: list[Path]) -> dict[str, BgrImage]:
    """Path → image, upright, BGR.

    Raises:
        KdPerceptionError: one cannot be read; the message names it.
    """
    from kd_perception.bags.sources import read_image

    pictures = {}
    for path in paths:
        try:
            pictures[str(path)] = read_image(path)
        except ImageError as error:
            raise KdPerceptionError(f'--picture {shown(path)}: {error}') from error
    return pictures
