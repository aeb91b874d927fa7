"""Steps of a run: each is made once for its inputs, in a folder of its own, and never again while they stay the same.

A step's key is the hash of its settings and of the keys of the steps that it needs, so that whatever changes makes anew just
what depends on it, and recipes that share their first steps share the work. A step that was interrupted is made again; one
that keeps checkpoints in its folder goes on from them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from training.errors import RecipeError
from training.schema import counted

Result = dict[str, Any]
RECORD = 'step.json'
LONG = 16
"""Lists of more values are not printed."""


class Processes(Protocol):
    """What is asked of the processes of a run; `training.fit.processes.Group` is several.

    Attributes:
        first: whether this one takes locks and writes files.
    """

    @property
    def first(self) -> bool: ...

    def first_does(self, work: Callable[[], bool | None]) -> bool:
        """Work of the first while the others wait; what it found holds for all."""
        ...


class Alone:
    """A run of one process."""

    first = True

    def first_does(self, work: Callable[[], bool | None]) -> bool:
        """Do it."""
        return bool(work())


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: what people call it, `train teacher`; unique in a run.
        settings: what its result depends on beside `needs`: dataclasses and plain values.
        needs: the steps before it.
        make: does the work in a folder; its result is plain JSON.
        resumes: whether `make` goes on from what it finds in its folder; otherwise it starts with an empty one.
        together: whether all processes of a run make it together, as trainings are; otherwise the first one does.
    """

    name: str
    settings: Any
    needs: tuple[Step, ...]
    make: Callable[[Path], Result]
    resumes: bool = False
    together: bool = False

    @cached_property
    def key(self) -> str:
        """Hash of all that the result depends on."""
        text = json.dumps([self.name, self.settings, [step.key for step in self.needs]], default=_plain, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def folder(self, root: Path) -> Path:
        """Where its files lie."""
        return root / f'{self.name.replace(" ", "-")}-{self.key[:10]}'


@dataclass(frozen=True)
class Steps:
    """Makes steps in the folder `root`.

    Attributes:
        root: working folder; one subfolder for each step.
        say: gets a line for each step.
        processes: of the run.
    """

    root: Path
    say: Callable[[str], None] = print
    processes: Processes = field(default_factory=Alone)

    def result(self, step: Step) -> Result | None:
        """What the step gave, or None where it was not made with these inputs."""
        try:
            record = json.loads((step.folder(self.root) / RECORD).read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return None
        return dict(record['result']) if isinstance(record, dict) and record.get('key') == step.key else None

    def made(self, step: Step) -> Result:
        """Make the step and what it needs, unless that was done; returns its result.

        Raises:
            TrainingError: what the step itself raises.
        """
        for needed in in_order([step]):
            self._make(needed)
        return self.known(step)

    def known(self, step: Step) -> Result:
        """The result of a step that was made; what a step asks of those before it."""
        result = self.result(step)
        assert result is not None, step.name
        return result

    def folder(self, step: Step) -> Path:
        """The folder of a step that was made."""
        return step.folder(self.root)

    def forget(self, step: Step, among: Sequence[Step]) -> None:
        """Let the step, and those of `among` that depend on it, be made again from nothing."""
        for other in among:
            if step in in_order([other]):
                shutil.rmtree(other.folder(self.root), ignore_errors=True)

    def _make(self, step: Step) -> None:
        if self.processes.first_does(lambda: self.result(step) is not None):
            return
        with self._only_one(step):
            if self.processes.first_does(lambda: self._is_made_now(step)):
                return
            started = time.monotonic()
            if step.together:
                result = step.make(step.folder(self.root))
                self.processes.first_does(lambda: self._note(step, result, time.monotonic() - started))
            else:
                self.processes.first_does(
                    lambda: self._note(step, step.make(step.folder(self.root)), time.monotonic() - started)
                )

    def _is_made_now(self, step: Step) -> bool:
        """Whether another run made it while this one waited for the lock; else its folder is made ready."""
        if self.result(step) is not None:
            return True
        folder = step.folder(self.root)
        if not step.resumes:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.say(f'{step.name} …')
        return False

    def _note(self, step: Step, result: Result, seconds: float) -> None:
        record = {
            'step': step.name,
            'key': step.key,
            'settings': step.settings,
            'needs': {needed.name: needed.key for needed in step.needs},
            'result': result,
            'seconds': round(seconds, 1),
            'finished': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        }
        target = step.folder(self.root) / RECORD
        partial = target.with_suffix('.partial')
        partial.write_text(json.dumps(record, default=_plain, indent=1), encoding='utf-8')
        os.replace(partial, target)
        self.say(f'{step.name}: {_shown(result)}')

    @contextlib.contextmanager
    def _only_one(self, step: Step) -> Iterator[None]:
        """Two runs that need the same step make it once: the second waits. The lock goes with the process that holds it.

        Of the processes of one run the first takes it, or they would wait for each other.
        """
        if not self.processes.first:
            yield
            return
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / f'.{step.folder(self.root).name}.lock').open('w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say(f'{step.name}: another run is making it; waiting')
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def in_order(steps: Sequence[Step]) -> list[Step]:
    """The steps and all that they need, each once, needs first."""
    found: dict[str, Step] = {}

    def visit(step: Step) -> None:
        if step.key not in found:
            for needed in step.needs:
                visit(needed)
            found[step.key] = step

    for step in steps:
        visit(step)
    return list(found.values())


def fingerprint(folder: Path) -> str:
    """Hash of a data set: names of all its files, contents of texts (labels), sizes of the others (pictures).

    Raises:
        RecipeError: there is no such file or folder.
    """
    if not folder.exists():
        raise RecipeError(f'{folder} does not exist: check the path in the recipe, and --data')
    digest = hashlib.sha256()
    for path in [folder] if folder.is_file() else sorted(path for path in folder.rglob('*') if path.is_file()):
        digest.update(f'{path.relative_to(folder)} {path.stat().st_size}\n'.encode())
        if path.suffix in {'.txt', '.json', '.csv', '.yaml'}:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def digest(file: Path) -> str:
    """sha256 of a file, hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def commit() -> str:
    """The checkout's commit, marked where tracked files of the training differ from it."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ['git', 'status', '--porcelain', '.'], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return found.stdout.strip() + ('+changes' if changed.stdout.strip() else '')


def _shown(result: Result) -> str:
    """A result as a line for people: of long lists, how long they are."""
    return json.dumps(
        {name: f'{len(v)} values' if isinstance(v, list) and len(v) > LONG else v for name, v in result.items()}
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return counted(value)
    return str(value)
