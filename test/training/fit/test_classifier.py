"""Classifiers that learn from a teacher: thirteen methods, resuming, and what is refused."""

import os
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip('torch')
import torch

from training.data.image_folder import Augmentation, ImageFolder, PictureFiles, read_image_folder
from training.distill.classifier_methods import METHODS, MethodSettings
from training.errors import DataError, FitError, Interrupted, LossError, WeightsError
from training.fit import checkpoint
from training.fit.classifier import (
    ClassifierTask,
    ClassifyJob,
    ClassifySettings,
    accuracy,
    fit_classifier,
    shown,
)
from training.fit.loop import Run
from training.fit.processes import Group
from training.models.yolov4.backbones import Classifier
from training.models.yolov4.classifier_files import load_classifier, save_classifier

CLASSES = ('dark', 'bright', 'red')
SETTINGS = ClassifySettings(size=32, steps=2, first_steps=1, batch=4, warmup_steps=1)
ALONE = Group(0, 1, torch.device('cpu'))


@pytest.fixture(scope='module')
def data():
    generator = torch.Generator().manual_seed(0)
    class_ids = torch.arange(18) % 3
    images = torch.randint(0, 100, (18, 3, 32, 32), generator=generator, dtype=torch.uint8)
    images[class_ids == 1] += 120
    images[class_ids == 2, 0] += 150
    return ImageFolder(CLASSES, images, class_ids)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    torch.manual_seed(7)
    file = tmp_path_factory.mktemp('teacher') / 'weights.pt'
    save_classifier(Classifier('mobilenet_v2', 3), 'mobilenet_v2', CLASSES, file)
    return file


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def job(teacher, loss='crd', **changes):
    settings = {'negatives': 8} if loss == 'crd' else {}
    whole = ClassifyJob('mobilenet_v2', SETTINGS, 0, None, teacher, MethodSettings(loss, settings=settings))
    return replace(whole, **changes)


def state(file):
    return load_classifier(file)[0].state_dict()


def assert_equal(first, second):
    first, second = state(first), state(second)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize('loss', METHODS)
def test_every_method_trains(loss, data, teacher, tmp_path):
    steps = 3 if loss in ('ab', 'fsp', 'ft') else 2
    weights = fit_classifier(job(teacher, loss), data, tmp_path)
    header, *_, last = (tmp_path / 'log.csv').read_text().splitlines()
    values = dict(zip(header.split(','), last.split(','), strict=True))
    assert values['step'] == str(steps)
    assert float(values['task']) > 0
    assert (values.get(loss, '') == '') == (loss in ('ab', 'fsp'))  # these are for the stage before the task alone
    assert load_classifier(weights)[1] == CLASSES


def test_a_resumed_run_with_memory_banks_equals_one_that_was_not_interrupted(
    data, teacher, tmp_path, monkeypatch, one_thread
):
    wanted = job(teacher, settings=replace(SETTINGS, steps=5, checkpoint_steps=2))
    whole = fit_classifier(wanted, data, tmp_path / 'whole')

    from training.fit import classifier as classification

    def interrupted(of_data, settings, seed, step, part):
        if step == 4:
            raise RuntimeError('the power fails')
        return shown(of_data, settings, seed, step, part)

    monkeypatch.setattr(classification, 'shown', interrupted)
    with pytest.raises(RuntimeError, match='power'):
        fit_classifier(wanted, data, tmp_path / 'parts')
    assert (tmp_path / 'parts' / 'checkpoint.pt').is_file()

    steps = []
    monkeypatch.setattr(classification, 'shown', lambda *given: steps.append(given[3]) or shown(*given))
    parts = fit_classifier(wanted, data, tmp_path / 'parts')
    assert steps == [4]
    assert_equal(whole, parts)
    assert (tmp_path / 'parts' / 'log.csv').read_bytes() == (tmp_path / 'whole' / 'log.csv').read_bytes()
    assert not (tmp_path / 'parts' / 'checkpoint.pt').exists()


