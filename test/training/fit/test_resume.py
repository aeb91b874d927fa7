"""An interrupted training, continued, is the one that was not interrupted: the same weights and the same log, bit by bit."""

import dataclasses
import errno
import os
import random
import signal

import pytest
from tiny_training import CLASSES, SIZE, architecture, columns, write_pictures

torch = pytest.importorskip('torch')

from training.distill.settings import DistillSettings, TermSettings  # noqa: E402
from training.errors import FitError, Interrupted  # noqa: E402
from training.fit import checkpoint, loop  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402

STEPS = 6
SETTINGS = FitSettings(
    image_size=SIZE, batch=2, unlabelled_batch=1, accumulate=2, steps=STEPS, warmup_steps=3, precision='float32'
)


@pytest.fixture(scope='module')
def whole(pictures, teacher, tmp_path_factory):
    """A job with everything that has a state, and what it leaves when nothing interrupts it.

    MGD draws random numbers and has an adapter, FitNet's adapter has batch norm, CWD starts late.
    """
    folder = tmp_path_factory.mktemp('whole')
    terms = (
        TermSettings('mgd'),
        TermSettings('fitnet', adapter='conv_bn_relu', weight=1.0),
        TermSettings('cwd', start_step=3),
        TermSettings('bckd', ramp_epochs=1.0),
    )
    job = FitJob(
        architecture(),
        CLASSES,
        pictures,
        SETTINGS,
        unlabelled=write_pictures(folder / 'unlabelled', 5, seed=9),
        teacher=teacher,
        distill=DistillSettings(terms),
    )
    return job, fit_detector(job, folder / 'run')


def interrupt_at(monkeypatch, step, number=signal.SIGINT):
    """Send this process a signal in the middle of a step (from 1), as Ctrl-C or a scheduler does."""
    real, calls = loop.Run._update, [0]

    def update(self):
        calls[0] += 1
        if calls[0] == step:
            os.kill(os.getpid(), number)
        return real(self)

    monkeypatch.setattr(loop.Run, '_update', update)


def assert_same(result, wanted):
    assert result.log.read_bytes() == wanted.log.read_bytes()
    assert result.weights.read_bytes() == wanted.weights.read_bytes()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal_at_random_steps(whole, tmp_path, monkeypatch, number):
    job, wanted = whole
    places = random.Random(int(number)).sample(range(1, STEPS), 2)
    done = 0
    for place in sorted(places):
        with monkeypatch.context() as patched:
            interrupt_at(patched, place - done, number)
            with pytest.raises(Interrupted, match=f'stopped at step {place} of {STEPS}: run the same again to go on'):
                fit_detector(job, tmp_path)
        done = place
    assert_same(fit_detector(job, tmp_path), wanted)
    assert not (tmp_path / checkpoint.NAME).exists()


@pytest.mark.parametrize('place', [2, 5])
def test_killed_between_checkpoints(whole, tmp_path, monkeypatch, place):
    """Killed without a warning, a run goes on from its last checkpoint; what the log had beyond it is dropped."""
    job, wanted = whole
    job = dataclasses.replace(job, settings=dataclasses.replace(SETTINGS, checkpoint_steps=2))
    real = loop.Run._update

    def killed(self):
        if self.step == place:
            self.log._file.flush()
            raise SystemExit
        return real(self)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Run, '_update', killed)
        with pytest.raises(SystemExit):
            fit_detector(job, tmp_path)
    assert_same(fit_detector(job, tmp_path), wanted)


def test_killed_before_the_first_checkpoint(whole, tmp_path, monkeypatch):
    job, wanted = whole
    with monkeypatch.context() as patched:
        patched.setattr(loop.Run, '_update', lambda self: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            fit_detector(job, tmp_path)
    assert_same(fit_detector(job, tmp_path), wanted)


def test_a_finished_training_is_not_repeated(whole, monkeypatch):
    job, wanted = whole
    monkeypatch.setattr(loop, 'Run', None)
    assert fit_detector(job, wanted.weights.parent) == wanted


def test_worker_processes_change_nothing(whole, tmp_path):
    job, wanted = whole
    settings = dataclasses.replace(SETTINGS, workers=2)
    assert_same(fit_detector(dataclasses.replace(job, settings=settings), tmp_path), wanted)


@pytest.mark.parametrize(
    ('changes', 'named'),
    [
        ({'seed': 1}, 'seed'),
        ({'settings': dataclasses.replace(SETTINGS, learning_rate=0.01)}, 'fit settings'),
        ({'classes': ('a', 'b'), 'teacher': None, 'distill': None, 'unlabelled': ()}, 'classes'),
    ],
)
def test_another_job_does_not_go_on_from_this_one(whole, tmp_path, monkeypatch, changes, named):
    job, _ = whole
    with monkeypatch.context() as patched:
        interrupt_at(patched, 1)
        with pytest.raises(Interrupted):
            fit_detector(job, tmp_path)
    with pytest.raises(FitError, match=f'unfinished training that differs in .*{named}'):
        fit_detector(dataclasses.replace(job, **changes), tmp_path)


def test_anew_starts_from_the_beginning(whole, tmp_path, monkeypatch):
    job, wanted = whole
    with monkeypatch.context() as patched:
        interrupt_at(patched, 2)
        with pytest.raises(Interrupted):
            fit_detector(dataclasses.replace(job, seed=5), tmp_path)
    assert_same(fit_detector(job, tmp_path, anew=True), wanted)


def test_a_log_that_lost_its_rows_is_an_error(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt_at(patched, 1)
        with pytest.raises(Interrupted):
            fit_detector(whole[0], tmp_path)
    (tmp_path / loop.LOG).write_text('')
    with pytest.raises(FitError, match='shorter than when the checkpoint was written: start anew'):
        fit_detector(whole[0], tmp_path)


@pytest.mark.parametrize('content', [b'', b'no checkpoint', b'PK\x03\x04 broken off'])
def test_a_broken_checkpoint_is_an_error(whole, tmp_path, content):
    (tmp_path / checkpoint.NAME).write_bytes(content)
    with pytest.raises(FitError, match=r'checkpoint\.pt cannot be read: .*; remove it to start anew'):
        fit_detector(whole[0], tmp_path)


def test_a_checkpoint_runs_no_code(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'broken into'),)

    torch.save({'job': Hostile()}, tmp_path / checkpoint.NAME)
    with pytest.raises(FitError, match='cannot be read'):
        checkpoint.read(tmp_path)
    assert not (tmp_path / 'broken into').exists()


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    checkpoint.write(tmp_path, {'job': {}, 'step': 1})

    def full(state, file):
        file.write(b'half of it')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(FitError, match=r'No space left on device; is the disk full\? the checkpoint before it stays'):
        checkpoint.write(tmp_path, {'job': {}, 'step': 2})
    assert checkpoint.read(tmp_path)['step'] == 1
    assert [file.name for file in tmp_path.iterdir()] == [checkpoint.NAME]


def test_the_log_names_every_step_once(whole):
    assert columns(whole[1].log)['step'] == [str(step) for step in range(1, STEPS + 1)]
