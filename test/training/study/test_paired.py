"""Running cells: the same figures one by one, side by side and on a cluster; nothing that fails or ends takes others along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from study_jobs import ridge, ridge_that_fails, ridge_that_stays, ridge_that_waits

from training.errors import StudyError
from training.study.paired import run, share_machine, visible_gpus
from training.study.plan import Study

ARMS = {'plain': {'strength': 0.0}, 'ridge': {'strength': 5.0}}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')


def make(folder, **changes):
    settings = {
        'job': ridge,
        'arms': ARMS,
        'seeds': (0, 1),
        'baseline': 'plain',
        'places': {'calls': str(folder / 'calls')},
    }
    folder.mkdir(exist_ok=True)
    return Study(folder, **{**settings, **changes})


def figures(outcome):
    return {(result.arm, result.seed): dict(result.metrics) for result in outcome.results}


def calls(study):
    return (study.folder / 'calls').read_text().splitlines()


def test_one_by_one_and_side_by_side_give_the_same(tmp_path):
    here = run(make(tmp_path / 'here'), workers=0)
    apart = run(make(tmp_path / 'apart'), workers=2, threads=1)
    assert list(figures(here)) == [('plain', 0), ('ridge', 0), ('plain', 1), ('ridge', 1)]
    # one thread and many add up in another order
    assert figures(apart) == {cell: pytest.approx(values) for cell, values in figures(here).items()}
    assert here.failures == apart.failures == ()
    assert {result.notes['process'] for result in here.results} == {str(os.getpid())}
    assert len({result.notes['process'] for result in apart.results} - {str(os.getpid())}) == 4
    assert {result.notes['omp_threads'] for result in apart.results} == {'1'}
    assert {result.circumstances['threads'] for result in apart.results} == {1}
    assert 'ridge regression, strength 5.0' in (tmp_path / 'apart' / 'cells' / 'ridge_seed1.log').read_text()


def test_what_is_done_is_not_done_again_and_more_seeds_and_arms_join(tmp_path):
    study = make(tmp_path)
    before = run(study, workers=0)
    assert figures(run(study, workers=0)) == figures(before)
    assert len(calls(study)) == 4
    larger = make(tmp_path, arms={**ARMS, 'strong': {'strength': 50.0}}, seeds=(0, 1, 2))
    assert len(run(larger, workers=0).results) == 9
    assert calls(study)[4:] == ['50.0 0', '50.0 1', '0.0 2', '5.0 2', '50.0 2']


def test_of_a_changed_arm_only_its_own_cells_are_done_anew(tmp_path):
    run(make(tmp_path), workers=0)
    study = make(tmp_path, arms={**ARMS, 'ridge': {'strength': 7.0}})
    run(study, workers=0)
    assert calls(study)[4:] == ['7.0 0', '7.0 1']


@pytest.mark.parametrize('workers', [0, 2])
def test_a_cell_that_raises_stops_no_other_and_is_done_with_the_next_run(tmp_path, workers):
    arms = {'plain': {'strength': 1.0}, 'wild': {'strength': -1.0}}
    outcome = run(make(tmp_path, arms=arms, job=ridge_that_fails), workers=workers)
    assert list(figures(outcome)) == [('plain', 0), ('wild', 0), ('plain', 1)]
    (failure,) = outcome.failures
    assert (failure.arm, failure.seed) == ('wild', 1)
    assert 'ArithmeticError: the loss is NaN at step 7' in failure.reason
    assert 'in ridge_that_fails' in failure.detail
    outcome = run(make(tmp_path, arms={**arms, 'wild': {'strength': -3.0}}, job=ridge_that_fails), workers=workers)
    assert len(outcome.results) == 4


def test_a_process_that_is_killed_takes_only_its_own_cell_with_it(tmp_path):
    arms = {'plain': {'strength': 1.0}, 'wild': {'strength': -2.0}}
    outcome = run(make(tmp_path, arms=arms, job=ridge_that_fails), workers=2)
    assert list(figures(outcome)) == [('plain', 0), ('plain', 1)]
    assert [(failure.arm, failure.seed) for failure in outcome.failures] == [('wild', 0), ('wild', 1)]
    assert 'SIGKILL (out of memory?)' in outcome.failures[0].reason


def test_a_job_that_returns_no_metric_is_a_failure_that_says_so(tmp_path):
    outcome = run(make(tmp_path, job=lambda **_: {'device': 'cpu'}), workers=0)
    assert outcome.results == ()
    assert all('no metric' in failure.reason for failure in outcome.failures)


def test_a_job_that_no_other_process_finds_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(StudyError, match='--workers 0 runs it in this one'):
        run(make(tmp_path, job=lambda **_: {'r2': 0.5}), workers=2)


def test_a_dask_cluster_of_two_workers_gives_the_same(tmp_path):
    distributed = pytest.importorskip('distributed')
    arms = {**ARMS, 'wild': {'strength': -2.0}}
    study = make(tmp_path / 'cluster', arms=arms, job=ridge_that_fails)
    done = []
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        outcome = run(study, scheduler=cluster.scheduler_address, on_done=lambda cell, failure: done.append(cell.name))
    assert figures(outcome) == figures(run(make(tmp_path / 'here'), workers=0))
    assert [(failure.arm, failure.seed) for failure in outcome.failures] == [('wild', 0), ('wild', 1)]
    assert sorted(done) == sorted(cell.name for cell in study.cells)


def test_no_scheduler_at_the_address_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr('training.study.paired.CONNECT_SECONDS', 0.5)
    pytest.importorskip('distributed')
    with pytest.raises(StudyError, match='no Dask scheduler answers at tcp://127.0.0.1:9'):
        run(make(tmp_path), scheduler='tcp://127.0.0.1:9')


PROGRAM = """
import sys
import threading
from pathlib import Path
from study_jobs import ridge_that_waits
from training.study.paired import run
from training.study.plan import Study
folder = Path(sys.argv[1])
places = {'gate': str(folder / 'gate'), 'calls': str(folder / 'calls')}
try:
    run(Study(folder, ridge_that_waits, {'plain': {'strength': 1.0}}, (0, 1, 2), 'plain', places), workers=1)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(('signal_name', 'status'), [('SIGINT', 130), ('SIGKILL', -9)])
