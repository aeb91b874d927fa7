"""Files that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kd_perception.errors import KdPerceptionError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives the block another path to write to; what lies there takes the place of `path` when the block ends well.

    The other path lies in the same folder and has the same suffix, by which libraries recognize a format. After an error
    nothing is left there, and `path` is as it was.

    Raises:
        KdPerceptionError: the file cannot be written.
    """
    scratch = path.with_name(f'.{path.stem}.part{path.suffix}')
    try:
        yield scratch
        scratch.replace(path)
    except OSError as error:
        raise KdPerceptionError(f'{path} cannot be written: {error.strerror or error}') from error
    finally:
        scratch.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file, so that either all of it is there or what was there before.

    Raises:
        KdPerceptionError: the file cannot be written.
    """
    with whole_file(path) as scratch:
        # The name of a file that is not UTF-8 comes as lone surrogates.
        scratch.write_text(text, encoding='utf-8', errors='backslashreplace')