def test_a_checkpoint_holds_banks_normalizers_and_generator(data, teacher, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(checkpoint, 'write', lambda folder, state: saved.append(state))
    wanted = job(teacher, settings=replace(SETTINGS, steps=3, checkpoint_steps=2))
    fit_classifier(wanted, data, tmp_path)
    method = saved[0]['terms']
    assert method['0.loss.student_bank'].shape == method['0.loss.teacher_bank'].shape == (18, 128)
    assert bool((method['0.loss.normalizers'] > 0).all())
    assert method['0.loss._extra_state'].dtype == torch.uint8
    assert saved[0]['optimizer']['state']


def test_a_run_that_came_to_its_end_is_not_made_again(data, teacher, tmp_path):
    weights = fit_classifier(job(teacher), data, tmp_path)
    before = weights.stat().st_mtime_ns
    assert fit_classifier(job(teacher), data, tmp_path) == weights
    assert weights.stat().st_mtime_ns == before
    fit_classifier(job(teacher, seed=1), data, tmp_path)
    assert weights.stat().st_mtime_ns > before


def test_with_weight_0_a_run_equals_the_plain_one(data, teacher, tmp_path, one_thread):
    plain = fit_classifier(job(None, method=None), data, tmp_path / 'plain')
    nothing = MethodSettings('crd', 0.0, {'negatives': 8})
    taught = fit_classifier(job(teacher, method=nothing), data, tmp_path / 'taught')
    assert_equal(plain, taught)


@pytest.mark.parametrize('loss', ['fsp', 'fitnet', 'ft'])
def test_kept_answers_teach_the_same_and_the_teacher_is_asked_once(
    loss, data, teacher, tmp_path, monkeypatch, one_thread
):
    asked = fit_classifier(job(teacher, loss), data, tmp_path / 'asked')
    kept = job(teacher, loss, answers=tmp_path / 'kept')
    first = fit_classifier(kept, data, tmp_path / 'first')
    assert list((tmp_path / 'kept').rglob('head/*'))

    def never(*_):
        raise AssertionError('the teacher was asked again')

    monkeypatch.setattr(ClassifierTask, '_asked', never)
    second = fit_classifier(kept, data, tmp_path / 'second')
    assert_equal(asked, first)
    assert_equal(asked, second)
    with pytest.raises(AssertionError, match='asked again'):
        fit_classifier(replace(kept, seed=1), data, tmp_path / 'other pictures')


def test_a_random_teacher_knows_nothing_of_the_file_and_its_answers_are_kept_apart(data, teacher, tmp_path, one_thread):
    control = job(teacher, method=MethodSettings('kd', teacher_control='random'), answers=tmp_path / 'kept')
    task = ClassifierTask(control, data, ALONE)
    own, read = task.teacher.state_dict(), state(teacher)
    assert not torch.equal(own['head.weight'], read['head.weight'])
    assert not torch.equal(
        own['head.weight'], task.bare().state_dict()['head.weight']
    )  # nor is it the student at first
    random = fit_classifier(control, data, tmp_path / 'random')
    real = fit_classifier(replace(control, method=MethodSettings('kd')), data, tmp_path / 'real')
    assert len(list((tmp_path / 'kept').rglob('head'))) == 2
    assert not torch.equal(state(random)['head.weight'], state(real)['head.weight'])
    assert_equal(random, fit_classifier(replace(control, answers=None), data, tmp_path / 'asked'))


def test_a_shuffled_teacher_speaks_of_another_picture_of_the_batch(data, teacher, tmp_path, one_thread):
    control = job(teacher, method=MethodSettings('kd', teacher_control='shuffled'), answers=tmp_path / 'kept')
    real = replace(control, method=MethodSettings('kd'))
    images, places = next(iter(ClassifierTask(real, data, ALONE).batches(0)))
    said, other = (ClassifierTask(one, data, ALONE)._taught(images, 0, 0) for one in (real, control))
    fine = said[1][0].flatten(1)
    moved = [int((fine == row).all(1).nonzero()) for row in other[1][0].flatten(1)]
    assert sorted(moved) == list(range(len(places)))
    assert all(place != was for place, was in enumerate(moved))
    assert torch.equal(other[2], said[2][moved])
    assert all(torch.equal(given, kept[moved]) for given, kept in zip(other[1], said[1], strict=True))
    fit_classifier(control, data, tmp_path / 'shuffled')


@pytest.mark.parametrize(
    ('changes', 'error', 'says'),
    [
        ({'teacher': None}, FitError, 'needs a teacher'),
        ({'settings': replace(SETTINGS, batch=40)}, DataError, 'smaller batch'),
        ({'settings': replace(SETTINGS, learning_rate=float('inf'), steps=3)}, FitError, 'became (nan|inf) at step'),
    ],
)
def test_what_cannot_be_trained_is_refused(changes, error, says, data, teacher, tmp_path):
    with pytest.raises(error, match=says):
        fit_classifier(replace(job(teacher), **changes), data, tmp_path)


def test_a_teacher_of_other_classes_is_refused(data, tmp_path):
    file = tmp_path / 'other.pt'
    save_classifier(Classifier('mobilenet_v2', 3), 'mobilenet_v2', ('dark', 'bright', 'green'), file)
    with pytest.raises(FitError, match='the teacher knows dark, bright, green'):
        fit_classifier(job(file), data, tmp_path / 'run')


def test_a_damaged_checkpoint_is_an_error(data, teacher, tmp_path):
    (tmp_path / 'checkpoint.pt').write_bytes(b'PK damaged')
    with pytest.raises(FitError, match='remove it to start anew'):
        fit_classifier(job(teacher), data, tmp_path)


def test_files_that_are_no_classifiers_are_refused(tmp_path):
    file = tmp_path / 'weights.pt'
    for content in (
        {'backbone': 'mobilenet_v2', 'classes': ['a']},
        [1, 2],
        {'backbone': 'vgg', 'classes': [], 'state': {}},
    ):
        torch.save(content, file)
        with pytest.raises(WeightsError):
            load_classifier(file)
    file.write_text('text')
    with pytest.raises(WeightsError, match='cannot be read'):
        load_classifier(file)


@pytest.mark.parametrize('loss', ['cwd', 'krd'])
def test_methods_that_do_not_distil_classifiers_are_refused(loss):
    with pytest.raises((ValueError, LossError)):
        MethodSettings(loss)


def test_accuracy_is_the_share_of_right_answers(data, tmp_path):
    classifier = Classifier('mobilenet_v2', 3)
    with torch.no_grad():
        classifier.head.weight.zero_()
        classifier.head.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    save_classifier(classifier, 'mobilenet_v2', CLASSES, tmp_path / 'weights.pt')
    assert accuracy(tmp_path / 'weights.pt', data, batch=5) == pytest.approx(1 / 3)


def folder_of_pictures(tmp_path, count=18):
    """The same kind of pictures as files of 40 × 30 pixels, a folder a class."""
    generator = np.random.default_rng(0)
    for number in range(count):
        name = CLASSES[number % 3]
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        image = generator.integers(0, 100, (30, 40, 3), np.uint8) + np.uint8(120 * (number % 3 == 1))
        cv2.imwrite(str(tmp_path / name / f'{number:02d}.png'), image)
    return tmp_path


FULL = replace(
    SETTINGS, steps=4, augment=Augmentation(crop=(0.2, 1.0)), label_smoothing=0.1, precision='bfloat16', workers=2
)


def test_a_set_is_read_from_its_files_by_workers_in_random_crops_and_half_precision(tmp_path, one_thread):
    data = read_image_folder(folder_of_pictures(tmp_path / 'set'), 32, centered=True)
    assert isinstance(data, PictureFiles)
    plain = ClassifyJob('mobilenet_v2', FULL, 0)
    weights = fit_classifier(plain, data, tmp_path / 'workers')
    alone = fit_classifier(replace(plain, settings=replace(FULL, workers=0)), data, tmp_path / 'alone')
    assert_equal(weights, alone)
    assert 0 <= accuracy(weights, data) <= 1


def test_a_set_that_exceeds_memory_shows_the_same_pictures(tmp_path, monkeypatch):
    folder = folder_of_pictures(tmp_path / 'set')
    small = read_image_folder(folder, 32)
    monkeypatch.setattr('training.data.image_folder.MAX_BYTES', 1000)
    large = read_image_folder(folder, 32)
    assert isinstance(small, ImageFolder)
    assert isinstance(large, PictureFiles)
    for step in range(3):
        for first, second in zip(shown(small, SETTINGS, 0, step), shown(large, SETTINGS, 0, step), strict=True):
            assert torch.equal(first, second)


def test_what_a_process_shows_is_its_part_of_the_batch(tmp_path):
    data = read_image_folder(folder_of_pictures(tmp_path), 32, centered=True)
    whole = shown(data, FULL, 0, 1)
    parts = [shown(data, FULL, 0, 1, slice(first, first + 2)) for first in (0, 2)]
    for of_whole, of_parts in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(of_whole, torch.cat(of_parts))


def test_a_picture_that_cannot_be_read_is_left_out_when_it_is_met(tmp_path, caplog):
    folder = folder_of_pictures(tmp_path)
    broken = sorted((folder / 'dark').iterdir())[0]
    broken.write_bytes(b'broken')
    data = read_image_folder(folder, 32, centered=True)
    places = data.whole(torch.tensor([data.files.index(broken)] * 2))[1]
    assert places.tolist() == [data.files.index(broken) + 1] * 2
    assert caplog.text.count('left out') == 1


def test_sigterm_leaves_a_checkpoint(data, tmp_path, monkeypatch):
    plain = ClassifyJob('mobilenet_v2', replace(SETTINGS, steps=4), 0)
    whole = fit_classifier(plain, data, tmp_path / 'whole')
    monkeypatch.setattr(Run, '_stop_asked', lambda run, signals: run.step == 2)
    with pytest.raises(Interrupted, match='step 2 of 4'):
        fit_classifier(plain, data, tmp_path / 'parts')
    monkeypatch.undo()
    assert_equal(whole, fit_classifier(plain, data, tmp_path / 'parts'))


def test_a_map_of_one_cell_is_said_to_teach_nothing_and_a_small_stem_gives_it_more(data, teacher, tmp_path, caplog):
    fit_classifier(job(teacher, 'at', settings=replace(SETTINGS, steps=1)), data, tmp_path / 'whole')
    assert 'at learns nothing of stride 32, whose map has one cell' in caplog.text
    caplog.clear()
    small = replace(SETTINGS, steps=1, small_stem=True)
    own = fit_classifier(replace(job(None), method=None, settings=small), data, tmp_path / 'teacher')
    weights = fit_classifier(job(own, 'at', settings=small), data, tmp_path / 'small')
    assert 'nothing' not in caplog.text
    classifier = load_classifier(weights)[0]
    images = torch.rand(1, 3, 32, 32)
    assert [tuple(value.shape[2:]) for value in classifier(images)[1]] == [(8, 8), (4, 4), (2, 2)]


PAIR = """
import sys
from pathlib import Path
import torch
from torch import distributed
from training.data.image_folder import read_image_folder
from training.fit.classifier import ClassifyJob, ClassifySettings, fit_classifier
from training.distill.classifier_methods import MethodSettings
from training.fit.loop import Run

torch.set_num_threads(1)
folder = Path(sys.argv[1])
data = read_image_folder(folder / 'set', 32)
settings = ClassifySettings(size=32, steps=3, batch=4, warmup_steps=1)
method = MethodSettings('crd', settings={'negatives': 8})
job = ClassifyJob('mobilenet_v2', settings, 0, None, folder / 'teacher.pt', method)
every = Run.train
def compared(run, *given):
    every(run, *given)
    for name, value in [*run.student.state_dict().items(), *run.terms.state_dict().items()]:
        both = [torch.empty_like(value) for _ in range(2)]
        distributed.all_gather(both, value.contiguous())
        assert torch.equal(*both), name
Run.train = compared
fit_classifier(job, data, folder / 'pair')
"""


def test_two_processes_train_one_classifier_and_share_their_memory_banks(tmp_path, teacher, repository):
    folder_of_pictures(tmp_path / 'set')
    state = torch.load(teacher, weights_only=True)
    torch.save({**state, 'classes': sorted(CLASSES)}, tmp_path / 'teacher.pt')
    (tmp_path / 'pair.py').write_text(PAIR)
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    done = subprocess.run(
        [*launcher, str(tmp_path / 'pair.py'), str(tmp_path)],
        env={**os.environ, 'PYTHONPATH': str(repository), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert load_classifier(tmp_path / 'pair/weights.pt')[1] == tuple(sorted(CLASSES))
