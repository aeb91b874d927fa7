"""What a difference of mAP50-95 between two networks on the same images is worth: its interval by resampling the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.detection.detections import Detections
from kd_perception.metrics.average_precision import sampled_maps

RESAMPLES = 1000


@dataclass(frozen=True)
class PairedDifference:
    """mAP50-95 of one network minus that of another, on the same images.

    Attributes:
        difference: on all images, -1 … 1; below 0 where the first is the worse one.
        low: lower end of the 95 % interval.
        high: its upper end.
        resamples: how many samples of the images it is from.
    """

    difference: float
    low: float
    high: float
    resamples: int

    def __str__(self) -> str:
        return f'{100 * self.difference:+.1f} (95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f})'


def paired_difference(
    found: Sequence[Detections],
    reference: Sequence[Detections],
    truth: Sequence[GroundTruth],
    class_count: int,
    *,
    max_detections: int = 300,
    resamples: int = RESAMPLES,
) -> PairedDifference:
    """Percentile bootstrap over images: both networks are judged on the same samples, so that hard images cancel out.

    Images that resemble each other, such as frames of one flight, make the interval too narrow.

    Args:
        found: what the network in question detected, one entry an image, from score 0.001 on.
        reference: what the other one detected on the same images.
        truth: what is there, in the same order.
        class_count: number of classes.
        max_detections: most detections counted per image and class.
        resamples: number of samples.
    """
    count = len(truth)
    # The first sample is the images as they are.
    samples = np.vstack([np.arange(count), np.random.default_rng(0).integers(0, count, (resamples, count))])
    first, second = (sampled_maps(each, truth, class_count, samples, max_detections) for each in (found, reference))
    differences = first - second
    low, high = np.percentile(differences[1:], [2.5, 97.5])
    return PairedDifference(float(differences[0]), float(low), float(high), resamples)
