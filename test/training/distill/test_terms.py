"""Terms compare what they should: against Ultralytics' own distillation, and against the losses called by hand."""

import dataclasses

import pytest
from tiny_training import CLASSES, SIZE, architecture, columns, write_network, write_pictures

torch = pytest.importorskip('torch')

from training.distill.losses import make, make_levels  # noqa: E402
from training.distill.outputs import Outputs, Probe, branches_of, layer_names, measure_shape  # noqa: E402
from training.distill.settings import DistillSettings, TermSettings  # noqa: E402
from training.distill.teacher import Teacher  # noqa: E402
from training.distill.terms import make_term  # noqa: E402
from training.errors import LossError  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402
from training.models.weights import build_network  # noqa: E402
from training.prune.sparsity import SparsitySettings  # noqa: E402

from ultralytics.cfg import get_cfg  # isort: skip # noqa: E402
from ultralytics.nn.distill_model import DistillationModel  # isort: skip # noqa: E402


@pytest.fixture(scope='module')
def pair():
    """Student and teacher in evaluation mode, what they look like, and what they make of three images."""
    torch.manual_seed(5)
    images = torch.rand(3, 3, SIZE, SIZE)
    found = []
    for width in (0.125, 0.1875):
        network = build_network(architecture(width=width), CLASSES).eval()
        layers = layer_names(network, ())
        shape = measure_shape(network, layers, SIZE)
        probe = Probe(network, layers)
        predictions = network(images)[1]
        found.append((network, shape, layers, Outputs(probe.take(), branches_of(predictions))))
        probe.remove()
    return images, *found


def term_of(pair, settings):
    _, (_, student, own, _), (_, teacher, others, _) = pair
    return make_term('term', settings, student, teacher, (own, others), None)


def value_of(pair, term, boxes=()):
    return term(pair[1][3], pair[2][3], boxes)


def test_the_baseline_is_ultralytics_distillation(pair):
    images, (student, *_), (teacher, *_) = pair
    student.args = get_cfg(overrides={'imgsz': SIZE, 'dis': 1.0})
    wrapped = DistillationModel(teacher_model=teacher, student_model=student).train()
    student.eval()  # the same statistics as in `pair`; its head as in training
    student.model[-1].training = student.training = True
    batch = {
        'img': images,
        'batch_idx': torch.tensor([0.0]),
        'cls': torch.zeros(1, 1),
        'bboxes': torch.full((1, 4), 0.5),
    }
    wanted = wrapped.loss(batch)[1]['dis_loss']
    wrapped._remove_feature_hooks()
    student.eval()
    term = term_of(pair, TermSettings('ultralytics'))
    term.loss.load_state_dict(wrapped.projector.state_dict())
    torch.testing.assert_close(value_of(pair, term), wanted.squeeze(), rtol=1e-5, atol=1e-7)


def test_class_scores_count_the_teachers_positives(pair):
    _, (_, _, _, student), (_, _, _, teacher) = pair
    own, others = student.branches['one2many']['scores'], teacher.branches['one2many']['scores']
    positives = others.sigmoid().amax(1).sum()
    wanted = make('binary_kd', temperature=2)(own, others, positives)
    term = term_of(pair, TermSettings('binary_kd', settings={'temperature': 2}))
    torch.testing.assert_close(value_of(pair, term), wanted)
    alone = term_of(pair, TermSettings('bckd', settings={'box_weight': 0.0}))
    with_boxes = term_of(pair, TermSettings('bckd'))
    torch.testing.assert_close(value_of(pair, alone), make('bckd')(own, others, positives))
    assert value_of(pair, with_boxes) > value_of(pair, alone)


def test_distributions_are_weighted_by_the_teachers_certainty(pair):
    _, (_, _, _, student), (_, _, _, teacher) = pair
    own, others = student.branches['one2many'], teacher.branches['one2many']
    wanted = make('ld')(own['boxes'], others['boxes'], others['scores'].sigmoid().amax(1))
    torch.testing.assert_close(value_of(pair, term_of(pair, TermSettings('ld'))), wanted)


