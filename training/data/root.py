"""Where the data sets lie."""

from __future__ import annotations

import os
from pathlib import Path

from training.errors import RecipeError


def data_root(given: Path | None) -> Path:
    """The folder with the data sets: the one given, else `$KD_DATA`, else `../shared/data`.

    Raises:
        RecipeError: it does not exist.
    """
    root = given or _usual_root()
    if not root.is_dir():
        raise RecipeError(f'no data at {root}: give --data FOLDER or set KD_DATA')
    return root


def data_set(named: Path, given_root: Path | None) -> Path:
    """A data set as people name one on the command line: its folder, or its name in the data root.

    Raises:
        RecipeError: it is no folder with `images`, and there is no data root.
    """
    return named if (named / 'images').is_dir() else data_root(given_root) / named


def source_folder(named: Path) -> Path:
    """A folder of any format as people name one: itself, or its name in the data root; where neither is one, itself."""
    in_root = _usual_root() / named
    return in_root if in_root.is_dir() and not named.exists() else named


def _usual_root() -> Path:
    return Path(os.environ.get('KD_DATA') or '../shared/data')
