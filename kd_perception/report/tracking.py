"""Tracking over the frames of an evaluation: ids as the node would give them, judged where the ground truth has ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kd_perception.bags.ground_truth import GroundTruth
from kd_perception.bundles.bundle import Bundle
from kd_perception.detection.detections import NO_TRACK, Detections
from kd_perception.detection.overlap import iou, share_inside
from kd_perception.evaluation.results import BagResult
from kd_perception.metrics.tracking import TrackedFrame, tracking_figures
from kd_perception.tracking.bytetrack import ByteTracker, TrackerSettings

INSIDE = 0.5
"""Share of a detection that lies in a crowd or an ignored region from which on it is not judged."""


def tracked(detections: Sequence[Detections], stamps_ns: Sequence[int], settings: TrackerSettings) -> list[Detections]:
    """The detections of one recording with track ids, in the order of their stamps."""
    tracker = ByteTracker(settings)
    return [tracker.track(found, stamp / 1e9) for found, stamp in zip(detections, stamps_ns, strict=True)]


def published(detections: Detections, bundle: Bundle, settings: TrackerSettings) -> Detections:
    """Of the tracked detections of a frame those that the node would publish."""
    return detections.select(settings.published(detections, bundle.thresholds.reported(detections, bundle.classes)))


def tracking_section(results: Sequence[BagResult], bundle: Bundle, settings: TrackerSettings) -> dict[str, Any] | None:
    """The report's section `tracking`: figures of every bag whose ground truth has ids, and of all together.

    Args:
        results: of the bags.
        bundle: its thresholds say what is published; weaker detections only continue tracks.
        settings: of the tracker.

    Returns:
        None where no ground truth has ids.
    """
    bags: list[tuple[str, list[TrackedFrame]]] = []
    for result in results:
        frames = [frame for frame in result.frames if not frame.rejected]
        found = tracked([frame.detections for frame in frames], [frame.stamp_ns for frame in frames], settings)
        judged = [
            judged_frame(result.truth[frame.stamp_ns], published(detections, bundle, settings))
            for frame, detections in zip(frames, found, strict=True)
            if frame.stamp_ns in result.truth
        ]
        if any(len(frame.truth_ids) for frame in judged):
            bags.append((result.name, judged))
    if not bags:
        return None
    return {
        'tracker': 'bytetrack',
        **tracking_figures(_one_after_the_other([frames for _, frames in bags])).to_json(),
        'bags': [{'bag': name, **tracking_figures(frames).to_json()} for name, frames in bags],
    }


def judged_frame(truth: GroundTruth, found: Detections) -> TrackedFrame:
    """What is compared: objects with an id, and tracks of what was published outside of crowds and ignored regions."""
    objects = truth.objects.select(~truth.crowd)
    ids = np.zeros(len(objects), np.int64) if objects.track_ids is None else objects.track_ids
    elsewhere = np.concatenate([truth.objects.boxes[truth.crowd], truth.ignored])
    track_ids = np.zeros(len(found), np.int64) if found.track_ids is None else found.track_ids
    kept = (track_ids != NO_TRACK) & ~_lies_in(found, elsewhere, objects)
    named = ids != NO_TRACK
    return TrackedFrame(objects.select(named), ids[named], found.select(kept), track_ids[kept])


def _lies_in(found: Detections, regions: np.ndarray[Any, Any], objects: Detections) -> np.ndarray[Any, Any]:
    """Which detections lie in a region without hitting an object."""
    if not len(regions) or not len(found):
        return np.zeros(len(found), np.bool_)
    hits = iou(found.boxes, objects.boxes).max(axis=1, initial=0.0) >= INSIDE
    result: np.ndarray[Any, Any] = (share_inside(found.boxes, regions) >= INSIDE).any(axis=1) & ~hits
    return result


def _one_after_the_other(bags: Sequence[Sequence[TrackedFrame]]) -> list[TrackedFrame]:
    """Many recordings as one: no id of one bag is an id of another."""
    joined: list[TrackedFrame] = []
    truth_offset = offset = 0
    for frames in bags:
        joined += [replace(f, truth_ids=f.truth_ids + truth_offset, ids=f.ids + offset) for f in frames]
        truth_offset += 1 + max((int(f.truth_ids.max(initial=0)) for f in frames), default=0)
        offset += 1 + max((int(f.ids.max(initial=0)) for f in frames), default=0)
    return joined
