"""The interval of a difference, by resampling images."""

from __future__ import annotations

import numpy as np
import pytest

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections
from kd_perception.metrics.accuracy import measure
from kd_perception.metrics.average_precision import sampled_maps
from kd_perception.metrics.resampling import paired_difference

CLASSES = ('car', 'truck')


def pictures(count: int, seed: int = 0) -> tuple[list[Detections], list[Detections], list[GroundTruth]]:
    """Truth, what a network found that misses some and invents some, and what one found that is right."""
    rng = np.random.default_rng(seed)
    truth, worse, right = [], [], []
    for _ in range(count):
        corners = rng.integers(0, 200, (rng.integers(1, 6), 2)).astype(np.float32)
        objects = Detections(
            np.hstack([corners, corners + 20]), np.ones(len(corners)), rng.integers(0, 2, len(corners)).astype(np.int32)
        )
        truth.append(GroundTruth.of(objects))
        right.append(Detections(objects.boxes, rng.uniform(0.5, 1, len(objects)), objects.class_ids))
        moved = objects.boxes + rng.normal(0, 2, (len(objects), 1)).astype(np.float32)
        worse.append(Detections(moved, rng.uniform(0.1, 1, len(objects)), objects.class_ids))
    return worse, right, truth


def test_a_sample_is_judged_as_if_it_were_the_set():
    worse, _, truth = pictures(12)
    samples = np.random.default_rng(1).integers(0, 12, (5, 12))
    got = sampled_maps(worse, truth, 2, samples, 300)
    wanted = [
        measure([worse[i] for i in sample], [truth[i] for i in sample], CLASSES, score_threshold=0.5).map
        for sample in samples
    ]
    assert got == pytest.approx(wanted, abs=1e-12)


def test_a_loss_in_every_picture_shows():
    worse, right, truth = pictures(20)
    paired = paired_difference(worse, right, truth, 2, resamples=200)
    assert paired.low < paired.difference < paired.high < 0


def test_a_loss_in_one_picture_of_many_does_not_show():
    _, right, truth = pictures(20)
    missed = [Detections.empty() if n == 3 else found for n, found in enumerate(right)]
    paired = paired_difference(missed, right, truth, 2, resamples=200)
    assert paired.difference < 0 <= paired.high


def test_the_same_network_twice_differs_by_nothing():
    _, right, truth = pictures(5)
    paired = paired_difference(right, right, truth, 2, resamples=50)
    assert (paired.difference, paired.low, paired.high) == (0, 0, 0)


def test_the_interval_is_the_same_every_time():
    worse, right, truth = pictures(8)
    assert paired_difference(worse, right, truth, 2, resamples=50) == paired_difference(
        worse, right, truth, 2, resamples=50
    )


def test_a_network_that_finds_nothing_loses_all():
    _, right, truth = pictures(5)
    nothing = [Detections.empty()] * 5
    assert paired_difference(nothing, right, truth, 2, resamples=20).difference == pytest.approx(-1)
