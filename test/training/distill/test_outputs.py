"""What heads put out becomes boxes as Ultralytics' own code makes them."""

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('ultralytics')
import torch.nn.functional as F  # noqa: E402, N812
from ultralytics.utils.tal import dist2bbox, make_anchors  # noqa: E402

from training.distill.losses.queries import iou  # noqa: E402
from training.distill.outputs import cell_centers, decode  # noqa: E402

STRIDES = (8.0, 16.0, 32.0)


@pytest.mark.parametrize('bins', [1, 16])
def test_boxes_are_those_of_ultralytics(bins):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, 4, rows, rows + 2, generator=generator) for rows in (8, 4, 2)]
    count = sum(level.shape[2] * level.shape[3] for level in maps)
    sides = torch.rand(2, 4 * bins, count, generator=generator) * 4
    centers, pixels = make_anchors(maps, STRIDES, 0.5)
    for own, theirs in zip(cell_centers(maps, STRIDES), (centers, pixels), strict=True):
        assert torch.equal(own, theirs)
    distances = (
        sides if bins == 1 else F.softmax(sides.view(2, 4, bins, count), 2).mul(torch.arange(bins).view(-1, 1)).sum(2)
    )
    wanted = dist2bbox(distances, centers.T[None], xywh=False, dim=1) * pixels.T
    torch.testing.assert_close(decode({'boxes': sides, 'feats': maps}, bins, STRIDES), wanted, rtol=1e-5, atol=1e-4)


def test_every_pair_of_boxes_overlaps_as_ultralytics_says():
    from ultralytics.utils.metrics import box_iou

    boxes = torch.rand(9, 4, generator=torch.Generator().manual_seed(1)).sort(1).values[:, [0, 1, 2, 3]]
    first, second = boxes[:4], boxes[4:]
    torch.testing.assert_close(
        iou(first.T.unsqueeze(2), second.T.unsqueeze(1)), box_iou(first, second), atol=1e-5, rtol=1e-4
    )
