"""Classifiers that learn from a teacher: thirteen methods, resuming, and what is refused."""

from dataclasses import replace

import pytest

pytest.importorskip('torch')
import torch

from training.data.image_folder import ImageFolder
from training.distill import answers
from training.distill.classification import (
    METHODS,
    ClassifyJob,
    ClassifySettings,
    MethodSettings,
    accuracy,
    fit_classifier,
    load_classifier,
    save_classifier,
    shown,
)
from training.errors import DataError, FitError, LossError, WeightsError
from training.models.yolov4.backbones import Classifier

CLASSES = ('dark', 'bright', 'red')
SETTINGS = ClassifySettings(size=32, steps=2, first_steps=1, batch=4, warmup_steps=1)


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
    weights = fit_classifier(job(teacher, loss), data, tmp_path, say=False)
    header, last = (tmp_path / 'log.csv').read_text().splitlines()
    values = dict(zip(header.split(','), last.split(','), strict=True))
    assert values['step'] == str(steps)
    assert float(values['task']) > 0
    assert (values.get(loss, '') == '') == (loss in ('ab', 'fsp'))  # these are for the stage before the task alone
    assert load_classifier(weights)[1] == CLASSES


def test_a_resumed_run_with_memory_banks_equals_one_that_was_not_interrupted(
    data, teacher, tmp_path, monkeypatch, one_thread
):
    wanted = job(teacher, settings=replace(SETTINGS, steps=5, checkpoint_steps=2))
    whole = fit_classifier(wanted, data, tmp_path / 'whole', say=False)

    from training.distill import classification

    def interrupted(of_data, settings, seed, step):
        if step == 4:
            raise RuntimeError('the power fails')
        return shown(of_data, settings, seed, step)

    monkeypatch.setattr(classification, 'shown', interrupted)
    with pytest.raises(RuntimeError, match='power'):
        fit_classifier(wanted, data, tmp_path / 'parts', say=False)
    assert (tmp_path / 'parts' / 'checkpoint.pt').is_file()

    steps = []
    monkeypatch.setattr(classification, 'shown', lambda *given: steps.append(given[3]) or shown(*given))
    parts = fit_classifier(wanted, data, tmp_path / 'parts', say=False)
    assert steps == [4]
    assert_equal(whole, parts)
    assert (tmp_path / 'parts' / 'log.csv').read_bytes() == (tmp_path / 'whole' / 'log.csv').read_bytes()
    assert not (tmp_path / 'parts' / 'checkpoint.pt').exists()


def test_a_checkpoint_holds_banks_normalisers_and_generator(data, teacher, tmp_path, monkeypatch):
    from training.distill import classification

    saved = []
    monkeypatch.setattr(classification, '_write', lambda content, file: saved.append(content))
    fit_classifier(job(teacher, settings=replace(SETTINGS, checkpoint_steps=2)), data, tmp_path, say=False)
    method = saved[0]['method']
    assert method['loss.student_bank'].shape == method['loss.teacher_bank'].shape == (18, 128)
    assert bool((method['loss.normalisers'] > 0).all())
    assert method['loss._extra_state'].dtype == torch.uint8
    assert saved[0]['optimizer']['state']


def test_a_run_that_came_to_its_end_is_not_made_again(data, teacher, tmp_path):
    weights = fit_classifier(job(teacher), data, tmp_path, say=False)
    before = weights.stat().st_mtime_ns
    assert fit_classifier(job(teacher), data, tmp_path, say=False) == weights
    assert weights.stat().st_mtime_ns == before
    fit_classifier(job(teacher, seed=1), data, tmp_path, say=False)
    assert weights.stat().st_mtime_ns > before


def test_with_weight_0_a_run_equals_the_plain_one(data, teacher, tmp_path, one_thread):
    plain = fit_classifier(job(None, method=None), data, tmp_path / 'plain', say=False)
    nothing = MethodSettings('crd', 0.0, {'negatives': 8})
    taught = fit_classifier(job(teacher, method=nothing), data, tmp_path / 'taught', say=False)
    assert_equal(plain, taught)


@pytest.mark.parametrize('loss', ['fsp', 'fitnet'])
def test_kept_answers_teach_the_same(loss, data, teacher, tmp_path, one_thread):
    network, _ = load_classifier(teacher)
    pictures = (shown(data, SETTINGS, 0, step)[0] for step in range(3))
    answers.keep(network, pictures, 3, tmp_path / 'kept')
    asked = fit_classifier(job(teacher, loss), data, tmp_path / 'asked', say=False)
    told = fit_classifier(job(teacher, loss, answers=tmp_path / 'kept'), data, tmp_path / 'told', say=False)
    first, second = state(asked), state(told)
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-3, rtol=1e-3)


def test_answers_of_too_few_steps_are_refused(data, teacher, tmp_path):
    network, _ = load_classifier(teacher)
    answers.keep(network, (shown(data, SETTINGS, 0, 0)[0] for _ in range(1)), 1, tmp_path / 'kept')
    with pytest.raises(FitError, match='kept for 1 steps'):
        fit_classifier(job(teacher, answers=tmp_path / 'kept'), data, tmp_path / 'run', say=False)
    with pytest.raises(FitError, match='no answers'):
        fit_classifier(job(teacher, answers=tmp_path / 'nowhere'), data, tmp_path / 'run', say=False)


@pytest.mark.parametrize(
    ('changes', 'error', 'says'),
    [
        ({'teacher': None}, FitError, 'needs a teacher'),
        ({'settings': replace(SETTINGS, batch=40)}, DataError, 'smaller batch'),
        ({'settings': replace(SETTINGS, learning_rate=float('inf'), steps=3)}, FitError, 'is nan in step'),
    ],
)
def test_what_cannot_be_trained_is_refused(changes, error, says, data, teacher, tmp_path):
    with pytest.raises(error, match=says):
        fit_classifier(replace(job(teacher), **changes), data, tmp_path, say=False)


def test_a_teacher_of_other_classes_is_refused(data, tmp_path):
    file = tmp_path / 'other.pt'
    save_classifier(Classifier('mobilenet_v2', 3), 'mobilenet_v2', ('dark', 'bright', 'green'), file)
    with pytest.raises(FitError, match='the teacher knows dark, bright, green'):
        fit_classifier(job(file), data, tmp_path / 'run', say=False)


def test_a_damaged_checkpoint_is_told_and_not_used(data, teacher, tmp_path, caplog):
    (tmp_path / 'checkpoint.pt').write_bytes(b'PK damaged')
    fit_classifier(job(teacher), data, tmp_path, say=False)
    assert 'begins anew' in caplog.text


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
