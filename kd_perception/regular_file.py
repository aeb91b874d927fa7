"""Files of strangers: read only where they are regular files, and never beyond a limit; and their names in messages."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kd_perception.errors import BundleError

PATH_ERRORS = (OSError, ValueError, RuntimeError)
"""What paths raise: OSError from the system, ValueError for a null byte, RuntimeError for a loop or a user without a home."""
_SHOWN = 120


def read_regular(path: Path, limit: int, refusal: type[Exception] = BundleError) -> bytes:
    """The content of a regular file. A pipe or a device is refused before it is read; links were the caller's to judge.

    Args:
        path: the file.
        limit: largest size; at most one byte more is read.
        refusal: the error that is raised.

    Raises:
        Exception: the `refusal`: no such file, none that can be read, not a regular one, or a larger one.
    """
    try:
        _check_regular(path, os.stat(path), refusal)  # first, for opening a device may do something
        # Exchanged meanwhile for a pipe that nobody writes to, it would be waited for without O_NONBLOCK.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), 'rb') as file:
            facts = os.fstat(file.fileno())
            _check_regular(path, facts, refusal)
            content = file.read(min(limit, facts.st_size) + 1)
    except (*PATH_ERRORS, MemoryError) as error:
        raise refusal(f'{shown(path)} cannot be read: {why(error)}') from error
    if len(content) > limit:
        raise refusal(f'{shown(path)} is larger than {limit} bytes')
    return content


def _check_regular(path: Path, facts: os.stat_result, refusal: type[Exception]) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise refusal(f'{shown(path)} is not a regular file')


def shown(text: object) -> str:
    """A path or another text of unknown origin as one printable line of bounded length."""
    line = ''.join(c if c.isprintable() else repr(c)[1:-1] for c in str(text)[: 4 * _SHOWN])
    return line if len(line) <= _SHOWN else f'{line[: _SHOWN // 2]}…{line[-_SHOWN // 2 :]}'


def printable(text: object) -> str:
    """Lines of unknown origin for a terminal: what would steer it, by escape sequences say, is spelled out."""
    return ''.join(c if c.isprintable() or c == '\n' else repr(c)[1:-1] for c in str(text))


def why(error: BaseException) -> str:
    """An exception of `PATH_ERRORS` in a few words."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return shown(error)
