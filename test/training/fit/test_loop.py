"""The trainer: what it learns from, what it refuses, and that a study's arms differ in nothing but their losses."""

import dataclasses
import math

import pytest
from tiny_training import CLASSES, SIZE, architecture, columns, run_of, write_network, write_pictures

torch = pytest.importorskip('torch')

from training.data.augment import AugmentSettings  # noqa: E402
from training.distill.losses import LOSSES  # noqa: E402
from training.distill.outputs import measure_shape  # noqa: E402
from training.distill.settings import DistillSettings, TermSettings  # noqa: E402
from training.distill.teacher import Teacher  # noqa: E402
from training.errors import FitError, LossError  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.families import UltralyticsYolo  # noqa: E402
from training.fit.freezing import freeze  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402
from training.fit.signals import Signals  # noqa: E402
from training.models.weights import build_network, load_network, save_weights  # noqa: E402

SETTINGS = FitSettings(image_size=SIZE, batch=4, steps=3, warmup_steps=0, precision='float32', ema_decay=0.0)

STILL = AugmentSettings(mosaic=0, scale=0, translate=0, fliplr=0, hsv_h=0, hsv_s=0, hsv_v=0)


@pytest.fixture(scope='module')
def plain(pictures, tmp_path_factory):
    """A training from labels alone."""
    return fit_detector(job(pictures), tmp_path_factory.mktemp('plain'))


def job(pictures, teacher=None, *terms, **changes):
    """A training; with terms where they are given."""
    named = tuple(TermSettings(term) if isinstance(term, str) else term for term in terms)
    given = {'teacher': teacher, 'distill': DistillSettings(named)} if named else {}
    changes = {'student': architecture(), 'settings': SETTINGS, **given, **changes}
    return FitJob(classes=CLASSES, images=pictures, **changes)


def state(result):
    return load_network(result.weights)[0].state_dict()


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_training_moves_the_weights_and_logs_every_step(pictures, plain, tmp_path):
    fresh = fit_detector(
        job(pictures, settings=dataclasses.replace(SETTINGS, steps=1, learning_rate=1e-12, weight_decay=0.0)), tmp_path
    )
    assert not equal(state(plain), state(fresh))
    log = columns(plain.log)
    assert log['step'] == ['1', '2', '3']
    assert {'loss', 'task', 'task/box_loss', 'task/cls_loss', 'task/dfl_loss', 'gradient'} <= log.keys()
    assert all(math.isfinite(float(value)) for value in log['loss'])
    assert list((plain.log.parent / 'tensorboard').iterdir())


def test_training_learns(pictures, tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=100, warmup_steps=10, learning_rate=0.01, augment=STILL)
    losses = [
        float(value) for value in columns(fit_detector(job(pictures, settings=settings), tmp_path).log)['task/box_loss']
    ]
    assert sum(losses[-20:]) / 20 < 0.6 * sum(losses[:60]) / 60


USABLE = {
    'map': ('cwd', 'pkd', 'mgd', 'fitnet', 'at', 'nst', 'vid', 'ft'),
    'maps': ('fsp', 'ab'),
    'maps, boxes': ('fgfi', 'fgd'),
    'vectors': ('sp', 'cc', 'rkd', 'pkt'),
    'class scores': ('bckd', 'binary_kd'),
    'box distributions': ('ld',),
    'cross head': ('crosskd',),
    'queries': (),  # needs a teacher that predicts each object once
}


def test_every_usable_loss_has_a_term_of_its_own_in_the_log(pictures, teacher, tmp_path):
    names = [name for kind in USABLE.values() for name in kind] + ['ultralytics']
    terms = [TermSettings(name, weight=0.01, start_step=0) for name in names]
    settings = dataclasses.replace(SETTINGS, steps=1)
    terms.append(TermSettings('cwd', on='scores', weight=1.0))
    # Of the teacher's width: FSP's matrices have no adapter.
    whole = job(pictures, teacher, *terms, settings=settings, student=architecture(width=0.1875))
    log = columns(fit_detector(whole, tmp_path).log)
    named = {'cwd1', 'cwd2', *names} - {'cwd'}
    assert named <= log.keys()
    assert all(float(log[name][0]) != 0 for name in named)


