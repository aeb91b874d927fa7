"""How a recipe is changed from a command's outside."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.run.document import parse_overrides, rehearsal


def add_overrides(parser: argparse.ArgumentParser, changed: str = 'change an entry of the recipe') -> None:
    """Declare how a recipe is changed from outside; `overrides_of` reads it."""
    parser.add_argument('--set', metavar='NAME=VALUE', action='append', default=[], help=changed)
    parser.add_argument(
        '--rehearse',
        action='store_true',
        help="all of it at the size of the recipe's entry rehearsal: does it run through?",
    )


def overrides_of(options: argparse.Namespace, recipe: Path) -> dict[str, Any]:
    """What the options change in that recipe; `--set` has the last word.

    Raises:
        RecipeError: no `name=value`, or no rehearsal in the recipe.
    """
    return {**(rehearsal(recipe) if options.rehearse else {}), **parse_overrides(options.set)}
