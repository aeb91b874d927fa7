"""Losses on a detection head's outputs, (N, …, anchors)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip('torch')

from training.distill.losses import make  # noqa: E402
from training.distill.losses.detector_scores import generalised_iou  # noqa: E402
from training.errors import LossError  # noqa: E402


def test_ld_finds_the_bins_of_a_head():
    """(N, 4·bins, anchors) in Ultralytics' order: the bins of one side lie together."""
    student, teacher = torch.randn(2, 3, 4, 16, 7)[0], torch.randn(3, 4, 16, 7)
    loss = make('ld')
    by_side = [value.permute(0, 1, 3, 2).reshape(-1, 16) for value in (student, teacher)]
    torch.testing.assert_close(loss(student.flatten(1, 2), teacher.flatten(1, 2)), loss(*by_side))


def test_ld_weighs_each_anchor_with_its_four_sides():
    student, teacher = torch.randn(2, 1, 64, 5)
    weights = torch.tensor([[0.0, 2, 0, 1, 0]])
    loss = make('ld')
    alone = [loss(student[..., k : k + 1], teacher[..., k : k + 1]) for k in range(5)]
    torch.testing.assert_close(loss(student, teacher, weights), (2 * alone[1] + alone[3]) / 3)


def test_ld_of_no_weight_is_zero():
    student = torch.randn(1, 64, 5, requires_grad=True)
    value = make('ld')(student, torch.randn(1, 64, 5), torch.zeros(1, 5))
    value.backward()
    assert value.item() == 0
    assert student.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ('shape', 'weights', 'message'),
    [
        ((1, 63, 5), None, 'takes .K, bins. or .N, 4·bins, anchors.'),
        ((1, 64, 5), (1, 4), 'do not fit'),
        ((1, 64, 5), (5,), 'do not fit'),
        ((6, 16), (1, 6), 'do not fit'),
    ],
)
def test_ld_refuses_what_does_not_fit(shape, weights, message):
    with pytest.raises(LossError, match=message):
        make('ld')(torch.randn(shape), torch.randn(shape), None if weights is None else torch.ones(weights))


@pytest.mark.parametrize('name', ['bckd', 'binary_kd'])
def test_scores_are_summed_over_anchors_and_shared_by_the_positives(name):
    student, teacher = torch.randn(2, 2, 3, 7)
    loss = make(name)
    rows = [value.transpose(1, 2).reshape(-1, 3) for value in (student, teacher)]
    torch.testing.assert_close(loss(student, teacher, positives=4), loss(*rows) / 4)
    torch.testing.assert_close(loss(student, teacher, positives=torch.tensor(0)), loss(*rows))


def test_binary_kd_at_temperature_1_pulls_as_cross_entropy_with_the_teachers_probabilities():
    student, teacher = torch.randn(2, 2, 3, 7, dtype=torch.float64)
    a, b = student.clone().requires_grad_(), student.clone().requires_grad_()
    make('binary_kd', anchors='all')(a, teacher).backward()
    torch.nn.functional.binary_cross_entropy_with_logits(b, teacher.sigmoid(), reduction='sum').backward()
    torch.testing.assert_close(a.grad, b.grad)


def gradient(teacher, student, temperature, anchors):
    """By anchor, as the term has it: divided by the sum of the teacher's best probabilities."""
    student = student.clone().requires_grad_()
    loss = make('binary_kd', temperature=temperature, anchors=anchors)
    loss(student, teacher, teacher.sigmoid().amax(1).sum()).backward()
    return student.grad.abs().sum((0, 1))


def test_a_temperature_leaves_the_background_of_binary_kd_where_it_was():
    """2000 anchors of which 10 show an object, logits as a trained teacher and a student in training give them."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(1, 2, 2000, generator=generator) - 8
    teacher[:, 0, :10] += 9
    student = teacher + torch.randn(1, 2, 2000, generator=generator) + 1
    by = {of: gradient(teacher, student, *of) for of in ((1, 'score'), (3, 'score'), (3, 'all'))}
    background = {of: float(value[10:].sum() / value.sum()) for of, value in by.items()}
    assert background[3, 'all'] > 0.6
    assert background[3, 'score'] < 0.2
    assert 0.5 < float(by[3, 'score'].sum() / by[1, 'score'].sum()) < 3
    assert float(by[3, 'all'].sum() / by[1, 'score'].sum()) > 10


def test_binary_kd_refuses_another_word_for_its_anchors():
    with pytest.raises(LossError, match='anchors must be one of score, all'):
        make('binary_kd', anchors='some')


def test_bckd_boxes_pull_the_student_but_not_through_their_weight():
    scores, teacher_scores = torch.randn(2, 1, 3, 2)
    boxes = torch.tensor([[[0.0, 5], [0, 5], [4, 9], [4, 9]]])
    moved = (boxes + 1).requires_grad_()
    teacher_boxes = boxes.clone().requires_grad_()
    loss = make('bckd', class_weight=0.0)
    scores.requires_grad_()
    loss(scores, teacher_scores, 1, moved, teacher_boxes).backward()
    assert moved.grad.abs().sum() > 0
    assert teacher_boxes.grad is None
    assert scores.grad.abs().sum() == 0


def test_bckd_refuses_boxes_of_other_anchors():
    scores = torch.randn(1, 3, 2)
    with pytest.raises(LossError, match='do not fit scores of'):
        make('bckd')(scores, scores, 1, torch.rand(1, 4, 3), torch.rand(1, 4, 3))


@pytest.mark.parametrize(
    ('a', 'b', 'value'),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7 - 2 / 9),
        ((0, 0, 1, 1), (3, 0, 4, 1), -2 / 4),
        ((0, 0, 4, 4), (1, 1, 2, 2), 1 / 16),
        ((1, 1, 1, 1), (1, 1, 1, 1), 0),
    ],
    ids=['equal', 'overlapping', 'apart', 'inside', 'empty'],
)
def test_generalised_iou(a, b, value):
    found = generalised_iou(torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64))
    assert found.item() == pytest.approx(value, abs=1e-12)


box = st.tuples(*[st.floats(0, 100), st.floats(0, 100), st.floats(0.1, 50), st.floats(0.1, 50)]).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(a=box, b=box)
def test_generalised_iou_is_symmetric_and_within_its_bounds(a, b):
    a, b = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    value = generalised_iou(a, b).item()
    assert -1 < value <= 1 + 1e-9
    assert value == pytest.approx(generalised_iou(b, a).item(), abs=1e-12)