def test_an_interrupted_study_ends_its_processes_keeps_its_cells_and_goes_on(tmp_path, repository, signal_name, status):
    paths = os.pathsep.join([str(repository), str(repository / 'test')])
    process = subprocess.Popen(
        [sys.executable, '-c', PROGRAM, str(tmp_path)],
        env={**os.environ, 'PYTHONPATH': paths},
        # Whatever started these tests in the background may have made them deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    begun = tmp_path / 'gate.begun'
    _wait_until(lambda: begun.exists() and begun.read_text())
    subprocess.run(['kill', f'-{signal_name[3:]}', str(process.pid)], check=True)
    assert process.wait() == status
    _wait_until(lambda: not _runs(int(begun.read_text())))
    assert sorted(file.name for file in (tmp_path / 'cells').glob('*.json')) == ['plain_seed0.json']
    assert (tmp_path / 'gate.checkpoint').exists()

    (tmp_path / 'gate').touch()
    places = {'gate': str(tmp_path / 'gate'), 'calls': str(tmp_path / 'calls')}
    study = make(tmp_path, job=ridge_that_waits, arms={'plain': {'strength': 1.0}}, seeds=(0, 1, 2), places=places)
    assert len(run(study, workers=0).results) == 3
    assert calls(study) == ['1.0 0', '1.0 1', '1.0 2']


def _wait_until(condition):
    while not condition():
        time.sleep(0.02)


def _runs(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ('visible', 'workers', 'expected'),
    [
        ('0,1', None, ['0', '1']),
        ('0,1', 4, ['0', '1', '0', '1']),
        ('GPU-5d2c', 1, ['GPU-5d2c']),
        ('', 3, [None, None, None]),
        ('-1', 1, [None]),
    ],
)
def test_every_worker_has_its_gpu(monkeypatch, visible, workers, expected):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    slots = share_machine(workers, cells=9)
    assert [slot.gpu for slot in slots] == expected
    assert all(slot.gpu is None or slot.environment['CUDA_VISIBLE_DEVICES'] == slot.gpu for slot in slots)


def test_a_cell_sees_only_the_gpu_of_its_worker(tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
    results = run(make(tmp_path), threads=1).results
    assert {result.notes['gpu'] for result in results} == {'3', '5'}
    assert visible_gpus() == ['3', '5']


@pytest.mark.parametrize(
    ('cores', 'workers', 'cells', 'threads', 'expected'),
    [
        (8, None, 3, None, [2, 2, 2]),
        (8, None, 20, None, [1] * 8),
        (8, 2, 20, None, [4, 4]),
        (2, 4, 20, None, [1] * 4),
        (8, 2, 20, 3, [3, 3]),
        (8, None, 0, None, [8]),
    ],
)
def test_workers_divide_the_cores(monkeypatch, cores, workers, cells, threads, expected):
    monkeypatch.setattr('training.study.paired.physical_cores', lambda: cores)
    assert [slot.threads for slot in share_machine(workers, cells, threads)] == expected


@pytest.mark.parametrize(('workers', 'threads'), [(-1, None), (1, 0)])
def test_less_than_one_worker_or_thread_is_refused(workers, threads):
    with pytest.raises(StudyError, match='at least 1'):
        share_machine(workers, 3, threads)


@pytest.mark.timeout(600)
def test_a_process_that_does_not_end_by_itself_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr('training.study.paired.GRACE_SECONDS', 0.2)
    begun = tmp_path / 'begun'
    study = make(tmp_path, job=ridge_that_stays, places={'begun': str(begun)})
    ends = threading.Thread(target=lambda: (_wait_until(begun.exists), os.kill(os.getpid(), signal.SIGINT)))
    ends.start()
    with pytest.raises(KeyboardInterrupt):
        run(study, workers=1)
    ends.join()
    assert not _runs(int(begun.read_text()))
