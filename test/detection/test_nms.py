"""NMS equals a plain reference, box by box, and does what its parameters say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_perception.detection.detections import Detections
from kd_perception.detection.nms import nms


def iou(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(float), b.astype(float)
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


def reference(detections: Detections, threshold: float, limit: int, class_agnostic: bool) -> list[int]:
    """The definition, compared pair by pair: indices of what stays, by descending score, then in the order given."""
    kept: list[int] = []
    for i in sorted(range(len(detections)), key=lambda i: (-detections.scores[i], i)):
        rivals = [k for k in kept if class_agnostic or detections.class_ids[k] == detections.class_ids[i]]
        if all(iou(detections.boxes[k], detections.boxes[i]) <= threshold for k in rivals):
            kept.append(i)
    return kept[:limit]


@st.composite
def crowds(draw: st.DrawFn) -> Detections:
    """Overlapping boxes, far apart or not, with so few different scores that ties are common."""
    shift = draw(st.sampled_from([0, 0, -700, 5000]))
    count = draw(st.integers(1, 40))
    corners = draw(
        st.lists(st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 40)] * 2), min_size=count, max_size=count)
    )
    boxes = [(x / 3 + shift, y / 3, (x + w) / 3 + shift, (y + h) / 3) for x, y, w, h in corners]
    scores = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=count, max_size=count))
    class_ids = draw(st.lists(st.sampled_from([0, 1, 79]), min_size=count, max_size=count))
    return Detections(np.array(boxes), np.array(scores), np.array(class_ids))


@settings(max_examples=300, deadline=None)
@given(
    crowd=crowds(),
    threshold=st.sampled_from([0.1234567, 0.4501234, 0.5512345, 0.7012345]),
    limit=st.sampled_from([1, 5, 300]),
    class_agnostic=st.booleans(),
)
def test_nms_equals_the_reference(crowd: Detections, threshold: float, limit: int, class_agnostic: bool) -> None:
    expected = crowd.select(np.array(reference(crowd, threshold, limit, class_agnostic), int))
    assert nms(crowd, threshold, limit, class_agnostic) == expected


def test_nms_equals_the_reference_on_a_crowded_picture() -> None:
    rng = np.random.default_rng(3)
    objects = rng.uniform(0, 1900, (60, 2))
    centers = np.repeat(objects, 10, axis=0) + rng.normal(0, 3, (600, 2))
    sizes = rng.uniform(20, 40, (600, 2))
    crowd = Detections(
        np.hstack([centers - sizes / 2, centers + sizes / 2]), rng.random(600), np.repeat(rng.integers(0, 5, 60), 10)
    )
    expected = reference(crowd, 0.5, 300, class_agnostic=False)
    assert 60 <= len(expected) < 300
    assert nms(crowd, 0.5, 300) == crowd.select(np.array(expected))


TWO = Detections([[0, 0, 10, 10], [0, 0, 10, 8]], [0.6, 0.9], [0, 1])


@pytest.mark.parametrize(
    ('threshold', 'class_agnostic', 'scores'),
    [(0.5, False, [0.9, 0.6]), (0.5, True, [0.9]), (0.81, True, [0.9, 0.6]), (1.0, True, [0.9, 0.6])],
)
def test_classes_suppress_each_other_only_when_asked(
    threshold: float, class_agnostic: bool, scores: list[float]
) -> None:
    assert nms(TWO, threshold, 300, class_agnostic).scores.tolist() == pytest.approx(scores)


def test_no_detections_stay_no_detections() -> None:
    assert len(nms(Detections.empty(), 0.5, 300)) == 0


def test_equal_boxes_of_equal_score_leave_the_first() -> None:
    twins = Detections([[0, 0, 4, 4]] * 3, [0.5] * 3, [2, 2, 2])
    assert nms(twins, 0.5, 300) == twins.select(slice(0, 1))
