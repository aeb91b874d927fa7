"""`python -m benchmarks.tracking`: how well ids stay with the vehicles of synthetic flights at 30 Hz, and what tracking costs."""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from kd_perception.bags.ground_truth import Annotations, GroundTruth
from kd_perception.bags.making import truth_of_scene
from kd_perception.bags.sources import SourceFrame
from kd_perception.bundles.bundle import Bundle, find_bundle, load_bundle
from kd_perception.demo.evaluation import flight_class_map
from kd_perception.detection.detections import Detections
from kd_perception.detection.detector import Detector
from kd_perception.detection.thresholds import SUPPRESSIONS
from kd_perception.engines.options import EngineOptions
from kd_perception.metrics.tracking import TrackedFrame, TrackingFigures, tracking_figures
from kd_perception.report.tracking import judged_frame, published
from kd_perception.scene import CLASS_NAMES, Scene, SceneFrame
from kd_perception.selection.selection import Request, select
from kd_perception.tracking.bytetrack import ByteTracker, TrackerSettings

FPS = 30.0
OBJECTS = 50
ROUNDS = 301


def main() -> None:
    """Print a row a flight for the bundle and for exact boxes, then the times."""
    options = _options()
    detector = _detector(options)
    print(
        '| boxes | seed | objects | HOTA | IDF1 | MOTA | MOTA, classes ignored | id switches |\n|---|---|---|---|---|---|---|---|'
    )
    for seed in options.seeds:
        scene = Scene(seed, 640, 480, FPS)
        shown = [scene.frame(k) for k in range(options.frames)]
        truth = _truth(shown, detector.bundle)
        found = [detector.detect(frame.image)[0] for frame in shown]
        for score in options.track_publish_score:
            settings = TrackerSettings(high_score=options.track_high_score, publish_score=score)
            tracks = [published(one, detector.bundle, settings) for one in _tracked(found, settings)]
            name = detector.bundle.name + (f', tracks from {score:g}' if score >= 0 else '')
            _print_row(name, seed, truth, tracks)
        exact = [replace(there.objects, track_ids=None) for there in truth]
        _print_row('exact', seed, truth, list(_tracked(exact, TrackerSettings())))
    _print_times()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--bundle', default='aerial_traffic', help='of the classes of the scenes (default: %(default)s)'
    )
    parser.add_argument('--precision', default='auto')
    parser.add_argument('--threads', type=int, default=0, help='inside one inference (default: one per core)')
    parser.add_argument('--suppression', choices=SUPPRESSIONS, default='', help="default: the bundle's")
    parser.add_argument('--track-high-score', type=float, default=TrackerSettings().high_score)
    parser.add_argument(
        '--track-publish-score', type=float, nargs='+', default=[-1.0, 0.25], help='a row each (default: %(default)s)'
    )
    parser.add_argument('--seeds', type=int, nargs='*', default=list(range(6)), help='of the flights; none: times only')
    parser.add_argument('--frames', type=int, default=90, help='of each flight (default: %(default)s)')
    return parser.parse_args()


def _truth(shown: Sequence[SceneFrame], bundle: Bundle) -> list[GroundTruth]:
    """The ground truth of a flight in the bundle's classes, as an evaluation reads it from a bag of the flight."""
    named = truth_of_scene(CLASS_NAMES)
    frames = {
        k: named(k, SourceFrame(frame.image, GroundTruth.of(frame.truth, frame.ignored)))
        for k, frame in enumerate(shown)
    }
    return [*Annotations('scene', frames).for_classes(bundle.classes, flight_class_map(bundle)).values()]


def _detector(options: argparse.Namespace) -> Detector:
    request = Request(
        'onnxruntime',
        options.precision,
        1.0,
        budget_ms=math.inf,
        options=EngineOptions(threads=options.threads),
        family=False,
    )
    selection = select(load_bundle(find_bundle(options.bundle)), request)
    thresholds = selection.bundle.thresholds.down_to(TrackerSettings().low_score)
    if options.suppression:
        thresholds = replace(thresholds, suppression=options.suppression)
    return Detector(selection.bundle, selection.load(), thresholds)


def _tracked(frames: Sequence[Detections], settings: TrackerSettings) -> Iterator[Detections]:
    tracker = ByteTracker(settings)
    return (tracker.track(found, k / FPS) for k, found in enumerate(frames))


def _print_row(boxes: str, seed: int, truth: Sequence[GroundTruth], tracks: Sequence[Detections]) -> None:
    frames = [judged_frame(there, found) for there, found in zip(truth, tracks, strict=True)]
    figures, classless = tracking_figures(frames), tracking_figures([_classless(frame) for frame in frames])
    print(f'| {boxes} | {seed} | {_row(figures)} | {classless.mota:.3f} | {figures.id_switches} |', flush=True)


def _row(figures: TrackingFigures) -> str:
    return f'{figures.objects} | {figures.hota:.3f} | {figures.idf1:.3f} | {figures.mota:.3f}'


def _classless(frame: TrackedFrame) -> TrackedFrame:
    """The same with one class for all."""
    truth, found = (replace(one, class_ids=np.zeros(len(one), np.int32)) for one in (frame.truth, frame.found))
    return replace(frame, truth=truth, found=found)


def _print_times() -> None:
    """One update with OBJECTS boxes that move, as detections of a frame; one thread."""
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 1800, (OBJECTS, 2)), rng.uniform(20, 60, (OBJECTS, 2))
    speeds, tracker, times = rng.uniform(-60, 60, (OBJECTS, 2)), ByteTracker(), []
    scores, class_ids = rng.uniform(0.3, 0.9, OBJECTS), rng.integers(0, len(CLASS_NAMES), OBJECTS)
    for k in range(ROUNDS):
        at = corners + speeds * k / FPS + rng.normal(0, 0.5, corners.shape)
        found = Detections(np.concatenate([at, at + sides], axis=1), scores, class_ids)
        begin = time.perf_counter()
        tracker.track(found, k / FPS)
        times.append(1e3 * (time.perf_counter() - begin))
    print(
        f'\ntracking of {OBJECTS} objects: median {statistics.median(times):.3f} ms, 90 % below {np.percentile(times, 90):.3f} ms'
    )


if __name__ == '__main__':
    main()
