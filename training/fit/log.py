"""What a training writes of each step: log.csv and TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.errors import FitError

LOG = 'log.csv'


class FitLog:
    """log.csv and TensorBoard; what is in the CSV depends on the run alone, so times are TensorBoard's.

    Args:
        folder: of the training.
        enabled: whether this process writes.
    """

    def __init__(self, folder: Path, *, enabled: bool) -> None:
        self._folder, self._enabled = folder, enabled
        self._file: Any = None
        self._board: Any = None
        self._columns: list[str] = []

    def start_at(self, size: int, step: int) -> None:
        """Go on after `size` bytes of log.csv and `step` steps; what comes after them is dropped.

        Raises:
            FitError: log.csv is shorter than that.
        """
        if not self._enabled:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._file = (self._folder / LOG).open('a+', newline='', encoding='utf-8')
        if self._file.seek(0, 2) < size:
            raise FitError(f'{self._folder / LOG} is shorter than when the checkpoint was written: start anew')
        self._file.truncate(size)
        self._file.seek(0)
        self._columns = self._file.readline().strip().split(',') if size else []
        self._file.seek(0, 2)
        self._board = SummaryWriter(str(self._folder / 'tensorboard'), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        """One step's values; columns are those of the first row and of terms that set in later.

        Raises:
            FitError: it cannot be written.
        """
        if not self._enabled:
            return
        row = {'step': str(step), **{name: f'{value:.9g}' for name, value in values.items()}}
        if any(name not in self._columns for name in row):
            self._widen([*self._columns, *(name for name in row if name not in self._columns)])
        try:
            csv.writer(self._file, lineterminator='\n').writerow([row.get(name, '') for name in self._columns])
        except OSError as error:
            raise FitError(f'{self._folder / LOG} cannot be written: {error}') from error
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._board.add_scalar('seconds', seconds, step)

    def write_spread(self, step: int, name: str, values: Any) -> None:
        """A histogram of values, in TensorBoard alone."""
        if self._enabled:
            self._board.add_histogram(name, values, step)

    def _widen(self, columns: list[str]) -> None:
        """The file anew with more columns; a term that starts late has empty cells before."""
        self._file.flush()
        self._file.seek(0)
        rows = list(csv.reader(self._file))[1:]
        self._file.truncate(0)
        writer = csv.writer(self._file, lineterminator='\n')
        writer.writerow(columns)
        writer.writerows([*row, *[''] * (len(columns) - len(row))] for row in rows)
        self._columns = columns

    def flushed(self) -> int:
        """Size of log.csv with all that was written."""
        self._file.flush()
        return (self._folder / LOG).stat().st_size

    def __enter__(self) -> FitLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._board.close()
