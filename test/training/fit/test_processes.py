"""Two processes train one network, started by torch's own launcher."""

import os
import subprocess
import sys

import pytest
from tiny_training import CLASSES, architecture, columns, write_network, write_pictures

torch = pytest.importorskip('torch')

from training.models.weights import load_network  # noqa: E402

LONGEST = 1800
"""Seconds after which processes that wait for each other are a failure."""
SCRIPT = """
import dataclasses
import sys
from pathlib import Path

import torch
from torch import distributed
from tiny_training import CLASSES, SIZE, architecture
from training.distill.settings import DistillSettings, TermSettings
from training.errors import FitError, Interrupted
from training.fit import loop
from training.fit.detector import fit_detector
from training.fit.job import FitJob
from training.fit.processes import joined
from training.fit.settings import FitSettings

torch.set_num_threads(1)
folder = Path(sys.argv[1])
settings = FitSettings(image_size=SIZE, batch=4, steps=4, warmup_steps=0, precision='float32')
terms = DistillSettings((TermSettings('cwd', adapter='conv_bn'), TermSettings('bckd')))
pictures = sorted((folder / 'images').glob('*.png'))
job = FitJob(architecture(), CLASSES, pictures, settings, teacher=folder / 'teacher.pt', distill=terms)

finish = loop.Run.finish
def compared(run):
    for value in [*run.student.state_dict().values(), *run.terms.state_dict().values()]:
        both = [torch.empty_like(value) for _ in range(2)]
        distributed.all_gather(both, value.contiguous())
        assert torch.equal(*both)
    return finish(run)
loop.Run.finish = compared

with joined():
    fit_detector(job, folder / 'whole')
    asked = loop.Run._stop_asked
    loop.Run._stop_asked = lambda run, signals: run.group.any(run.group.rank == 1 and run.step == 2)
    try:
        fit_detector(job, folder / 'parts')
        raise SystemExit('not interrupted')
    except Interrupted:
        loop.Run._stop_asked = asked
    fit_detector(job, folder / 'parts')

    # A gradient that overflows float16 in one process alone: all leave that step out.
    backward = loop.Run._backward
    def overflowing(run, batch, part):
        values = backward(run, batch, part)
        if run.group.rank == 1 and run.step == 1:
            next(run.student.parameters()).grad.fill_(float('inf'))
        return values
    loop.Run._backward = overflowing
    half = dataclasses.replace(settings, precision='float16', ema_decay=0.0)
    fit_detector(FitJob(architecture(), CLASSES, pictures, half), folder / 'half')
    loop.Run._backward = backward
    try:
        odd = FitJob(architecture(), CLASSES, pictures, FitSettings(image_size=SIZE, batch=3, steps=1))
        fit_detector(odd, folder / 'odd')
        raise SystemExit('a batch of 3 was shared by 2')
    except FitError as error:
        assert 'cannot be shared by 2 processes' in str(error)
"""


THREADS = """
import time
from contextlib import suppress
from pathlib import Path

from training.fit.processes import joined

def is_there():
    for task in Path('/proc/self/task').iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            if 'gloo' in task.joinpath('comm').read_text():
                return True
    return False

with joined() as group:
    import torch.distributed.nn.functional
    group.wait()
    assert is_there()
until = time.monotonic() + 30
while is_there():  # the kernel lists a thread for a moment after its end
    assert time.monotonic() < until
    time.sleep(0.01)
"""


def launched(script, folder, repository):
    """What two processes that run a script said, and their exit status."""
    (folder / 'run.py').write_text(script)
    path = os.pathsep.join([str(repository), str(repository / 'test')])
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    return subprocess.run(
        [*launcher, str(folder / 'run.py'), str(folder)],
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )


@pytest.mark.skipif(torch.cuda.is_available() or sys.platform != 'linux', reason='looks for threads of gloo in /proc')
@pytest.mark.timeout(LONGEST + 60)
def test_no_thread_of_a_group_is_left_behind_to_abort_the_process_at_its_end(tmp_path, repository):
    ended = launched(THREADS, tmp_path, repository)
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.mark.timeout(LONGEST + 60)
def test_two_processes_agree_and_resume(tmp_path, repository):
    write_pictures(tmp_path, 8)
    write_network(tmp_path / 'teacher.pt', architecture(width=0.1875))
    ended = launched(SCRIPT, tmp_path, repository)
    assert ended.returncode == 0, ended.stderr[-3000:]
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    assert columns(whole / 'log.csv')['step'] == ['1', '2', '3', '4']
    assert (whole / 'log.csv').read_bytes() == (parts / 'log.csv').read_bytes()
    assert (whole / 'weights.pt').read_bytes() == (parts / 'weights.pt').read_bytes()
    assert load_network(whole / 'weights.pt')[1] == CLASSES
    assert 'inf' in columns(tmp_path / 'half/log.csv')['gradient']
    assert all(value.isfinite().all() for value in load_network(tmp_path / 'half/weights.pt')[0].state_dict().values())