@pytest.mark.parametrize('name', [name for name in LOSSES if LOSSES[name].takes not in USABLE])
def test_losses_of_classifiers_are_refused(pictures, teacher, tmp_path, name):
    with pytest.raises(LossError, match='one row an image, which detectors do not have'):
        fit_detector(job(pictures, teacher, name), tmp_path)


def test_a_weight_of_zero_is_the_baseline_bit_by_bit(pictures, teacher, plain, tmp_path):
    """MGD draws random numbers and trains an adapter; neither may reach the baseline."""
    beside = fit_detector(job(pictures, teacher, TermSettings('mgd', weight=0.0)), tmp_path)
    assert equal(state(plain), state(beside))


def test_a_tiny_weight_sees_the_same_images(pictures, teacher, plain, tmp_path):
    """The arms of a study differ in their losses alone: the first step's task loss is the same number."""
    alone = columns(plain.log)
    beside = columns(fit_detector(job(pictures, teacher, 'mgd', 'cwd'), tmp_path).log)
    assert beside['task'][0] == alone['task'][0]
    assert beside['task'][2] != alone['task'][2]


def test_adapters_are_trained_and_not_exported(pictures, teacher, tmp_path):
    run = run_of(job(pictures, teacher, TermSettings('cwd', adapter='conv')), tmp_path / 'run')
    before = [value.detach().clone() for value in run.terms.parameters()]
    run.resume()
    run.train(Signals())
    after = list(run.terms.parameters())
    assert before
    assert all(not torch.equal(first, second) for first, second in zip(before, after, strict=True))
    exported = state(run.finish())
    assert exported.keys() == build_network(architecture(), CLASSES).state_dict().keys()


def test_the_teacher_that_is_used_is_the_file_that_was_named(pictures, teacher, tmp_path):
    """A known fault: only the teacher's architecture was read, and random weights taught."""
    network, _ = load_network(teacher)
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        _, wanted = network(images)
    used = Teacher(teacher, CLASSES, torch.device('cpu'), torch.float32)
    torch.testing.assert_close(used(images).branches['one2many']['scores'], wanted['scores'], rtol=1e-4, atol=1e-4)
    assert used.tensors == len(network.state_dict())
    used.check_unchanged()


def test_another_teacher_gives_another_student(pictures, teacher, tmp_path):
    other = write_network(tmp_path / 'other.pt', architecture(width=0.1875), seed=12)
    results = [fit_detector(job(pictures, file, 'cwd'), tmp_path / file.stem) for file in (teacher, other)]
    assert not equal(*(state(result) for result in results))


def test_a_teacher_that_changes_is_found_out(pictures, teacher, tmp_path):
    used = Teacher(teacher, CLASSES, torch.device('cpu'), torch.float32)
    next(used._network.parameters()).data.add_(1e-3)
    with pytest.raises(FitError, match='changed during the training'):
        used.check_unchanged()


def test_layers_by_name_and_number(pictures, teacher, tmp_path):
    term = TermSettings('cwd', student_layers=(4, 'model.6'), teacher_layers=(4, 6), level_weights=(2.0, 1.0))
    assert float(columns(fit_detector(job(pictures, teacher, term), tmp_path).log)['cwd'][0]) > 0


def test_a_term_without_effect_is_found_out(pictures, teacher, tmp_path):
    settings = dataclasses.replace(SETTINGS, freeze=('model.',))
    with pytest.raises(FitError, match='nothing to train'):
        fit_detector(job(pictures, teacher, 'cwd', student=teacher, settings=settings), tmp_path)
    layers = [f'model.{layer}.' for layer in range(22) if layer not in (10, 11, 13, 14, 17, 20)]  # those with weights
    settings = dataclasses.replace(SETTINGS, freeze=tuple(layers))
    with pytest.raises(FitError, match='cwd has no effect: its gradient on the student is exactly 0 at step 1'):
        fit_detector(job(pictures, teacher, 'cwd', settings=settings), tmp_path)


def test_a_batch_without_objects_is_no_fault_of_fgfi(pictures, teacher, tmp_path):
    empty = write_pictures(tmp_path / 'empty', 12)
    for file in empty[1:]:
        (file.parents[1] / 'labels' / f'{file.stem}.txt').write_text('')
    settings = dataclasses.replace(SETTINGS, steps=2, augment=AugmentSettings(mosaic=0))
    log = columns(
        fit_detector(job(empty, teacher, TermSettings('fgfi', start_step=0), settings=settings), tmp_path / 'run').log
    )
    assert '0' in log['fgfi']


