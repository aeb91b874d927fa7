"""FGD: its regions by hand, its formula by loops."""

import pytest

torch = pytest.importorskip('torch')

from training.distill.losses import make  # noqa: E402
from training.distill.losses.focal_global import region_masks  # noqa: E402
from training.errors import LossError  # noqa: E402


def test_a_cell_counts_for_the_smallest_object_that_covers_it():
    """Cells of 8 pixels; as in the authors' code the last row and column of a box count, too."""
    objects, rest = region_masks(torch.tensor([[0.0, 0, 20, 12], [8, 8, 10, 10]]), (4, 4), 8)
    large, small = 1 / 12, 1 / 4  # 0 … 3 × 0 … 2 cells, and 1 … 2 × 1 … 2
    assert objects.tolist() == [
        pytest.approx([large] * 4),
        pytest.approx([large, small, small, large]),
        pytest.approx([large, small, small, large]),
        [0] * 4,
    ]
    assert rest.tolist() == [[0] * 4] * 3 + [[0.25] * 4]


def test_without_objects_all_is_background():
    objects, rest = region_masks(torch.zeros(0, 4), (2, 3), 8)
    assert objects.sum() == 0
    assert rest.tolist() == [pytest.approx([1 / 6] * 3)] * 2


def by_loops(s, t, objects, rest, alpha, beta, gamma, lam):
    """One image, the contexts still without effect, as they begin."""
    channels, height, width = s.shape

    def attention(f):
        places = torch.tensor([[f[:, y, x].abs().mean() / 0.5 for x in range(width)] for y in range(height)]).exp()
        by_channel = torch.tensor([f[c].abs().mean() / 0.5 for c in range(channels)]).exp()
        return places / places.sum() * height * width, by_channel / by_channel.sum() * channels

    (places, by_channel), (own_places, own_channels) = attention(t), attention(s)
    total = 0.0
    for c in range(channels):
        total += gamma * abs(by_channel[c] - own_channels[c])
        for y in range(height):
            for x in range(width):
                weight = alpha * objects[y, x] + beta * rest[y, x]
                difference = (t[c, y, x] - s[c, y, x]) ** 2
                total += weight * places[y, x] * by_channel[c] * difference + lam * difference
    return total + gamma * (places - own_places).abs().sum()


def test_the_formula():
    torch.set_default_dtype(torch.float64)
    try:
        student, teacher = torch.randn(2, 2, 3, 4, 5)
        boxes = [torch.tensor([[0.0, 0, 15, 9]]), torch.tensor([[16.0, 8, 30, 30], [0, 0, 4, 4]])]
        weights = {'foreground': 0.3, 'background': 0.2, 'attention': 0.1, 'relation': 0.05}
        loss = make('fgd', student_channels=[3], teacher_channels=[3], strides=[8], **weights)
        wanted = [
            by_loops(s, t, *region_masks(of_image, (4, 5), 8), *weights.values())
            for s, t, of_image in zip(student, teacher, boxes, strict=True)
        ]
        assert loss([student], [teacher], boxes).item() == pytest.approx(float(sum(wanted)) / 2, rel=1e-6)
    finally:
        torch.set_default_dtype(torch.float32)


def test_levels_are_summed_and_a_1x1_convolution_brings_channels_together():
    student, teacher = (
        [torch.rand(1, 2, 8, 8), torch.rand(1, 4, 4, 4)],
        [torch.rand(1, 3, 8, 8), torch.rand(1, 4, 4, 4)],
    )
    loss = make('fgd', student_channels=[2, 4], teacher_channels=[3, 4], strides=[8, 16])
    boxes = [torch.tensor([[0.0, 0, 30, 30]])]
    parts = [loss._level(level, pair, boxes) for level, pair in enumerate(zip(student, teacher, strict=True))]
    torch.testing.assert_close(loss(student, teacher, boxes), parts[0] + parts[1])
    assert [type(adapter).__name__ for adapter in loss.adapters] == ['Conv2d', 'Identity']


def test_what_does_not_fit_is_refused():
    with pytest.raises(LossError, match='lists of one length'):
        make('fgd', student_channels=[3], teacher_channels=[3, 4], strides=[8])
    loss = make('fgd', student_channels=[3], teacher_channels=[3], strides=[8])
    maps = [torch.rand(2, 3, 4, 4)]
    with pytest.raises(LossError, match='1 lists of boxes for a batch of 2'):
        loss(maps, maps, [torch.zeros(0, 4)])
