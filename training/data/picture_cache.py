"""Decoded and scaled pictures that are kept, in memory or on disk, as many as a limit allows; no result depends on it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


class PictureCache(Protocol):
    """Keeps pictures by their number and file."""

    def __call__(self, index: int, file: Path, decode: Callable[[], Pixels]) -> Pixels:
        """The picture, kept or decoded."""
        ...


class NoCache:
    """Keeps nothing."""

    def __call__(self, index: int, file: Path, decode: Callable[[], Pixels]) -> Pixels:
        """See PictureCache."""
        return decode()


class InMemory:
    """Keeps the pictures that come first, until the limit is reached.

    A training shows all pictures equally often, in another order in each epoch: to replace old ones by new ones would keep no
    more of what comes next.

    Args:
        limit: bytes.

    Attributes:
        full: whether a picture found no room.
    """

    def __init__(self, limit: float) -> None:
        self._left = limit
        self._kept: dict[int, Pixels] = {}
        self.full = False

    def __call__(self, index: int, file: Path, decode: Callable[[], Pixels]) -> Pixels:
        """See PictureCache."""
        found = self._kept.get(index)
        if found is None:
            found = decode()
            if found.nbytes <= self._left:
                self._kept[index] = found
                self._left -= found.nbytes
            else:
                self.full = True
        return found


class OnDisk:
    """Keeps pictures as plain arrays in a folder, which processes and stages share.

    Args:
        folder: made when it is needed.
        size: to which pictures are scaled, in pixels.
        limit: bytes of the folder at most.
    """

    def __init__(self, folder: Path, size: int, limit: float) -> None:
        self._folder, self._size = folder, size
        self._left = limit - sum(file.stat().st_size for file in folder.glob('*.npy'))

    def __call__(self, index: int, file: Path, decode: Callable[[], Pixels]) -> Pixels:
        """See PictureCache."""
        kept = self._folder / f'{self._key(file)}.npy'
        with contextlib.suppress(OSError, ValueError):  # not there, or broken off: decoded anew
            found = np.load(kept, allow_pickle=False)
            if (
                found.dtype == np.uint8
                and found.ndim == 3
                and found.shape[2] == 3
                and max(found.shape[:2]) == self._size
            ):
                return np.asarray(found, np.uint8)
        image = decode()
        if image.nbytes <= self._left:
            self._left -= image.nbytes
            self._write(kept, image)
        return image

    def _key(self, file: Path) -> str:
        state = file.stat()
        return hashlib.sha256(
            f'{file.resolve()} {state.st_size} {state.st_mtime_ns} {self._size}'.encode()
        ).hexdigest()[:32]

    def _write(self, target: Path, image: Pixels) -> None:
        """Whole or not at all; a full disk keeps no more."""
        part = target.with_name(f'{target.stem}.{os.getpid()}.part')
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with part.open('wb') as stream:
                np.save(stream, image, allow_pickle=False)
            part.replace(target)
        except OSError:
            self._left = 0
            part.unlink(missing_ok=True)
