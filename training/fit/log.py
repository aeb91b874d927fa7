"""What a training writes of each step: log.csv, and the figures for TensorBoard, Weights & Biases or MLflow."""

from __future__ import annotations

import csv
import importlib
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from training.errors import FitError
from training.fit.settings import FitSettings
from training.schema import counted

LOG = 'log.csv'
PROJECT = 'kd_perception'


class Logger(Protocol):
    """Shows the figures of a training somewhere."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of a step."""
        ...

    def spread(self, step: int, name: str, values: Any) -> None:
        """Many values of a step, as a histogram where that can be shown."""
        ...

    def close(self) -> None:
        """No more figures come."""
        ...


class FitLog:
    """log.csv and loggers; what is in the CSV depends on the run alone, so times are the loggers'.

    Args:
        folder: of the training.
        settings: which loggers there are, and what they say of the run.
        enabled: whether this process writes.
    """

    def __init__(self, folder: Path, settings: FitSettings, *, enabled: bool) -> None:
        self._folder, self._settings, self._enabled = folder, settings, enabled
        self._file: Any = None
        self._loggers: list[Logger] = []
        self._columns: list[str] = []

    def start_at(self, size: int, step: int) -> None:
        """Go on after `size` bytes of log.csv and `step` steps; what comes after them is dropped.

        Raises:
            FitError: log.csv is shorter than that, or a logger's package is not installed.
        """
        if not self._enabled:
            return
        self._file = (self._folder / LOG).open('a+', newline='', encoding='utf-8')
        if self._file.seek(0, 2) < size:
            raise FitError(f'{self._folder / LOG} is shorter than when the checkpoint was written: start anew')
        self._file.truncate(size)
        self._file.seek(0)
        self._columns = self._file.readline().strip().split(',') if size else []
        self._file.seek(0, 2)
        self._loggers = [LOGGERS[name](self._folder, self._settings, step) for name in self._settings.loggers]

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
        for logger in self._loggers:
            logger.scalars(step, {**values, 'seconds': seconds})

    def write_spread(self, step: int, name: str, values: Any) -> None:
        """A histogram of values, for loggers alone."""
        for logger in self._loggers:
            logger.spread(step, name, values)

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
            for logger in self._loggers:
                logger.close()


class TensorBoard:
    """Event files in the training's folder, for `tensorboard --logdir`."""

    def __init__(self, folder: Path, settings: FitSettings, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / 'tensorboard'), purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Logger."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def spread(self, step: int, name: str, values: Any) -> None:
        """See Logger."""
        self._writer.add_histogram(name, values, step)

    def close(self) -> None:
        """See Logger."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases; the environment says where: WANDB_PROJECT, WANDB_MODE=offline, WANDB_API_KEY."""

    def __init__(self, folder: Path, settings: FitSettings, step: int) -> None:
        self._wandb = _package('wandb')
        # A training that goes on is the same run.
        self._run = self._wandb.init(
            project=os.environ.get('WANDB_PROJECT', PROJECT),
            name=folder.name,
            id=_run_id(folder, 'wandb', lambda: str(uuid.uuid4().hex[:12])),
            resume='allow',
            dir=str(folder),
            config=counted(settings),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Logger."""
        self._run.log(dict(values), step=step)

    def spread(self, step: int, name: str, values: Any) -> None:
        """See Logger."""
        self._run.log({name: self._wandb.Histogram(values)}, step=step)

    def close(self) -> None:
        """See Logger."""
        self._run.finish()


class MLflow:
    """A run of MLflow; the environment says where: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, folder: Path, settings: FitSettings, step: int) -> None:
        client = _package('mlflow').tracking.MlflowClient()
        name = os.environ.get('MLFLOW_EXPERIMENT_NAME', PROJECT)
        experiment = client.get_experiment_by_name(name)
        of = client.create_experiment(name) if experiment is None else experiment.experiment_id
        self._client = client
        self._run = _run_id(folder, 'mlflow', lambda: str(client.create_run(of, run_name=folder.name).info.run_id))
        if not step:
            for name, value in counted(settings).items():
                client.log_param(self._run, name, value)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Logger."""
        for name, value in values.items():
            # Its folders hold a file for each figure: `task` cannot be one beside `task/box_loss`.
            self._client.log_metric(self._run, name.replace('/', '.'), value, step=step)

    def spread(self, step: int, name: str, values: Any) -> None:
        """It shows no histograms: the mean alone."""
        self._client.log_metric(self._run, f'{name}.mean', float(values.mean()), step=step)

    def close(self) -> None:
        """See Logger."""
        self._client.set_terminated(self._run)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise FitError(f'loggers: {name} needs its package: pip install {name}') from error


def _run_id(folder: Path, logger: str, make: Callable[[], str]) -> str:
    """The name under which a logger knows the training, made once."""
    file = folder / f'{logger}.id'
    if not file.is_file():
        file.write_text(make(), encoding='utf-8')
    return file.read_text(encoding='utf-8')


LOGGERS: Mapping[str, Callable[[Path, FitSettings, int], Logger]] = {
    'tensorboard': TensorBoard,
    'wandb': WandB,
    'mlflow': MLflow,
}
"""Each is made with the training's folder, its settings, and the steps that were made before."""
