"""Queries as targets of a dense head: values by hand, agreement, assignment, and what is refused."""

import math

import pytest

torch = pytest.importorskip('torch')

from training.distill.losses import make  # noqa: E402
from training.distill.losses.queries import Cells  # noqa: E402
from training.errors import LossError  # noqa: E402
from training.models import ultralytics_architecture  # noqa: E402, F401  # before Ultralytics, which then stays offline

from ultralytics.utils.tal import TaskAlignedAssigner  # isort: skip # noqa: E402

CENTERS = torch.tensor([[4.0, 4], [12, 4], [4, 12], [12, 12]], dtype=torch.float64)
CELLS = Cells(CENTERS, torch.full((4,), 8.0, dtype=torch.float64))
OWN = torch.cat([CENTERS - 4, CENTERS + 4], 1).T.unsqueeze(0)  # each anchor predicts its own cell
BINS, NEVER = 4, -50.0


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


def queries(*rows):
    """Class logits (1, 2, Q) and boxes (1, 4, Q) of (logits, box)."""
    logits, boxes = zip(*rows, strict=True)
    return (torch.tensor(values, dtype=torch.float64).T.unsqueeze(0) for values in (logits, boxes))


def first_box(*box):
    boxes = OWN.clone()
    boxes[0, :, 0] = torch.tensor(box)
    return boxes


# One query on the first cell, classes 2 and −3; the student says ½ everywhere. Three anchors have the target 0 twice.
NOTHING = 6 * 0.5**2 * math.log(2)
UNSURE = sum((sigmoid(logit) - 0.5) ** 2 * math.log(2) for logit in (2, -3))


@pytest.mark.parametrize(
    ('box', 'settings', 'wanted'),
    [
        ((0, 0, 8, 8), {}, NOTHING + UNSURE),
        # GIoU is ½, which counts by the query's score and the usual weight of 2.
        ((0, 0, 8, 4), {}, NOTHING + UNSURE + 2 * sigmoid(2) * 0.5),
        ((0, 0, 8, 4), {'box_weight': 0}, NOTHING + UNSURE),
        # The student's box is elsewhere: nobody's anchor, so the first one is background too.
        ((8, 8, 16, 16), {}, 8 * 0.5**2 * math.log(2)),
        ((0, 0, 8, 8), {'gamma': 1}, 6 * 0.5 * math.log(2) + (sigmoid(2) - 0.5 + 0.5 - sigmoid(-3)) * math.log(2)),
        ((0, 0, 8, 8), {'threshold': 0.9}, 0),  # σ(2) is 0.88
    ],
)
def test_one_query_on_one_cell(box, settings, wanted):
    logits, boxes = queries(((2, -3), (0, 0, 8, 8)))
    value = make('query_targets', **settings)(torch.zeros(1, 2, 4).double(), logits, first_box(*box), boxes, CELLS)
    assert value.item() == pytest.approx(wanted, rel=1e-6)


def test_sides_are_two_bins():
    """Half a cell to each side: bins 0 and 1 alike, ln 4 − ln 2 away from four equal ones."""
    logits, boxes = queries(((2, -3), (0, 0, 8, 8)))
    flat = torch.zeros(1, 4 * BINS, 4).double()
    value = make('query_targets')(torch.zeros(1, 2, 4).double(), logits, OWN, boxes, CELLS, flat)
    assert value.item() == pytest.approx(NOTHING + UNSURE + 0.25 * sigmoid(2) * math.log(2))


def test_the_sum_is_shared_by_the_weights():
    logits, boxes = queries(*(((2, -3), tuple(box)) for box in OWN[0].T.tolist()))
    value = make('query_targets')(torch.zeros(1, 2, 4).double(), logits, OWN, boxes, CELLS)
    assert value.item() == pytest.approx(4 * UNSURE / (4 * sigmoid(2)))


SAID = ((2, -3), (8, 8, 16, 16))