def test_maps_of_class_scores_by_level(pair):
    _, (_, _, _, student), (_, _, _, teacher) = pair
    sizes = [(8, 8), (4, 4), (2, 2)]
    own, others = (
        [
            part.reshape(3, 2, *size)
            for part, size in zip(outputs.branches['one2many']['scores'].split([64, 16, 4], 2), sizes, strict=True)
        ]
        for outputs in (student, teacher)
    )
    wanted = make_levels('cwd', (2, 2, 2), (2, 2, 2))(own, others)
    torch.testing.assert_close(value_of(pair, term_of(pair, TermSettings('cwd', on='scores'))), wanted)


@pytest.mark.parametrize(
    ('settings', 'weights'),
    [
        (TermSettings('cwd'), [5, 5, 5, 5]),
        (TermSettings('cwd', weight=2.0, start_step=2), [0, 0, 2, 2]),
        (TermSettings('cwd', weight=2.0, ramp_epochs=4.0), [0, 0.5, 1, 1.5]),
        (TermSettings('fgfi', weight=1.0), [0, 0, 0, 0]),
        (TermSettings('fgfi', weight=1.0, start_step=1), [0, 1, 1, 1]),
        (TermSettings('ultralytics'), [6, 6, 6, 6]),
    ],
)
def test_weights_start_and_rise(settings, weights):
    """One step an epoch."""
    assert [settings.weight_at(step, float(step)) for step in range(4)] == weights


def test_terms_of_one_loss_are_told_apart():
    assert DistillSettings((TermSettings('cwd'), TermSettings('ld'), TermSettings('cwd'))).names == (
        'cwd1',
        'ld',
        'cwd2',
    )


def test_maps_of_one_cell_teach_nothing_of_places(pair, caplog):
    student, teacher = (
        dataclasses.replace(value, sizes=dict.fromkeys(value.sizes, (1, 1))) for _, value, *_ in pair[1:]
    )
    layers = (student.levels, teacher.levels)
    for settings in (TermSettings('cwd'), TermSettings('at'), TermSettings('nst'), TermSettings('cwd', on='scores')):
        with pytest.raises(LossError, match='every map has one cell: give larger images'):
            make_term('term', settings, student, teacher, layers, None)
    make_term('term', TermSettings('pkd'), student, teacher, layers, None)
    last = {student.levels[-1]: (1, 1)}
    one = [dataclasses.replace(value, sizes={**value.sizes, **last}) for _, value, *_ in pair[1:]]
    make_term('term', TermSettings('at'), *one, layers, None)
    assert f'term learns nothing of {student.levels[-1]}' in caplog.text


def test_sparsity_pulls_scales_down(tmp_path):
    settings = FitSettings(
        image_size=SIZE, batch=4, steps=3, warmup_steps=0, precision='float32', ema_decay=0.0, weight_decay=0.0
    )
    job = FitJob(architecture(), CLASSES, write_pictures(tmp_path, 8), settings)
    fit_detector(job, tmp_path / 'plain')
    log = columns(fit_detector(dataclasses.replace(job, sparsity=SparsitySettings(rate=1.0)), tmp_path / 'sparse').log)
    penalties = [float(value) for value in log['sparsity']]
    assert penalties[0] > penalties[1] > penalties[2] > 0
    assert (tmp_path / 'sparse' / 'gammas.png').read_bytes().startswith(b'\x89PNG')
    assert not (tmp_path / 'plain' / 'gammas.png').exists()


def test_a_teacher_whose_head_is_not_asked_gives_the_same_maps_quicker(tmp_path):
    file = write_network(tmp_path / 'teacher.pt', architecture())
    whole, short = (Teacher(file, CLASSES, torch.device('cpu'), torch.float32) for _ in range(2))
    layers = whole.layer_names(())
    whole.watch(layers)
    short.watch(layers, with_head=False)
    images = torch.rand(2, 3, SIZE, SIZE)
    wanted, found = whole(images), short(images)
    assert all(torch.equal(wanted.maps[name], found.maps[name]) for name in layers)
    assert (set(wanted.branches), set(found.branches)) == ({'one2many'}, set())
    short.check_unchanged()
