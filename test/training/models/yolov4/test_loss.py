"""YOLOv4's loss: numbers, matching, gradients; and anchors by k-means."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip('torch')
import torch

from training.errors import DataError
from training.models.yolov4.anchors import fit_anchors
from training.models.yolov4.loss import YOLOv4Loss, ciou, iou, shape_iou
from training.models.yolov4.network import YOLOv4, decode


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def test_overlaps_by_hand():
    first, second = boxes((0, 0, 10, 10)), boxes((5, 0, 15, 10), (0, 0, 10, 10), (20, 20, 30, 30))
    torch.testing.assert_close(iou(first, second), torch.tensor([[1 / 3, 1.0, 0.0]]))
    # centres 5 apart, hull 15 × 10, equal shapes
    wanted = torch.tensor([1 / 3 - 25 / 325, 1.0, -(400 + 400) / (900 + 900)])
    torch.testing.assert_close(ciou(first.expand(3, 4), second), wanted)


def test_ciou_punishes_another_aspect_ratio():
    square, flat = boxes((0, 0, 10, 10)), boxes((-5, 2.5, 15, 7.5))
    overlap = 50 / 150
    aspect = 4 / math.pi**2 * (math.atan(1) - math.atan(4)) ** 2
    wanted = overlap - aspect**2 / (1 - overlap + aspect)
    assert ciou(square, flat).item() == pytest.approx(wanted, abs=1e-6)


@settings(max_examples=50)
@given(st.lists(st.floats(1, 100), min_size=4, max_size=4))
def test_ciou_is_never_over_iou_and_iou_is_symmetric(sides):
    first, second = boxes((0, 0, sides[0], sides[1])), boxes((3, 5, 3 + sides[2], 5 + sides[3]))
    assert ciou(first, second).item() <= iou(first, second).item() + 1e-6
    torch.testing.assert_close(iou(first, second), iou(second, first).T)


@pytest.fixture(scope='module')
def network():
    torch.manual_seed(0)
    return YOLOv4(3, 'mobilenet_v2', 'depthwise').eval()


def empty(network, size=64):
    return [torch.zeros(1, 3, 8, size // stride, size // stride) for stride in network.strides]


def test_a_box_is_answered_by_the_anchors_of_its_shape_in_the_cell_of_its_centre(network):
    loss = YOLOv4Loss(network)
    box = boxes((20, 12, 32, 28))  # exactly the first anchor, centre 26, 20: column 3, row 2 at stride 8
    owners, places = loss._positives(0, box, 8, 8)
    assert owners.tolist() == [0] * len(owners)
    assert 2 * 8 + 3 in places.tolist()
    assert loss._positives(2, box, 2, 2)[0].numel() == 0


def test_a_perfect_prediction_costs_almost_nothing(network):
    loss, raw = YOLOv4Loss(network), empty(network)
    for value in raw:
        value[:, :, 4] = -20.0
    x = math.log((0.25 + 0.1) / 1.2 / (1 - (0.25 + 0.1) / 1.2))
    y = math.log((0.5 + 0.1) / 1.2 / (1 - (0.5 + 0.1) / 1.2))
    anchors = network.anchors[0]
    box = boxes((20, 12, 32, 28))
    places = loss._positives(0, box, 8, 8)[1]
    for place in places.tolist():
        anchor, cell = divmod(place, 64)
        shape = torch.log(torch.tensor([12.0, 16.0]) / anchors[anchor])
        raw[0][0, anchor, :, cell // 8, cell % 8] = torch.tensor([x, y, *shape.tolist(), 20.0, -20.0, 20.0, -20.0])
    terms = loss(raw, [box], [torch.tensor([1])])
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(
        {'box': 0, 'objectness': 0, 'classes': 0}, abs=1e-3
    )


@pytest.fixture(scope='module')
def of_neighbors():
    torch.manual_seed(0)
    return YOLOv4(3, 'mobilenet_v2', 'depthwise', assignment='neighbors').eval()


@pytest.mark.parametrize(
    ('box', 'cells'),
    [
        (
            (20, 12, 32, 28),
            {(3, 2), (2, 2), (3, 3)},
        ),  # center 3.25, 2.5 in cells: the left one is nearer, and the one below
        ((22, 10, 34, 26), {(3, 2), (4, 2), (3, 1)}),  # 3.5, 2.25
        ((-5, -7, 7, 9), {(0, 0)}),  # 0.125, 0.125: no cell beyond the border
        ((56, 51, 68, 67), {(7, 7), (7, 6)}),  # 7.75, 7.375: none to the right
    ],
)
def test_the_nearest_cells_answer_for_a_box_too(of_neighbors, box, cells):
    places = YOLOv4Loss(of_neighbors)._positives(0, boxes(box), 8, 8)[1]
    first = {(place % 8, place // 8) for place in places.tolist() if place < 64}
    assert first == cells


def test_of_neighbors_the_objectness_is_taught_how_well_the_box_fits(of_neighbors):
    loss, raw = YOLOv4Loss(of_neighbors), empty(of_neighbors)
    box = boxes((20, 12, 32, 28))
    found, _ = decode(raw[0], of_neighbors.anchors[0], 8, of_neighbors.center_scales[0])
    places = loss._positives(0, box, 8, 8)[1]
    fits = ciou(found[0, places], box.expand(len(places), 4)).clamp(min=0)
    assert 0 < fits.min() < fits.max() < 1
    # Binary cross-entropy is least, with respect to the logit, where the score is the target.
    raw[0].requires_grad_(True)
    loss(raw, [box], [torch.tensor([1])])['objectness'].backward()
    gradient = raw[0].grad[0, :, 4].reshape(-1)
    torch.testing.assert_close(gradient[places], 0.5 - fits)


def test_an_image_without_objects_teaches_background_only(network):
    terms = YOLOv4Loss(network)(empty(network), [boxes()], [torch.zeros(0)])
    cells = 3 * (8 * 8 + 4 * 4 + 2 * 2)
    assert terms['objectness'].item() == pytest.approx(cells * math.log(2), rel=1e-5)
    assert terms['box'].item() == terms['classes'].item() == 0


def test_the_loss_falls_when_it_is_followed(network):
    torch.manual_seed(1)
    student = YOLOv4(3, 'mobilenet_v2', 'depthwise').train()
    loss, image = YOLOv4Loss(student), torch.rand(2, 3, 64, 64)
    targets = [boxes((10, 10, 40, 50)), boxes((5, 5, 20, 20), (30, 30, 60, 60))]
    ids = [torch.tensor([0]), torch.tensor([1, 2])]
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    course = []
    for _ in range(12):
        total = sum(loss(student(image), targets, ids).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        course.append(total.item())
    assert course[-1] < 0.8 * course[0]
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_anchors_of_clusters_are_their_centres():
    rng = np.random.default_rng(0)
    centres = np.array([[10, 12], [40, 20], [100, 150]])
    sizes = np.concatenate([centre * rng.uniform(0.98, 1.02, (50, 2)) for centre in centres])
    anchors, mean_iou = fit_anchors(sizes, 3)
    np.testing.assert_allclose(anchors, centres, rtol=0.03)
    assert mean_iou > 0.95


@given(st.lists(st.tuples(st.floats(1, 500), st.floats(1, 500)), min_size=9, max_size=40))
@settings(max_examples=30)
def test_anchors_are_sizes_within_the_range_of_the_boxes_and_sorted(sizes):
    anchors, mean_iou = fit_anchors(sizes)
    assert anchors.shape == (9, 2)
    assert (np.diff(anchors.prod(1)) >= 0).all()
    assert np.min(sizes) <= anchors.min() <= anchors.max() <= np.max(sizes)
    assert 0 < mean_iou <= 1 + 1e-9


@pytest.mark.parametrize(
    ('sizes', 'message'), [([[1, 2]], 'at least as many'), ([[0, 3]] * 9, 'without'), ([[math.nan, 3]] * 9, 'without')]
)
def test_sizes_that_fit_no_anchors_are_refused(sizes, message):
    with pytest.raises(DataError, match=message):
        fit_anchors(sizes)


def test_shape_iou_by_hand():
    found = shape_iou(torch.tensor([[10.0, 10.0]]), torch.tensor([[10.0, 10.0], [5.0, 20.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 50 / 150]]))