def agreeing():
    """Logits, boxes and distributions of a student that says what a query on the last cell says."""
    logits = torch.full((1, 2, 4), NEVER).double()
    logits[0, :, 3] = torch.tensor(SAID[0])
    bins = torch.full((1, 4, BINS, 4), NEVER).double()
    bins[:, :, :2] = 0
    return [value.requires_grad_() for value in (logits, OWN.clone(), bins.flatten(1, 2))]


def compared(logits, boxes, distributions):
    own, others = queries(SAID)
    return make('query_targets')(logits, own, boxes, others, CELLS, distributions)


def test_agreement_costs_nothing_and_pulls_nowhere():
    student = agreeing()
    value = compared(*student)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-9)
    assert student[0].grad.abs().max() < 1e-9
    assert student[2].grad.abs().max() < 1e-9


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('part', [0, 1, 2])
def test_every_disagreement_costs_something(part, seed):
    student = [value.detach() for value in agreeing()]
    noise = torch.randn(student[part].shape, generator=torch.Generator().manual_seed(seed)).double()
    student[part] = student[part] + noise
    assert compared(*student).item() > 1e-4


def test_gradients_reach_the_student_alone():
    student = torch.zeros(1, 2, 4, requires_grad=True), first_box(0, 0, 8, 4).float().requires_grad_()
    bins = torch.zeros(1, 4 * BINS, 4, requires_grad=True)
    teacher = [value.float().requires_grad_() for value in queries(((2, -3), (0, 0, 8, 8)))]
    cells = Cells(CENTERS.float(), CELLS.strides.float())
    make('query_targets')(student[0], teacher[0], student[1], teacher[1], cells, bins).backward()
    for value in (*student, bins):
        assert value.grad.isfinite().all()
        assert value.grad.abs().sum() > 0
    # Boxes and sides of the one anchor that is taken; scores of all.
    assert (student[1].grad[0].abs().sum(0) > 0).tolist() == [True, False, False, False]
    assert bool((student[0].grad != 0).all())
    assert [value.grad for value in teacher] == [None, None]


def test_no_confident_query_says_nothing():
    student = torch.zeros(1, 2, 4).double().requires_grad_()
    logits, boxes = queries(((-2, -3), (0, 0, 8, 8)), ((-1, -4), (8, 8, 16, 16)))
    value = make('query_targets')(student, logits, OWN, boxes, CELLS, torch.zeros(1, 4 * BINS, 4).double())
    value.backward()
    assert value.item() == 0
    assert not student.grad.any()


def test_no_query_at_all_says_nothing():
    empty = torch.zeros(1, 2, 0), torch.zeros(1, 4, 0)
    assert make('query_targets')(torch.zeros(1, 2, 4).double(), empty[0], OWN, empty[1], CELLS).item() == 0


def test_an_image_without_a_confident_query_adds_nothing():
    sure, doubtful = (list(queries((logits, (0, 0, 8, 8)))) for logits in ((2, -3), (-2, -3)))
    logits, boxes = (torch.cat(pair) for pair in zip(sure, doubtful, strict=True))
    student, own = torch.zeros(2, 2, 4).double(), OWN.expand(2, 4, 4)
    loss = make('query_targets')
    torch.testing.assert_close(
        loss(student, logits, own, boxes, CELLS), loss(student[:1], sure[0], OWN, sure[1], CELLS)
    )


def test_a_duplicate_of_low_score_displaces_nothing():
    """RT-DETR has no NMS: what it says twice, less sure and as well placed, must not lower the target."""
    best, again = ((2, -3), (0, 0, 8, 8)), ((-0.5, -3), (0, 0, 8, 7.8))
    loss, student = make('query_targets'), torch.zeros(1, 2, 4).double()
    values = []
    for said in ((best,), (best, again), (again, best)):
        logits, boxes = queries(*said)
        values.append(loss(student, logits, first_box(0, 0, 8, 7.8), boxes, CELLS).item())
    assert values == [pytest.approx(values[0])] * 3


