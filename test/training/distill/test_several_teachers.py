"""Several teachers of one student: how each is weighed, that each has an effect, and that nobody is heard by mistake."""

import dataclasses
import math
import os
import signal

import pytest
from tiny_training import CLASSES, SIZE, architecture, columns, run_of, write_pictures

torch = pytest.importorskip('torch')

from training.distill.confidence import Truth, doubts, errors, rank  # noqa: E402
from training.distill.losses import make  # noqa: E402
from training.distill.outputs import Outputs, Shape  # noqa: E402
from training.distill.settings import DistillSettings, TermSettings  # noqa: E402
from training.distill.teacher_terms import scaled  # noqa: E402
from training.errors import FitError, Interrupted, RecipeError  # noqa: E402
from training.fit import loop  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402
from training.fit.signals import Signals  # noqa: E402
from training.models.weights import build_network, load_network, save_weights  # noqa: E402
from training.run.recipe import StageRecipe  # noqa: E402
from training.schema import counted, read  # noqa: E402

SETTINGS = FitSettings(image_size=SIZE, batch=2, steps=3, warmup_steps=0, precision='float32', ema_decay=0.0)
TERMS = (TermSettings('cwd'), TermSettings('bckd', weight=1.0))


@pytest.fixture(scope='module')
def teachers(tmp_path_factory):
    """A YOLOv8 of one width and a YOLOv5 of another."""
    folder = tmp_path_factory.mktemp('teachers')
    torch.manual_seed(11)
    architectures = {'eight': architecture(width=0.1875), 'five': architecture('yolov5n', width=0.25)}
    for place, (name, of_teacher) in enumerate(architectures.items()):
        network = build_network(of_teacher, CLASSES)
        for level in network.model[-1].cv3:  # fresh heads find nothing anywhere; these two, not equally often
            level[-1].bias.data += 6 + place
        save_weights(network, folder / f'{name}.pt', CLASSES)
    return {name: folder / f'{name}.pt' for name in architectures}


def job(pictures, teachers, *terms, settings=SETTINGS, **weighting):
    distill = DistillSettings(terms or TERMS, **weighting)
    return FitJob(architecture(), CLASSES, pictures, settings, teachers=teachers, distill=distill)


def numbers(result):
    log = columns(result.log)
    return {name: [float(value) for value in log[name]] for name in log if not name.startswith('gradient/')}


def test_every_term_of_every_teacher_has_an_effect_and_adapters_are_each_teachers_own(pictures, teachers, tmp_path):
    run = run_of(job(pictures, teachers), tmp_path)
    before = [value.detach().clone() for value in run.terms.parameters()]
    run.resume()
    run.train(Signals())
    log = numbers(run.finish())
    for name in ('cwd/eight', 'cwd/five', 'bckd/eight', 'bckd/five'):
        assert all(value > 0 for value in log[name])
    # Three levels, each with weight and bias, to the channels of either teacher.
    assert len(before) == 2 * 3 * 2
    assert all(not torch.equal(*pair) for pair in zip(before, run.terms.parameters(), strict=True))
    losses = [sum(log[f'{term}/{name}'][0] * weight for term, weight in (('cwd', 5), ('bckd', 1))) for name in teachers]
    assert log['loss'][0] == pytest.approx(log['task'][0] + sum(losses) / 2, rel=1e-6)
    assert log['teacher/eight'] == log['teacher/five'] == [0.5] * 3


def test_a_teacher_of_weight_0_is_as_if_he_were_not_there(pictures, teachers, tmp_path):
    alone = FitJob(
        architecture(), CLASSES, pictures, SETTINGS, teacher=teachers['eight'], distill=DistillSettings(TERMS)
    )
    beside = job(pictures, teachers, teacher_weights={'eight': 3.0, 'five': 0.0})
    first, second = fit_detector(alone, tmp_path / 'alone'), fit_detector(beside, tmp_path / 'beside')
    states = [load_network(result.weights)[0].state_dict() for result in (first, second)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert 'cwd/five' not in columns(second.log)


def test_a_term_may_be_for_one_teacher(pictures, teachers, tmp_path):
    terms = (TermSettings('cwd', teacher='five', weight=2.0), TermSettings('bckd', weight=1.0))
    weights = {'eight': 1.0, 'five': 3.0}
    log = numbers(fit_detector(job(pictures, teachers, *terms, teacher_weights=weights), tmp_path))
    assert 'cwd/eight' not in log
    wanted = log['task'][0] + 2 * log['cwd/five'][0] + 0.25 * log['bckd/eight'][0] + 0.75 * log['bckd/five'][0]
    assert log['loss'][0] == pytest.approx(wanted, rel=1e-6)


def test_weights_add_up_and_a_resumed_run_is_the_same(pictures, teachers, tmp_path, monkeypatch):
    steps = 3
    settings = dataclasses.replace(SETTINGS, steps=steps, unlabelled_batch=1)
    terms = (TermSettings('cwd'),)
    whole = job(pictures, teachers, *terms, settings=settings, weighting='confidence')
    whole = dataclasses.replace(whole, unlabelled=write_pictures(tmp_path / 'others', 5, seed=3))
    wanted = fit_detector(whole, tmp_path / 'whole')
    log = numbers(wanted)
    for suffix in ('', '/unlabelled'):
        pairs = zip(log[f'teacher/eight{suffix}'], log[f'teacher/five{suffix}'], strict=True)
        assert all(sum(pair) == pytest.approx(1) for pair in pairs)
    assert log['teacher/eight'][-1] != 0.5

    real, calls = loop.Run._update, iter(range(steps))

    def update(self):
        if next(calls) == steps - 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Run, '_update', update)
        with pytest.raises(Interrupted):
            fit_detector(whole, tmp_path / 'parts')
    resumed = fit_detector(whole, tmp_path / 'parts')
    assert resumed.log.read_bytes() == wanted.log.read_bytes()
    assert resumed.weights.read_bytes() == wanted.weights.read_bytes()


