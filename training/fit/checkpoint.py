"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from training.errors import FitError

NAME = 'checkpoint.pt'


def write(folder: Path, state: dict[str, Any]) -> None:
    """Replace the folder's checkpoint.

    Raises:
        FitError: it cannot be written; the one before stays.
    """
    target = folder / NAME
    part = target.with_suffix('.part')
    try:
        with part.open('wb') as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        kept = 'the checkpoint before it stays' if target.is_file() else 'there is none before it'
        raise FitError(f'{target} cannot be written: {error}; is the disk full? {kept}') from error


def read(folder: Path) -> dict[str, Any] | None:
    """The folder's checkpoint; None where there is none.

    Raises:
        FitError: there is one that cannot be read.
    """
    file = folder / NAME
    if not file.is_file():
        return None
    try:
        state = torch.load(file, map_location='cpu', weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        # torch's own words advise to read such files without care.
        reason = error.strerror if isinstance(error, OSError) else 'it is broken off or no checkpoint'
        raise FitError(f'{file} cannot be read: {reason}; remove it to start anew') from error
    if not isinstance(state, dict) or 'job' not in state:
        raise FitError(f'{file} cannot be read: it is no checkpoint of this trainer; remove it to start anew')
    return state
