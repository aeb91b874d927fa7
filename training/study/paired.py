"""Runs the cells of a study that are missing: one by one, side by side, or on a Dask cluster; never stops early.

Every cell has a process of its own, so that one that crashes or runs out of memory takes no other with it, and so that
results do not depend on how many run at a time.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from kd_perception.machine.cores import physical_cores
from training.errors import Interrupted, StudyError
from training.study.cell import GRACE_SECONDS, request, run_cell
from training.study.plan import Cell, Result, Study, read_result

_Ended = Generator[tuple[Cell, 'Failure | None'], None, None]
CONNECT_SECONDS = 10.0
LOG_LINES = 30
"""So many of the last lines of a failed cell's log are shown."""


@dataclass(frozen=True)
class Failure:
    """A cell that gave no result.

    Attributes:
        arm: its arm.
        seed: its seed.
        reason: one line.
        detail: the traceback, or the last lines of the log.
    """

    arm: str
    seed: int
    reason: str
    detail: str = ''

    def __str__(self) -> str:
        return f'{self.arm}, seed {self.seed}: {self.reason}'


@dataclass(frozen=True)
class Outcome:
    """Results and failures of all cells, in the study's order."""

    results: tuple[Result, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Slot:
    """A worker's share of the machine: CPU threads, and the GPU by the name that CUDA_VISIBLE_DEVICES takes."""

    threads: int
    gpu: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Of the worker's processes; libraries read it when they are loaded."""
        threads = {f'{library}_NUM_THREADS': str(self.threads) for library in ('OMP', 'MKL', 'OPENBLAS')}
        gpu = {} if self.gpu is None else {'CUDA_VISIBLE_DEVICES': self.gpu}
        # What this process can import, its jobs can: the folder given by `python -m` is in no variable.
        paths = {'PYTHONPATH': os.pathsep.join(path or os.getcwd() for path in sys.path)}
        return {**os.environ, **threads, **gpu, **paths, 'OMP_WAIT_POLICY': 'PASSIVE'}


def share_machine(workers: int | None, cells: int, threads: int | None = None) -> list[Slot]:
    """The workers' shares.

    Args:
        workers: processes at a time; None takes one for each visible GPU, and without GPU one for each physical core, but no more
            than there are cells.
        cells: number of cells to be run.
        threads: CPU threads for each; None divides the physical cores.

    Raises:
        StudyError: less than one worker or thread.
    """
    gpus = visible_gpus()
    count = max(1, min(len(gpus) or physical_cores(), cells)) if workers is None else workers
    if count < 1 or (threads is not None and threads < 1):
        raise StudyError('--workers and --threads must be at least 1')
    share = threads or max(1, physical_cores() // count)
    return [Slot(share, gpus[number % len(gpus)] if gpus else None) for number in range(count)]


def visible_gpus() -> list[str]:
    """Names of the CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    named = os.environ.get('CUDA_VISIBLE_DEVICES')
    if named is not None:
        return [name.strip() for name in named.split(',') if name.strip() not in ('', '-1')]
    try:
        import torch
    except ImportError:
        return []
    return [str(number) for number in range(torch.cuda.device_count())]


def missing_cells(study: Study, say: Callable[[str], None] = print) -> list[Cell]:
    """Cells that are still to be run, in order."""
    return [cell for cell in study.cells if read_result(cell, say) is None]


def run(
    study: Study,
    workers: int | None = None,
    scheduler: str = '',
    threads: int | None = None,
    on_done: Callable[[Cell, Failure | None], None] | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Run what is missing and return all there is. What is interrupted goes on with the next call.

    Args:
        study: the study.
        workers: processes at a time, see `share_machine`; 0 runs the jobs in this process, for a debugger.
        scheduler: address of a Dask scheduler whose workers see the same paths; empty uses this machine.
        threads: CPU threads for each cell; by default the worker's share of this machine, or 1 on a cluster.
        on_done: called as cells end, with the failure if there was one.
        say: gets a line for every file of a cell that cannot be used.

    Raises:
        StudyError: no scheduler answers, or the job cannot be run in another process.
    """
    missing = missing_cells(study, say)
    failures: dict[str, Failure] = {}
    if missing:
        with closing(_ended(missing, workers, scheduler, threads)) as ended:
            for cell, failure in ended:
                if failure is None and read_result(cell, say) is None:
                    failure = Failure(cell.arm, cell.seed, f'left no {cell.file}: do the workers see this folder?')
                if failure:
                    failures[cell.name] = failure
                if on_done:
                    on_done(cell, failure)
    results = (read_result(cell, say) for cell in study.cells if cell.name not in failures)
    failed = (failures[cell.name] for cell in study.cells if cell.name in failures)
    return Outcome(tuple(result for result in results if result), tuple(failed))


def _ended(cells: Sequence[Cell], workers: int | None, scheduler: str, threads: int | None) -> _Ended:
    if scheduler:
        return _on_cluster(cells, scheduler, threads or 1)
    if workers == 0:
        return _here(cells, threads or physical_cores())
    return _side_by_side(cells, share_machine(workers, len(cells), threads))


def _here(cells: Sequence[Cell], threads: int) -> _Ended:
    for cell in cells:
        failure = None
        try:
            run_cell(cell, threads)
        except Interrupted as interrupted:  # whoever stops a training of this process stops the study
            raise KeyboardInterrupt from interrupted
        except Exception as error:  # whatever the job raises is this cell's alone
            failure = Failure(cell.arm, cell.seed, f'{type(error).__name__}: {error}', traceback.format_exc())
        yield cell, failure


def _side_by_side(cells: Sequence[Cell], slots: Sequence[Slot]) -> _Ended:
    free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
    for slot in slots:
        free.put(slot)
    asked = {cell: request(cell, slots[0].threads) for cell in cells}
    with ThreadPoolExecutor(len(slots)) as pool, _Processes() as processes:

        def attempt(cell: Cell) -> str:
            slot = free.get()
            try:
                return processes.run(asked[cell], slot, cell.log)
            finally:
                free.put(slot)

        futures = {pool.submit(attempt, cell): cell for cell in cells}
        for future in as_completed(futures):
            yield futures[future], _failure(futures[future], future.result())


class _Processes:
    """Processes of cells; those that still run when this is left get SIGTERM, time for a checkpoint, and are then killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._open = True

    def __enter__(self) -> _Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._open = False
            running = [process for process in self._running if process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        try:
            for process in running:
                process.wait(max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # or a second Ctrl-C
            pass
        finally:
            for process in running:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def run(self, asked: str, slot: Slot, log: Path) -> str:
        """Do one cell; returns why it failed, or nothing."""
        with self._lock:
            if not self._open:
                return 'not started'
            process = start(asked, slot, log)
            self._running.add(process)
        status = process.wait()
        with self._lock:
            self._running.discard(process)
        return '' if status == 0 else _end(status)


def start(asked: str, slot: Slot, log: Path) -> subprocess.Popen[str]:
    """A process that does the cell of a request and lives no longer than this one; what it prints goes to the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('w', encoding='utf-8') as stream:
        process = subprocess.Popen(
            [sys.executable, '-m', 'training.study.cell'],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=slot.environment,
            text=True,
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        process.stdin.write(asked + '\n')
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it ended already; its status and its log say why
    return process


def _end(status: int) -> str:
    if status > 0:
        return f'ended with status {status}'
    hint = ' (out of memory?)' if -status == signal.SIGKILL else ''
    return f'its process was ended by {signal.Signals(-status).name}{hint}'


def _failure(cell: Cell, reason: str) -> Failure | None:
    if not reason:
        return None
    try:
        lines = cell.log.read_text(encoding='utf-8', errors='replace').rstrip().splitlines()[-LOG_LINES:]
    except OSError:
        lines = []
    last = f': {lines[-1].strip()}' if lines else ''
    return Failure(cell.arm, cell.seed, reason + last, '\n'.join(lines))


def run_on_worker(asked: str, threads: int, log: str) -> str:
    """What a Dask worker does: the cell in a process of its own, on the GPU that the worker has."""
    process = start(asked, Slot(threads), Path(log))
    status = process.wait()
    return '' if status == 0 else _end(status)


def _on_cluster(cells: Sequence[Cell], scheduler: str, threads: int) -> _Ended:
    try:
        import distributed
    except ImportError as error:
        raise StudyError('--scheduler needs the library: pip install distributed') from error
    connect: Any = distributed.Client
    try:
        client = connect(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise StudyError(f'no Dask scheduler answers at {scheduler}: {error}') from error
    with client:
        futures = {
            client.submit(
                run_on_worker, request(cell, threads), threads, str(cell.log.resolve()), key=cell.name, pure=False
            ): cell
            for cell in cells
        }
        try:
            ended: Any = distributed.as_completed
            for future in ended(futures):
                cell = futures[future]
                yield cell, _outcome(future, cell)
        finally:
            client.cancel(list(futures))


def _outcome(future: Any, cell: Cell) -> Failure | None:
    """A worker that died takes only its own cell with it."""
    try:
        return _failure(cell, future.result())
    except Exception as error:  # whatever a foreign process or cluster raises
        return Failure(cell.arm, cell.seed, f'its worker ended: {error}')
