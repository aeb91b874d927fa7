"""Our average precision against pycocotools, the reference implementation, on random images."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections
from kd_perception.metrics.accuracy import measure

CLASSES = ('car', 'truck', 'bus', 'minibus')
SIDE = 640
MAX_DETECTIONS = 100  # that pycocotools' summary is made for
Images = tuple[list[Detections], list[GroundTruth]]


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """Boxes of all three sizes, from 6 to 250 pixels long."""
    corners = random.uniform(0, SIDE, (count, 2))
    return np.hstack([corners, corners + np.exp(random.uniform(np.log(6), np.log(250), (count, 2)))]).astype(np.float32)


def random_truth(random: np.random.Generator, classes: int, most: int) -> GroundTruth:
    """Up to `most` objects; one in eight is a crowd, and in one image of four nobody is judged in a corner."""
    count = random.integers(0, most + 1)
    objects = Detections(random_boxes(random, count), np.ones(count), random.integers(0, classes, count))
    ignored = random_boxes(random, 1) if random.random() < 0.25 else np.zeros((0, 4), np.float32)
    return GroundTruth(objects, random.random(count) < 0.125, ignored)


def random_detections(random: np.random.Generator, truth: GroundTruth, classes: int, decimals: int) -> Detections:
    """Most of what is there, some of it twice or as another class, with every degree of precision; and false alarms."""
    seen = np.flatnonzero(random.random(len(truth.objects)) < 0.8)
    seen = np.concatenate([seen, seen[random.random(len(seen)) < 0.3]])
    sizes = truth.objects.boxes[seen][:, 2:] - truth.objects.boxes[seen][:, :2]
    moved = truth.objects.boxes[seen] + np.tile(sizes, 2) * random.normal(0, 0.12, (len(seen), 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    class_ids = truth.objects.class_ids[seen]
    confused = random.random(len(seen)) < 0.1
    class_ids = np.where(confused, random.integers(0, classes, len(seen)), class_ids)
    alarms = random.poisson(4)
    inside = truth.ignored + np.array([1, 1, -1, -1], np.float32)
    boxes = np.vstack([moved, random_boxes(random, alarms), inside])
    class_ids = np.concatenate([class_ids, random.integers(0, classes, alarms + len(inside))])
    return Detections(boxes, random.random(len(boxes)).round(decimals), class_ids)


def random_images(seed: int, classes: int, images: int, most: int, decimals: int) -> Images:
    random = np.random.default_rng(seed)
    truth = [random_truth(random, classes, most) for _ in range(images)]
    return [random_detections(random, there, classes, decimals) for there in truth], truth


def annotation(box: np.ndarray, class_id: int, image_id: int, **more: float) -> dict[str, object]:
    x1, y1, x2, y2 = (float(v) for v in box)
    size = {'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': (x2 - x1) * (y2 - y1)}
    return {'image_id': image_id, 'category_id': int(class_id), **size, **more}


def by_pycocotools(detections: list[Detections], truth: list[GroundTruth], classes: int) -> np.ndarray:
    """pycocotools' summary: AP50-95, AP50, AP75, AP small, medium, large, and its recalls; -1 where there is nothing."""
    found, there = [], []
    for image_id, (image, real) in enumerate(zip(detections, truth, strict=True), 1):
        rows = zip(image.boxes, image.class_ids, image.scores, strict=True)
        found += [annotation(box, class_id, image_id, score=float(score)) for box, class_id, score in rows]
        rows = zip(real.objects.boxes, real.objects.class_ids, real.crowd, strict=True)
        there += [annotation(box, class_id, image_id, iscrowd=int(crowd)) for box, class_id, crowd in rows]
        there += [annotation(box, k, image_id, iscrowd=1) for box in real.ignored for k in range(classes)]
    reference = COCO()
    reference.dataset = {
        'images': [{'id': image_id} for image_id in range(1, len(truth) + 1)],
        'annotations': [entry | {'id': number} for number, entry in enumerate(there, 1)],
        'categories': [{'id': k} for k in range(classes)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(found), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize(
    ('classes', 'images', 'most', 'decimals'),
    [
        (4, 25, 12, 9),  # a common set
        (4, 25, 12, 1),  # scores that are often equal
        (1, 40, 1, 9),  # one class, about half of the images empty
        (2, 2, 600, 9),  # more detections an image than count
    ],
    ids=['common', 'equal scores', 'sparse', 'dense'],
)
def test_average_precision_is_that_of_pycocotools(seed, classes, images, most, decimals):
    detections, truth = random_images(seed, classes, images, most, decimals)
    ours = measure(detections, truth, CLASSES, score_threshold=0.5, max_detections=MAX_DETECTIONS)
    map_, map50, _, *sizes = by_pycocotools(detections, truth, classes)[:6]
    assert (ours.map, ours.map50) == pytest.approx((map_, map50), abs=1e-6)
    assert [-1 if v is None else v for v in ours.per_size.values()] == pytest.approx(sizes, abs=1e-6)


@pytest.mark.parametrize('seed', range(6))
def test_every_class_by_itself_too(seed):
    detections, truth = random_images(seed, len(CLASSES), images=25, most=12, decimals=9)
    ours = measure(detections, truth, CLASSES, score_threshold=0.5, max_detections=MAX_DETECTIONS)
    for class_id, name in enumerate(CLASSES):
        alone = [image.select(image.class_ids == class_id) for image in detections]
        objects = [image.objects.class_ids == class_id for image in truth]
        rest = [
            GroundTruth(image.objects.select(kept), image.crowd[kept], image.ignored)
            for image, kept in zip(truth, objects, strict=True)
        ]
        map_, map50 = by_pycocotools(alone, rest, len(CLASSES))[:2]
        assert (ours.per_class[name].map, ours.per_class[name].map50) == pytest.approx((map_, map50), abs=1e-6)


def test_the_random_images_ask_every_question():
    detections, truth = random_images(0, len(CLASSES), images=25, most=12, decimals=9)
    stats = by_pycocotools(detections, truth, len(CLASSES))
    assert all(0.02 < value < 0.98 for value in stats[[0, 1, 3, 4, 5]])
    assert any(image.crowd.any() for image in truth)
    assert any(len(image.ignored) for image in truth)
    sparse = random_images(0, 1, images=40, most=1, decimals=9)[1]
    assert any(not len(image.objects) for image in sparse)
    dense = random_images(0, 2, images=2, most=600, decimals=9)[0]
    assert max(np.bincount(image.class_ids).max() for image in dense) > MAX_DETECTIONS