# Confidence


@pytest.mark.parametrize(
    ('mistakes', 'wanted'),
    [
        ([[0.0], [0.0]], [[0.5], [0.5]]),
        ([[0.0], [math.log(3)]], [[0.75], [0.25]]),
        ([[0.0], [math.log(2)], [math.log(5)]], [[7 / 16], [6 / 16], [3 / 16]]),
        ([[1e5, 0.0], [0.0, 1e5]], [[0.0, 1.0], [1.0, 0.0]]),
        ([[3.0]], [[1.0]]),
    ],
)
def test_ca_mkd_weighs_by_the_error(mistakes, wanted):
    torch.testing.assert_close(rank(torch.tensor(mistakes)), torch.tensor(wanted))


def queries(probabilities, boxes):
    """What a head says: of each prediction its probabilities, and its box as shares of the image."""
    scores = torch.tensor([probabilities]).logit().transpose(1, 2)
    return Outputs({}, {'queries': {'scores': scores, 'boxes': torch.tensor([boxes]).transpose(1, 2)}})


SHAPE = Shape({}, {}, (), 0, 0, ('queries',), ())
LEFT, UPPER_LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ('probabilities', 'boxes', 'wanted'),
    [
        ([[0.8, 0.1]], [LEFT], -math.log(0.8)),
        ([[0.1, 0.8]], [LEFT], -math.log(0.1)),  # the wrong class
        ([[0.8, 0.1], [0.9, 0.1]], [UPPER_LEFT, LEFT], -math.log(0.9)),  # the better of two
        ([[0.8, 0.1], [0.6, 0.1]], [LEFT, RIGHT], -math.log(0.8) - math.log(0.4)),  # a false alarm
        ([[0.6, 0.1]], [RIGHT], -math.log(1e-6) - math.log(0.4)),  # not found
    ],
)
def test_an_error_in_nats(probabilities, boxes, wanted):
    truth = Truth([torch.tensor([[0.0, 0.0, 32.0, 64.0]])], [torch.tensor([0])], 64)
    found = errors(queries(probabilities, boxes), SHAPE, truth)
    torch.testing.assert_close(found, torch.tensor([wanted]), rtol=1e-4, atol=1e-5)


def test_an_image_without_objects_counts_false_alarms():
    truth = Truth([torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.long)], 64)
    found = errors(queries([[0.5, 0.1], [0.2, 0.75]], [LEFT, RIGHT]), SHAPE, truth)
    torch.testing.assert_close(found, torch.tensor([-math.log(0.5) - math.log(0.25)]))


def test_doubt_is_entropy_for_each_object():
    found = doubts(queries([[0.5, 0.1], [0.2, 0.25]], [LEFT, RIGHT]))
    entropy = math.log(2) - 0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    torch.testing.assert_close(found, torch.tensor([entropy / 0.75]))
    assert doubts(queries([[0.99, 0.01], [0.001, 0.001]], [LEFT, RIGHT])) < found


def test_a_teacher_that_is_right_is_heard_more(pictures, teachers, tmp_path):
    """A head that says nothing against one that knows the labels: the second gets nearly all of the weight."""
    truth = Truth([torch.tensor([[0.0, 0.0, 32.0, 64.0]])], [torch.tensor([0])], 64)
    said = [queries([[0.01, 0.01]], [LEFT]), queries([[0.9, 0.01]], [LEFT])]
    weights = rank(torch.stack([errors(outputs, SHAPE, truth) for outputs in said]))
    torch.testing.assert_close(weights.flatten(), torch.tensor([0.01, 0.9]) / 0.91)


def test_an_image_hears_by_its_own_weights():
    """The gradient is that of the mean over images weighted by their shares."""
    student = torch.randn(4, 3, 5, 5, requires_grad=True)
    teacher, shares = torch.randn(4, 3, 5, 5), torch.tensor([0.9, 0.3, 0.0, 0.5])
    loss = make('cwd')
    heard = scaled(Outputs({'map': student}, {}), shares).maps['map']
    found = torch.autograd.grad(shares.mean() * loss(heard, teacher), student)[0]
    each = sum(share * loss(student[n : n + 1], teacher[n : n + 1]) for n, share in enumerate(shares)) / 4
    torch.testing.assert_close(found, torch.autograd.grad(each, student)[0])


