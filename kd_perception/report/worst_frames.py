"""The frames in which the detector errs most, decoded again to be looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.bags.reader import open_bag
from kd_perception.bundles.bundle import Bundle
from kd_perception.detection.detections import Detections
from kd_perception.detection.image import BgrImage
from kd_perception.errors import BagError, ImageError
from kd_perception.evaluation.results import BagResult, FrameResult
from kd_perception.metrics.matching import assign, excused

_IOU = 0.5


@dataclass(frozen=True)
class WorstFrame:
    """A frame and what the detector made of it at the bundle's threshold.

    Attributes:
        bag: the bag's name.
        stamp_ns: the image's stamp.
        seconds: since the bag's first frame.
        image: uint8 (height, width, 3) BGR, without anything drawn on it.
        right: detections that found an object.
        false_alarms: detections that found none; those in crowds and ignored regions left out.
        missed: objects that no detection found.
    """

    bag: str
    stamp_ns: int
    seconds: float
    image: BgrImage
    right: Detections
    false_alarms: Detections
    missed: Detections


@dataclass(frozen=True)
class _Verdict:
    result: BagResult
    frame: FrameResult
    right: Detections
    false_alarms: Detections
    missed: Detections

    @property
    def errors(self) -> int:
        return len(self.false_alarms) + len(self.missed)


def worst_frames(results: Sequence[BagResult], bundle: Bundle, count: int = 6) -> list[WorstFrame]:
    """The frames with the most missed objects and false alarms, spread over time, worst first.

    A bag that cannot be read again from here, as when a cluster's workers read it, gives no pictures.

    Args:
        results: with ground truth, or there is nothing to judge.
        bundle: its score thresholds apply.
        count: most frames to return.
    """
    verdicts = [
        _judge(result, frame, result.truth[frame.stamp_ns], bundle)
        for result in results
        for frame in result.frames
        if not frame.rejected and frame.stamp_ns in result.truth
    ]
    chosen = _spread([verdict for verdict in verdicts if verdict.errors], results, count)
    pictures = [picture for result in results for picture in _pictures(result, chosen)]
    return sorted(pictures, key=lambda picture: -len(picture.missed) - len(picture.false_alarms))


def _judge(result: BagResult, frame: FrameResult, truth: GroundTruth, bundle: Bundle) -> _Verdict:
    found = frame.detections.select(bundle.thresholds.reported(frame.detections, bundle.classes))
    objects = truth.objects.select(~truth.crowd)
    of = assign(found, objects, _IOU)
    right = of >= 0
    missed = np.ones(len(objects), np.bool_)
    missed[of[right]] = False
    return _Verdict(
        result, frame, found.select(right), found.select(~right & ~excused(found, truth)), objects.select(missed)
    )


def _spread(verdicts: Sequence[_Verdict], results: Sequence[BagResult], count: int) -> list[_Verdict]:
    """The worst first, none within a twelfth (for six) of the whole duration of another of its bag."""
    duration = sum(r.frames[-1].stamp_ns - r.frames[0].stamp_ns for r in results if r.frames)
    gap = duration / (2 * count)
    chosen: list[_Verdict] = []
    for verdict in sorted(verdicts, key=lambda verdict: -verdict.errors):
        near = (
            other.result is verdict.result and abs(other.frame.stamp_ns - verdict.frame.stamp_ns) < gap
            for other in chosen
        )
        if len(chosen) < count and not any(near):
            chosen.append(verdict)
    return chosen


def _pictures(result: BagResult, chosen: Sequence[_Verdict]) -> Iterator[WorstFrame]:
    wanted = {verdict.frame.stamp_ns: verdict for verdict in chosen if verdict.result is result}
    try:
        frames = open_bag(result.path, result.topic) if wanted else ()
        for frame in frames:
            verdict = wanted.pop(frame.key, None)
            if verdict is None:
                continue
            yield WorstFrame(
                bag=result.name,
                stamp_ns=frame.key,
                seconds=(frame.key - result.frames[0].stamp_ns) / 1e9,
                image=frame.decode(),
                right=verdict.right,
                false_alarms=verdict.false_alarms,
                missed=verdict.missed,
            )
            if not wanted:
                return
    except (BagError, ImageError):
        return
