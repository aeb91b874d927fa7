"""FGFI's masks, and the faults known in popular code."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip('torch')

from training.distill.losses import make  # noqa: E402
from training.distill.losses.imitation import imitation_masks  # noqa: E402
from training.errors import LossError  # noqa: E402

TWO_ANCHORS = [(16, 16), (32, 16)]


def cells(mask):
    """(row, column) of the marked cells."""
    return [tuple(cell) for cell in mask.nonzero().tolist()]


def masks(boxes, sizes=((8, 8),), strides=(8,), anchors=(TWO_ANCHORS,), threshold=0.5):
    return imitation_masks(torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), sizes, strides, anchors, threshold)


def test_cells_near_one_box():
    assert cells(masks([[10, 12, 30, 28]])[0]) == [(2, 1), (2, 2), (2, 3)]


def test_a_map_that_is_wider_than_high_is_not_transposed():
    """The fault: rows and columns exchanged by meshgrid's 'ij'. On square maps it hides in the values only."""
    mask = masks([[66, 4, 86, 20]], sizes=((3, 12),))[0]
    assert mask.shape == (3, 12)
    assert cells(mask) == [(1, 8), (1, 9), (1, 10)]


def test_each_level_has_its_own_stride_and_anchors():
    """The fault: all anchors on one stride. A large box belongs to the coarse level, at its own cell."""
    fine, coarse = masks(
        [[32, 32, 96, 96], [2, 2, 14, 14]],
        sizes=((16, 16), (4, 4)),
        strides=(8, 32),
        anchors=([(12, 12)], [(64, 64)]),
    )
    assert cells(fine) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    # Anchors of 64 pixels at 16, 48, 80 …: the four around the box's centre (64, 64) overlap it best.
    assert cells(coarse) == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_exactly_half_of_the_best_is_not_enough():
    """The comparison is strict: 16 × 16 anchors beside a box at IoU 1 and, two pixels on, less."""
    on_the_limit = masks([[4, 4, 20, 20]], anchors=([(16, 16)],), threshold=1.0)
    assert cells(on_the_limit[0]) == []
    neighbors = masks([[4, 4, 20, 20]], anchors=([(16, 16)],), threshold=1 / 3)
    # A cell to the right or below shares half of the box: IoU 1 / 3, not above 1 / 3 of 1.
    assert cells(neighbors[0]) == [(1, 1)]


def test_anchors_reaching_out_of_the_image_count():
    """The anchor of the corner cell starts at −4 and fits this box best: IoU 144 / 256."""
    assert (0, 0) in cells(masks([[0, 0, 12, 12]], anchors=([(16, 16)],))[0])


@pytest.mark.parametrize('boxes', [[], [[500, 500, 520, 520]], [[5, 5, 5, 5]]], ids=['none', 'outside', 'empty'])
def test_boxes_that_no_anchor_touches_mark_nothing(boxes):
    assert cells(masks(boxes)[0]) == []


@pytest.mark.parametrize('boxes', [torch.zeros(0, 4), torch.tensor([[500.0, 500, 520, 520]])])
def test_an_empty_mask_costs_zero(boxes):
    student = torch.rand(1, 2, 8, 8, requires_grad=True)
    value = make('fgfi', strides=[8], anchors=[TWO_ANCHORS])([student], [torch.rand(1, 2, 8, 8)], [boxes])
    value.backward()
    assert value.item() == 0
    assert student.grad.abs().sum() == 0


def by_definition(boxes, size, stride, anchors, threshold):
    """Cell by cell, as the paper puts it."""

    def iou(box, row, column, anchor):
        x, y = (column + 0.5) * stride, (row + 0.5) * stride
        w = min(box[2], x + anchor[0] / 2) - max(box[0], x - anchor[0] / 2)
        h = min(box[3], y + anchor[1] / 2) - max(box[1], y - anchor[1] / 2)
        overlap = max(w, 0) * max(h, 0)
        return overlap / ((box[2] - box[0]) * (box[3] - box[1]) + anchor[0] * anchor[1] - overlap)

    grid = [(row, column) for row in range(size[0]) for column in range(size[1])]
    marked = set()
    for box in boxes:
        best = max(iou(box, *cell, anchor) for cell in grid for anchor in anchors)
        marked |= {cell for cell in grid if any(iou(box, *cell, anchor) > threshold * best for anchor in anchors)}
    return sorted(marked)


box = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 30), st.integers(1, 30)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(max_examples=40, deadline=None)
@given(boxes=st.lists(box, min_size=1, max_size=3), rows=st.integers(1, 5), columns=st.integers(1, 5))
def test_masks_are_those_of_the_definition(boxes, rows, columns):
    mask = masks(boxes, sizes=((rows, columns),))[0]
    assert cells(mask) == by_definition(boxes, (rows, columns), 8, TWO_ANCHORS, 0.5)


def test_the_mean_runs_over_the_cells_of_the_whole_batch():
    loss = make('fgfi', strides=[8], anchors=[TWO_ANCHORS])
    boxes = [torch.tensor([[10.0, 12, 30, 28]]), torch.zeros(0, 4)]
    teacher = torch.stack([torch.full((2, 8, 8), 3.0), torch.full((2, 8, 8), 100.0)])
    assert loss([torch.zeros(2, 2, 8, 8)], [teacher], boxes).item() == pytest.approx(2 * 9 / 2)


def test_adapters_are_trained():
    """The fault: an adapter made after the optimizer. Ours exist from the start, in the loss's parameters."""
    loss = make('fgfi', student_channels=[2], teacher_channels=[3], strides=[8], anchors=[TWO_ANCHORS])
    convolution = loss.adapters[0][0]
    assert any(parameter is convolution.weight for parameter in loss.parameters())
    assert convolution.weight.std().item() == pytest.approx(1e-4, rel=0.5)
    before = convolution.weight.detach().clone()
    optimizer = torch.optim.SGD(loss.parameters(), lr=1.0)
    loss([torch.rand(1, 2, 8, 8)], [torch.rand(1, 3, 8, 8)], [torch.tensor([[10.0, 12, 30, 28]])]).backward()
    optimizer.step()
    assert not convolution.weight.equal(before)


@pytest.mark.parametrize(
    ('levels', 'boxes', 'message'),
    [
        (2, [torch.zeros(0, 4)], '1 strides, but 2 maps'),
        (1, [], '0 lists of boxes for a batch of 1'),
        (1, [torch.zeros(3, 5)], 'boxes are'),
    ],
)
def test_what_does_not_fit_is_refused(levels, boxes, message):
    maps = [torch.rand(1, 2, 8, 8)] * levels
    with pytest.raises(LossError, match=message):
        make('fgfi', strides=[8], anchors=[TWO_ANCHORS])(maps, maps, boxes)
