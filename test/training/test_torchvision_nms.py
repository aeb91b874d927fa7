"""The operator that a CUDA build of torchvision lacks beside a CPU build of torch."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')

from training import torchvision_nms  # noqa: E402


def plain_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """NMS as it is defined."""
    kept: list[int] = []
    for index in np.argsort(-scores):
        x1, y1, x2, y2 = boxes[index]
        for other in kept:
            a1, b1, a2, b2 = boxes[other]
            overlap = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
            if overlap / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - overlap) > threshold:
                break
        else:
            kept.append(int(index))
    return kept


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('threshold', [0.3, 0.7])
def test_nms_keeps_what_the_definition_keeps(seed, threshold):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 100, (80, 2))
    boxes = np.hstack([corners, corners + rng.uniform(5, 40, (80, 2))]).astype(np.float32)
    scores = rng.permutation(80).astype(np.float32) / 80
    kept = torchvision_nms.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
    assert kept.tolist() == plain_nms(boxes.astype(float), scores, threshold)


def test_no_boxes_keep_none():
    assert torchvision_nms.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)


def test_torchvision_is_usable_after_ensure():
    torchvision_nms.ensure()
    torchvision_nms.ensure()
    import torchvision

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    assert torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.3]), 0.5).tolist() == [1, 2]