# What is refused


@pytest.mark.parametrize(
    ('terms', 'weighting', 'message'),
    [
        ((TermSettings('cwd', teacher='eigth'),), {}, "for the teacher 'eigth': did you mean 'eight'"),
        ((TermSettings('cwd', teacher='five'),), {}, 'the teacher eight teaches nothing'),
        (TERMS, {'teacher_weights': {'eight': 1.0, 'fiv': 1.0}}, "names 'fiv': did you mean 'five'"),
        (TERMS, {'teacher_weights': {'eight': 1.0}}, 'teacher_weights lacks five'),
        (
            (TermSettings('cwd', teacher='five'), TermSettings('cwd', teacher='eight')),
            {'weighting': 'confidence'},
            'nothing to weigh',
        ),
        (
            (TermSettings('cwd', student_layers=(13,), teacher_layers=(13,)),),
            {},
            r'cwd/five: the map of the student .* name the teacher that this term is for',
        ),
    ],
)
def test_what_cannot_be_taught_is_refused_by_name(pictures, teachers, tmp_path, terms, weighting, message):
    with pytest.raises(FitError, match=message):
        fit_detector(job(pictures, teachers, *terms, **weighting), tmp_path)


def test_a_term_without_effect_is_named_with_its_teacher(pictures, teachers, tmp_path):
    terms = (TermSettings('cwd'), TermSettings('at', teacher='five', student_layers=(0,), teacher_layers=(0,)))
    settings = dataclasses.replace(SETTINGS, freeze=('model.0.',))
    with pytest.raises(FitError, match='at/five has no effect: its gradient on the student is exactly 0'):
        fit_detector(job(pictures, teachers, *terms, settings=settings), tmp_path)


@pytest.mark.parametrize(
    ('weighting', 'message'),
    [
        ({'weighting': 'confident'}, "did you mean 'confidence'"),
        ({'weighting': 'confidence', 'teacher_weights': {'a': 1.0}}, 'are for weighting: fixed'),
        ({'weighting': 'learned'}, 'is gone: .* choose confidence'),
        ({'teacher_weights': {'a': 0.0}}, 'are all 0'),
        ({'teacher_weights': {'a': -1.0}}, r'teacher_weights\.a must be at least 0'),
    ],
)
def test_settings_that_make_no_sense_are_refused(weighting, message):
    with pytest.raises(ValueError, match=message):
        DistillSettings(TERMS, **weighting)


def test_what_was_there_before_is_said_to_be_gone():
    with pytest.raises(RecipeError, match='weight_entropy is gone: .* choose confidence'):
        read(DistillSettings, {'terms': [{'loss': 'cwd'}], 'weight_entropy': 0.5}, 'distill')
    with pytest.raises(RecipeError, match='stage: widen is gone: .* start from a weights file'):
        read(StageRecipe, {**STAGE, 'widen': 'narrow.pt'}, 'stage')


STAGE = {'start': 'yolov8n.yaml', 'images': {'photos': 4}, 'fit': {'steps': 1}, 'distill': {'terms': [{'loss': 'cwd'}]}}


def test_a_stage_names_its_teachers():
    stage = read(StageRecipe, {**STAGE, 'teachers': {'large': 'teacher', 'other': 'other.pt'}}, 'stage')
    assert stage.taught_by == {'large': 'teacher', 'other': 'other.pt'}
    assert read(StageRecipe, {**STAGE, 'teacher': 'teacher'}, 'stage').taught_by == {'': 'teacher'}


@pytest.mark.parametrize(
    ('entries', 'message'),
    [
        ({'teacher': 'a', 'teachers': {'b': 'b'}}, 'not both'),
        ({'teachers': {'a/b': 'b'}}, 'letters, digits and _'),
        ({'teachers': {}}, 'belong together'),
    ],
)
def test_a_stage_with_unclear_teachers_is_refused(entries, message):
    with pytest.raises(RecipeError, match=message):
        read(StageRecipe, {**STAGE, **entries}, 'stage')


def test_settings_that_came_later_do_not_make_old_results_anew():
    """What a stage's result depends on is written as it was before there were several teachers."""
    stage = read(StageRecipe, {**STAGE, 'teacher': 'teacher'}, 'stage')
    later = {'teachers', 'weighting', 'teacher_weights', 'weight_entropy', 'weight_rate', 'widen'}
    plain = counted(stage)
    assert not later & {*plain, *plain['distill'], *plain['distill']['terms'][0]}
    several = read(StageRecipe, {**STAGE, 'teachers': {'a': 'b'}}, 'stage')
    assert counted(several)['teachers'] == {'a': 'b'}
