"""A paired study as data: arms × seeds of cells, and the file that every finished cell leaves."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.errors import StudyError
from training.schema import nearest

Job = Callable[..., Mapping[str, Any]]
"""Called with the arm's arguments, the study's places, `seed` and `threads`; returns metrics (numbers) and notes (the rest)."""

KEPT_AS = 'kept_as'
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.+-]{0,79}')


@dataclass(frozen=True)
class Result:
    """What a finished cell gave.

    Attributes:
        arm: its arm.
        seed: its seed.
        metrics: figures by name; NaN where the job found none.
        notes: whatever else the job returned, plain JSON.
        seconds: wall-clock time of the job.
        circumstances: machine, threads, versions, commit: see `training.study.circumstances`.
    """

    arm: str
    seed: int
    metrics: Mapping[str, float]
    notes: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    circumstances: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One arm with one seed.

    Attributes:
        study: the study that it belongs to.
        arm: name of the arm.
        seed: of everything that the job draws.
    """

    study: Study
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """What people and files call it, `cwd_seed0`."""
        return f'{self.arm}_seed{self.seed}'

    @property
    def file(self) -> Path:
        """Where its result is kept."""
        return self.study.folder / 'cells' / f'{self.name}.json'

    @property
    def log(self) -> Path:
        """What the job printed, where it ran in a process of its own."""
        return self.file.with_suffix('.log')

    @property
    def arguments(self) -> dict[str, Any]:
        """All that the job is called with, but for `threads`."""
        return {**self.study.places, **self.study.arms[self.arm], 'seed': self.seed}

    @property
    def fingerprint(self) -> str:
        """Hash of what the result depends on: job, arguments of the arm, seed, `depends_on`; neither places nor other arms."""
        study = self.study
        inputs = [getattr(study.job, KEPT_AS, reference(study.job)), study.arms[self.arm], self.seed, study.depends_on]
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Study:
    """Arms × seeds of one job.

    Attributes:
        folder: where cells and reports are kept.
        job: what one cell does; it must end with the same metrics when it is called again with the same arguments.
        arms: arguments of the job by arm; plain JSON.
        seeds: every arm is run with each of them.
        baseline: the arm that the others are compared with.
        places: arguments of the job that say where things lie, such as the data's folder. They are no part of the
            fingerprint: a study that was moved stays done.
        depends_on: what the result depends on beside the arguments, such as the hash of a recipe; plain JSON.

    Raises:
        StudyError: no arm or seed, one twice, an unknown baseline, a name that makes no file name, or arguments that are not
            plain JSON.
    """

    folder: Path
    job: Job
    arms: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    baseline: str
    places: Mapping[str, Any] = field(default_factory=dict)
    depends_on: Any = None

    def __post_init__(self) -> None:
        if not self.arms or not self.seeds:
            raise StudyError('a study needs at least one arm and one seed')
        if len(set(self.seeds)) < len(self.seeds):
            raise StudyError(f'a seed is given twice: {" ".join(map(str, self.seeds))}')
        if min(self.seeds) < 0:
            raise StudyError(f'seeds are whole numbers from 0 up, not {min(self.seeds)}')
        if self.baseline not in self.arms:
            raise StudyError(
                f'the baseline {self.baseline!r} is no arm{nearest(self.baseline, self.arms)}; '
                f'arms are {", ".join(self.arms)}'
            )
        for arm, arguments in self.arms.items():
            self._check_arm(arm, arguments)

    def _check_arm(self, arm: str, arguments: Mapping[str, Any]) -> None:
        if not _NAME.fullmatch(arm):
            raise StudyError(f'an arm cannot be called {arm!r}: letters, digits and _ . + - name a file')
        try:
            json.dumps([arguments, self.depends_on], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StudyError(f'the arguments of the arm {arm} are not plain JSON: {error}') from error

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, seed by seed over the arms, so that an unfinished study already holds pairs."""
        return tuple(Cell(self, arm, seed) for seed in self.seeds for arm in self.arms)


def kept_as(job: Job, name: str) -> None:
    """Let a job that has moved keep the name under which its finished cells are kept."""
    setattr(job, KEPT_AS, name)


def reference(job: Job) -> str:
    """`module:function`, by which another process finds the job."""
    return f'{job.__module__}:{job.__qualname__}'


def split_metrics(returned: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Numbers are metrics, all else is a note.

    Raises:
        StudyError: no mapping, no number in it, or something that JSON cannot keep, such as a tensor.
    """
    if not isinstance(returned, Mapping):
        raise StudyError(f'a job returns metrics by name, not {type(returned).__name__}')
    metrics: dict[str, float] = {}
    notes: dict[str, Any] = {}
    for name, value in returned.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            metrics[name] = float(value)
        else:
            notes[name] = value
    try:
        json.dumps(notes)
    except (TypeError, ValueError) as error:
        raise StudyError(f'metrics are Python numbers, notes plain JSON: {error}; use float(...)') from error
    if not metrics:
        raise StudyError('the job returned no metric: a mapping with at least one number is needed')
    return metrics, notes


def write_result(cell: Cell, result: Result) -> None:
    """Keep a result; the file is there whole or not at all."""
    record = {
        'fingerprint': cell.fingerprint,
        'arm': result.arm,
        'seed': result.seed,
        'metrics': {name: value if math.isfinite(value) else None for name, value in result.metrics.items()},
        'notes': result.notes,
        'seconds': result.seconds,
        'circumstances': result.circumstances,
    }
    cell.file.parent.mkdir(parents=True, exist_ok=True)
    partial = cell.file.with_suffix(f'.{os.getpid()}.partial')
    with partial.open('w', encoding='utf-8') as stream:
        json.dump(record, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, cell.file)


def read_result(cell: Cell, say: Callable[[str], None] = print) -> Result | None:
    """What the cell gave, or None where it was not done, not with these settings, or where its file is damaged.

    Args:
        cell: the cell.
        say: gets a line where a file is there but cannot be used.
    """
    try:
        record = json.loads(cell.file.read_text(encoding='utf-8'))
        if record['fingerprint'] != cell.fingerprint:
            say(f'{cell.name}: done with other settings; it is done anew')
            return None
        return Result(
            arm=cell.arm,
            seed=cell.seed,
            metrics={
                str(name): math.nan if value is None else float(value) for name, value in record['metrics'].items()
            },
            notes=dict(record['notes']),
            seconds=float(record['seconds']),
            circumstances=dict(record['circumstances']),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        say(f'{cell.file} is damaged ({type(error).__name__}: {error}); the cell is done anew')
        return None