def test_a_late_term_sets_in_when_it_should(pictures, teacher, tmp_path):
    term = TermSettings('cwd', start_step=2)
    log = columns(fit_detector(job(pictures, teacher, term), tmp_path).log)
    assert log['cwd'][:2] == ['', '']
    assert float(log['cwd'][2]) > 0


def test_a_loss_that_becomes_nan_stops_the_run_by_name(pictures, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(LOSSES['cwd'], 'forward', lambda self, s, t: s.sum() * float('nan'))
    with pytest.raises(FitError, match='cwd became nan at step 1'):
        fit_detector(job(pictures, teacher, 'cwd', 'pkd'), tmp_path)


def test_nan_keeps_the_last_good_checkpoint(pictures, tmp_path, monkeypatch):
    settings = dataclasses.replace(SETTINGS, steps=4, checkpoint_steps=2)
    real, count = UltralyticsYolo.predict, iter(range(100))

    def broken(self, *given):
        predictions = real(self, *given)
        return predictions if next(count) < 2 else {**predictions, 'scores': predictions['scores'] * float('nan')}

    monkeypatch.setattr(UltralyticsYolo, 'predict', broken)
    with pytest.raises(FitError, match=r'task.* became nan at step 3; the last good checkpoint is .*checkpoint\.pt'):
        fit_detector(job(pictures, settings=settings), tmp_path)
    monkeypatch.undo()
    assert columns(fit_detector(job(pictures, settings=settings), tmp_path).log)['step'] == ['1', '2', '3', '4']


def test_unlabelled_images_teach_and_the_task_ignores_them(pictures, teacher, tmp_path):
    others = write_pictures(tmp_path / 'others', 6, seed=5)
    settings = dataclasses.replace(SETTINGS, steps=2, unlabelled_batch=2)
    with_them = job(pictures, teacher, 'binary_kd', 'fgfi', settings=settings, unlabelled=others)
    first = fit_detector(with_them, tmp_path / 'labels')
    for file in others:
        (file.parents[1] / 'labels' / f'{file.stem}.txt').write_text('0 0.5 0.5 1 1\n')
    second = fit_detector(dataclasses.replace(with_them, images=pictures), tmp_path / 'other labels')
    assert equal(state(first), state(second))
    log = columns(first.log)
    assert float(log['binary_kd/unlabelled'][0]) > 0
    assert 'fgfi/unlabelled' not in log
    without = fit_detector(job(pictures, teacher, 'binary_kd', 'fgfi'), tmp_path / 'without')
    assert not equal(state(first), state(without))


def test_the_task_loss_is_that_of_the_labelled_images_alone(pictures, teacher, tmp_path):
    """With frozen normalization, what else is in the batch cannot change it."""
    others = write_pictures(tmp_path / 'others', 6, seed=5)
    settings = dataclasses.replace(SETTINGS, steps=1)
    mixed = dataclasses.replace(settings, unlabelled_batch=2)
    tasks = []
    for name, of_job in (
        ('alone', job(pictures, teacher, 'binary_kd', settings=settings)),
        ('mixed', job(pictures, teacher, 'binary_kd', settings=mixed, unlabelled=others)),
    ):
        run = run_of(of_job, tmp_path / name)
        run.student.eval()
        run.student.model[-1].training = True
        run.student.training = True
        run.rates.set(run.optimizer, 0)
        tasks.append(run._accumulate(run.task.batches(0))['task'])
    assert tasks[0] == pytest.approx(tasks[1], rel=1e-6)


def test_accumulation_sees_the_same_images(pictures, tmp_path):
    """Two batches of two are one of four, but for the statistics of batch norm."""
    jobs = {
        'once': job(pictures, settings=dataclasses.replace(SETTINGS, steps=1)),
        'twice': job(pictures, settings=dataclasses.replace(SETTINGS, steps=1, batch=2, accumulate=2)),
    }
    gradients = []
    for name, of_job in jobs.items():
        run = run_of(of_job, tmp_path / name)
        run.student.eval()
        run.student.model[-1].training = True
        run.student.training = True
        # One box a batch weighs as much as many: Ultralytics divides by the objects of the batch.
        run.student.criterion = lambda found, _: (found['scores'].mean((1, 2)) * torch.ones(3, 1), {})
        run.rates.set(run.optimizer, 0)
        run._accumulate(run.task.batches(0))
        gradients.append(run.student.model[0].conv.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_memory_that_does_not_suffice_halves_the_batch_once(pictures, tmp_path, monkeypatch, caplog):
    real, sizes = UltralyticsYolo.predict, []

    def scarce(self, network, images, targets):
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return real(self, network, images, targets)

    monkeypatch.setattr(UltralyticsYolo, 'predict', scarce)
    result = fit_detector(job(pictures), tmp_path)
    assert sizes == [4, *[2] * 6]
    assert '2 instead of 4 images at once, twice as often' in caplog.text
    assert columns(result.log)['step'] == ['1', '2', '3']

    lacking = RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")
    monkeypatch.setattr(UltralyticsYolo, 'predict', lambda *_: (_ for _ in ()).throw(lacking))
    with pytest.raises(FitError, match='memory does not suffice for a batch of 2: lower batch'):
        fit_detector(job(pictures), tmp_path / 'never')


def test_an_average_of_weights_is_the_result(pictures, plain, tmp_path):
    settings = dataclasses.replace(SETTINGS, ema_decay=0.5, ema_ramp=0)
    averaged = fit_detector(job(pictures, settings=settings), tmp_path)
    assert not equal(state(plain), state(averaged))


def test_frozen_layers_stay(pictures, tmp_path):
    settings = dataclasses.replace(SETTINGS, freeze=('model.0.', 'model.1.'))
    torch.manual_seed(1)
    network = build_network(architecture(), CLASSES)
    result = state(fit_detector(job(pictures, student=network, settings=settings), tmp_path))
    before = network.state_dict()
    same = [name for name in before if torch.equal(before[name], result[name])]
    assert {name for name in before if name.startswith(('model.0.', 'model.1.'))} <= set(same)
    assert not any(name.startswith('model.2.cv1.conv') for name in same)
    with pytest.raises(FitError, match="no layer begins with 'backbone'"):
        fit_detector(job(pictures, settings=dataclasses.replace(SETTINGS, freeze=('backbone',))), tmp_path / 'x')


@pytest.mark.parametrize(
    ('freeze', 'stays'),
    [(10, tuple(f'model.{layer}.' for layer in range(10))), (('model.15.', 'model.22.'), ('model.15.', 'model.22.'))],
    ids=['the backbone by number', 'the upper layers by name'],
)
def test_fine_tuning_a_weights_file_leaves_frozen_layers_as_they_were(pictures, tmp_path, freeze, stays):
    """Also the statistics of their normalizations, and through the average of weights."""
    torch.manual_seed(1)
    network = build_network(architecture(), CLASSES)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    save_weights(network, tmp_path / 'teacher.pt', CLASSES)
    settings = dataclasses.replace(SETTINGS, freeze=freeze, ema_decay=0.9, ema_ramp=0)
    result = state(fit_detector(job(pictures, student=tmp_path / 'teacher.pt', settings=settings), tmp_path / 'run'))
    before = network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], result[name])}
    assert not [name for name in changed if name.startswith(stays)]
    assert {name for name in before if name.startswith('model.12.')} <= changed


def test_layers_that_cannot_be_counted_are_to_be_named():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1))
    with pytest.raises(FitError, match=r'freeze: 10 counts the layers of Ultralytics; name those .* like 0\.weight'):
        freeze(network, 10)


def test_a_pruned_student_is_compared_by_its_own_channels(pictures, teacher, tmp_path):
    """kept: the student's channel j is the teacher's channel kept[j]; no adapter is trained."""
    shape = measure_shape(build_network(architecture(), CLASSES), (), SIZE)
    kept = [list(range(1, shape.channels[level] + 1)) for level in shape.levels]
    run = run_of(job(pictures, teacher, 'cwd', kept=kept), tmp_path / 'run')
    assert not list(run.terms.parameters())
    with pytest.raises(LossError, match='channels were kept, the student has'):
        fit_detector(job(pictures, teacher, 'cwd', kept=[[0], [0], [0]]), tmp_path / 'x')
