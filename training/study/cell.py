"""One cell of a study: the job called, its result kept. `python -m training.study.cell` does it in a process of its own.

The process reads a request, one line of JSON, from its standard input, which its parent then holds open: when the parent
dies, whatever it died of, the cell ends too and does not hold the machine: by SIGTERM, on which a trainer may still write a
checkpoint, and for certain a minute later.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from training.errors import StudyError
from training.study.circumstances import circumstances
from training.study.plan import Cell, Job, Result, Study, read_result, reference, split_metrics, write_result

GRACE_SECONDS = 60.0
"""Time for a job that is to end, to write a checkpoint."""


def run_cell(cell: Cell, threads: int) -> None:
    """Do the cell and keep its result. Where another process is at it, wait for that one instead.

    Raises:
        StudyError: the job returned no metrics. Beside it whatever the job raises.
    """
    cell.file.parent.mkdir(parents=True, exist_ok=True)
    with cell.file.with_suffix('.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if read_result(cell) is not None:
            return
        started = time.monotonic()
        metrics, notes = split_metrics(cell.study.job(**cell.arguments, threads=threads))
        seconds = round(time.monotonic() - started, 2)
        write_result(cell, Result(cell.arm, cell.seed, metrics, notes, seconds, circumstances(threads)))


def request(cell: Cell, threads: int) -> str:
    """The cell as one line for another process.

    Raises:
        StudyError: the job is no function of a module, which another process could import.
    """
    job = reference(cell.study.job)
    if job.startswith('__main__:') or find_job(job) is not cell.study.job:
        raise StudyError(f'{job} is no function that another process can import; --workers 0 runs it in this one')
    return json.dumps(
        {
            'cwd': os.getcwd(),
            'folder': str(cell.study.folder.resolve()),
            'job': job,
            'arm': cell.arm,
            'seed': cell.seed,
            'arguments': cell.study.arms[cell.arm],
            'places': cell.study.places,
            'depends_on': cell.study.depends_on,
            'threads': threads,
        }
    )


def find_job(name: str) -> Job | None:
    """The function behind `module:function`; None where there is none, as for functions within functions."""
    module, _, function = name.partition(':')
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ImportError:
        return None
    return found if callable(found) else None


def main() -> int:
    """Do the cell that the first line of standard input asks for."""
    asked: dict[str, Any] = json.loads(sys.stdin.readline())
    os.chdir(asked['cwd'])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = find_job(asked['job'])
    if job is None:
        raise StudyError(f'the job {asked["job"]} cannot be imported here')
    arm, seed = asked['arm'], asked['seed']
    study = Study(
        Path(asked['folder']), job, {arm: asked['arguments']}, (seed,), arm, asked['places'], asked['depends_on']
    )
    run_cell(Cell(study, arm, seed), asked['threads'])
    return 0


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == '__main__':
    sys.exit(main())
