"""How far two sets of detections are apart."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.benchmark.parity import Parity, compare
from kd_perception.detection.detections import Detections


def boxes(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32))


CAR, NEAR, FAR = (0, 0, 10, 10, 0.9, 0), (0, 0, 10, 8, 0.7, 0), (50, 50, 60, 60, 0.8, 0)
POINT = (5, 5, 5, 5, 0.5, 0)


@pytest.mark.parametrize(
    ('reference', 'found', 'parity'),
    [
        ([], [], Parity(0, 0, 0, 0.0, 1.0)),
        ([CAR], [CAR], Parity(1, 0, 0, 0.0, 1.0)),
        ([CAR], [NEAR], Parity(1, 0, 0, 0.2, 0.8)),
        ([CAR, FAR], [NEAR], Parity(2, 1, 0, 0.2, 0.8)),
        ([CAR], [NEAR, CAR, FAR], Parity(1, 0, 2, 0.0, 1.0)),
        ([CAR], [(*CAR[:5], 1)], Parity(1, 1, 1, 0.0, 1.0)),
        ([POINT], [POINT], Parity(1, 1, 1, 0.0, 1.0)),
    ],
    ids=['nothing', 'same', 'shifted', 'missing', 'best counterpart', 'other class', 'no area'],
)
def test_parity(reference, found, parity):
    result = compare([boxes(*reference)], [boxes(*found)])
    assert (result.reference, result.missing, result.extra) == (parity.reference, parity.missing, parity.extra)
    assert (result.worst_score, result.worst_iou) == pytest.approx((parity.worst_score, parity.worst_iou), abs=1e-6)


def test_images_are_not_mixed():
    result = compare([boxes(CAR), boxes()], [boxes(), boxes(CAR)])
    assert (result.missing, result.extra) == (1, 1)