def crowd(seed):
    """A student of two levels on 64² pixels with random scores and boxes, and three queries that are sure of a class."""
    random = torch.Generator().manual_seed(seed)
    centers = [
        torch.cartesian_prod(*[torch.arange(64 // stride) * stride + stride / 2] * 2).flip(1).float()
        for stride in (8, 16)
    ]
    cells = Cells(torch.cat(centers), torch.cat([torch.full((64,), 8.0), torch.full((16,), 16.0)]))
    sides = 4 + 16 * torch.rand(1, 4, 80, generator=random)
    boxes = torch.cat([cells.centers.T - sides[0, :2], cells.centers.T + sides[0, 2:]]).unsqueeze(0)
    wanted = torch.tensor([[2.0, 3, 27, 29], [34, 4, 62, 20], [20, 36, 60, 60]])
    logits = torch.full((1, 3, 3), -60.0)
    logits[0, [0, 2, 1], [0, 1, 2]] = 60.0
    return torch.randn(1, 3, 80, generator=random), boxes, logits, wanted.T.unsqueeze(0), cells


class Assigner(TaskAlignedAssigner):
    """Ultralytics', by IoU as published in place of CIoU."""

    def iou_calculation(self, gt_bboxes, pd_bboxes):
        (x1, y1, x2, y2), (u1, v1, u2, v2) = gt_bboxes.T, pd_bboxes.T
        common = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
        common *= (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
        return common / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - common)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('one_to_one', [False, True])
def test_sure_queries_are_assigned_as_ultralytics_assigns_labels(one_to_one, seed):
    student, boxes, logits, wanted, cells = crowd(seed)
    topk = {'topk': 7, 'topk2': 1} if one_to_one else {'topk': 10}
    assigner = Assigner(num_classes=3, alpha=0.5, beta=6.0, stride=[8, 16], **topk)
    _, true_boxes, scores, taken, _ = assigner(
        student.sigmoid().transpose(1, 2),
        boxes.transpose(1, 2),
        cells.centers,
        logits.argmax(1).unsqueeze(2),
        wanted.transpose(1, 2),
        torch.ones(1, 3, 1),
    )
    _, targets, own_boxes, weights = make('query_targets')._targets(
        student, logits.sigmoid(), boxes, wanted, cells, one_to_one
    )
    # Theirs are multiplied by the best overlap of each object, ours by the query's score, which is 1 here.
    theirs = scores.transpose(1, 2) / scores.amax(1).clamp(min=1e-9).unsqueeze(2)
    torch.testing.assert_close(targets, theirs, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(weights, theirs.sum(1), rtol=1e-3, atol=1e-5)
    places = weights > 1e-6
    assert places.any()
    assert not bool(places[~taken].any())
    torch.testing.assert_close(own_boxes.transpose(1, 2)[places], true_boxes[places])
    if one_to_one:
        assert int(places.sum()) <= 3


@pytest.mark.parametrize('seed', range(3))
def test_the_order_of_queries_does_not_matter(seed):
    student, boxes, logits, wanted, cells = crowd(seed)
    logits = logits / 20
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    loss = make('query_targets')
    value = loss(student, logits, boxes, wanted, cells)
    torch.testing.assert_close(loss(student, logits[..., order], boxes, wanted[..., order], cells), value)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'teacher': torch.zeros(1, 3, 5)}, r'the student is \(1, 2, 4\) and the teacher \(1, 3, 5\).* same classes'),
        ({'teacher': torch.zeros(2, 2, 5)}, 'both must be class logits'),
        ({'teacher_boxes': torch.zeros(1, 4, 6)}, "the teacher's boxes .* do not fit its scores"),
        ({'student_boxes': torch.zeros(1, 4, 5)}, "the student's boxes .* do not fit its scores"),
        ({'cells': Cells(CENTERS[:3], torch.ones(3))}, '3 cells do not fit 4 anchors'),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {
        'student': torch.zeros(1, 2, 4),
        'teacher': torch.zeros(1, 2, 5),
        'student_boxes': OWN,
        'teacher_boxes': torch.zeros(1, 4, 5),
        'cells': CELLS,
    }
    with pytest.raises(LossError, match=message):
        make('query_targets')(**{**given, **change})


@pytest.mark.parametrize('settings', [{'threshold': 0}, {'threshold': 1}, {'candidates': 0}, {'gamma': 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(LossError, match=next(iter(settings))):
        make('query_targets', **settings)
