"""Files of bundles are strangers': read only where they are regular files inside the folder, and never beyond a limit."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from kd_perception.errors import BundleError

PATH_ERRORS = (OSError, ValueError, RuntimeError)
"""What paths raise: OSError from the system, ValueError for a null byte, RuntimeError for a loop or a user without a home."""
_SHOWN = 120


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a regular file. A pipe or a device is refused before it is read; links were the caller's to judge.

    Args:
        path: the file.
        limit: largest size; at most one byte more is read.

    Raises:
        BundleError: no such file, none that can be read, not a regular one, or a larger one.
    """
    try:
        _check_regular(path, os.stat(path))  # first, for opening a device may do something
        # Exchanged meanwhile for a pipe that nobody writes to, it would be waited for without O_NONBLOCK.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), 'rb') as file:
            _check_regular(path, os.fstat(file.fileno()))
            content = file.read(limit + 1)
    except (*PATH_ERRORS, MemoryError) as error:
        raise BundleError(f'{shown(path)} cannot be read: {why(error)}') from error
    if len(content) > limit:
        raise BundleError(f'{shown(path)} is larger than {limit} bytes')
    return content


def _check_regular(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise BundleError(f'{shown(path)} is not a regular file')


def inside(folder: Path, file: str, index: str) -> Path:
    """The path of `file`, which must lie in `folder` also after links were followed.

    Where the folder's index is itself a link to a file of that name, files may lie beside it: `colcon build --symlink-install`
    lays a folder of links.

    Raises:
        BundleError: it leaves the folder, or is no path.
    """
    relative = PurePosixPath(file)
    path = folder / relative
    leaves = relative.is_absolute() or '..' in relative.parts or '\\' in file or '\0' in file
    try:
        home = (folder / index).resolve()
        homes = [folder.resolve(), *([home.parent] if home.name == index else [])]
        leaves = leaves or not any(path.resolve().is_relative_to(home) for home in homes)
    except PATH_ERRORS as error:
        raise BundleError(f'{shown(path)} is not a file: {why(error)}') from error
    if leaves:
        raise BundleError(
            f'{shown(file)!r} lies outside its bundle {shown(folder)}; a bundle names only files in its own folder'
        )
    return path


def shown(text: object) -> str:
    """A path or another text of unknown origin as one printable line of bounded length."""
    line = ''.join(c if c.isprintable() else repr(c)[1:-1] for c in str(text)[: 4 * _SHOWN])
    return line if len(line) <= _SHOWN else f'{line[: _SHOWN // 2]}…{line[-_SHOWN // 2 :]}'


def why(error: BaseException) -> str:
    """An exception of `PATH_ERRORS` in a few words."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return shown(error)
