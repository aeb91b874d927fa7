"""Lengths of the losses' gradients: logged, and weights made of them."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip('torch')

from tiny_training import CLASSES, SIZE, architecture, columns  # noqa: E402

from training.distill.gradients import GradientLengths  # noqa: E402
from training.distill.settings import DistillSettings, GradientRatio, TermSettings  # noqa: E402
from training.distill.teacher_terms import TeacherTerm, TermLoss  # noqa: E402
from training.errors import Interrupted, RecipeError  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.loop import Run  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402
from training.schema import counted, read  # noqa: E402

SETTINGS = FitSettings(image_size=SIZE, batch=4, steps=4, warmup_steps=0, precision='float32', checkpoint_steps=1)


def job(pictures, teacher, weight, **settings):
    terms = (TermSettings('cwd', weight=weight), TermSettings('bckd'))
    return FitJob(architecture(), CLASSES, pictures, SETTINGS, teacher=teacher, distill=DistillSettings(terms))


def test_the_log_has_the_length_of_each_gradient_beside_the_tasks(pictures, teacher, tmp_path):
    log = columns(fit_detector(job(pictures, teacher, 2.0), tmp_path / 'fit').log)
    for name in ('task', 'cwd', 'bckd'):
        assert float(log[f'gradient/{name}'][0]) > 0
        assert log[f'gradient/{name}'][1:] == ['', '', '']
    # The weighted sum of all is what the optimizer gets, of as many images; the triangle's inequality bounds it.
    lengths = {name: float(log[f'gradient/{name}'][0]) for name in ('task', 'cwd', 'bckd')}
    most = lengths['task'] + 2 * lengths['cwd'] + lengths['bckd']
    assert 0 < float(log['gradient'][0]) / SETTINGS.batch <= most * 1.001


def test_a_ratio_keeps_a_terms_gradient_at_that_share_of_the_tasks(pictures, teacher, tmp_path):
    log = columns(fit_detector(job(pictures, teacher, GradientRatio(0.3)), tmp_path / 'fit').log)
    rest = float(log['loss'][0]) - float(log['task'][0]) - float(log['bckd'][0])
    weight = rest / float(log['cwd'][0])
    assert weight * float(log['gradient/cwd'][0]) == pytest.approx(0.3 * float(log['gradient/task'][0]), rel=1e-3)


def test_a_resumed_run_weighs_as_an_uninterrupted_one(pictures, teacher, tmp_path, monkeypatch):
    of_ratio = job(pictures, teacher, GradientRatio(0.3))
    fit_detector(of_ratio, tmp_path / 'whole')
    with monkeypatch.context() as patched:
        patched.setattr(Run, '_stop_asked', lambda run, signals: run.step == 2)
        with pytest.raises(Interrupted):
            fit_detector(of_ratio, tmp_path / 'parts')
    fit_detector(of_ratio, tmp_path / 'parts')
    for name in ('weights.pt', 'log.csv'):
        assert (tmp_path / 'whole' / name).read_bytes() == (tmp_path / 'parts' / name).read_bytes()


class OfTwo:
    """A group of which the other process found an object where this one did not, with lengths of 1 and 3."""

    def sum(self, values):
        assert len(values) == 4
        for value, others in zip(values, (1.0, 3.0, 1.0, 1.0), strict=True):
            value += others


def test_a_process_without_an_object_hears_of_the_others_length():
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    task = (weight * torch.tensor([3.0, 0.0])).sum()
    term = SimpleNamespace(of_objects=True)
    pair = TeacherTerm('fgfi', term, 0, '', shared=False)
    none = TermLoss((0 * weight).sum(), GradientRatio(0.5).ratio, 1.0, pair)
    lengths = GradientLengths(DistillSettings((TermSettings('fgfi', weight=GradientRatio(0.5)),)), OfTwo())
    lengths.measure(task, {'fgfi': none}, [weight], 0, lambda place: 0.0)
    assert lengths.newest == {'gradient/task': 2.0, 'gradient/fgfi': 3.0}
    assert lengths.weighed({'fgfi': none})['fgfi'].weight == pytest.approx(0.5 * 2 / 3)


def test_a_recipe_gives_a_weight_as_a_ratio():
    term = read(TermSettings, {'loss': 'cwd', 'weight': {'ratio': 0.3}}, 'terms.0')
    assert term.weight == GradientRatio(0.3)
    assert counted(term)['weight'] == {'ratio': 0.3}
    assert read(TermSettings, {'loss': 'cwd', 'weight': 2}, 'terms.0').weight == 2.0
    with pytest.raises(RecipeError, match='ratio must be above 0'):
        read(TermSettings, {'loss': 'cwd', 'weight': {'ratio': 0}}, 'terms.0')


def test_a_loss_that_computes_otherwise_than_before_is_another_setting():
    assert 'revision' not in counted(TermSettings('cwd'))
    assert counted(TermSettings('binary_kd'))['revision'] == 1
