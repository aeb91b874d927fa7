"""False alarms on painted scenes, with and without clutter: islands, kerbs, kiosks, whatever looks like a vehicle and is none.

    python -m benchmarks.clutter models/aerial_traffic out/another

Every scene is painted twice, with the same vehicles. A detection is a false alarm where it overlaps no vehicle by an IoU of
0.3 and does not lie by half in one that is hardly in sight; a vehicle is found where a detection of its own overlaps it by 0.5.
Classes do not count, and all boxes suppress each other. Detectors are to be compared where they find as much.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kd_perception import engines
from kd_perception.bundles.bundle import load_bundle
from kd_perception.detection.detections import Detections
from kd_perception.detection.detector import Detector
from kd_perception.detection.overlap import iou, share_inside
from kd_perception.detection.thresholds import ALL_CLASSES
from kd_perception.engines.options import EngineOptions
from kd_perception.metrics.matching import assign
from kd_perception.scene import Scene, SceneFrame, draw_settings

SCORES = (0.25, 0.35, 0.45, 0.5, 0.6)
TOUCHED, FOUND = 0.3, 0.5
"""IoU with any vehicle from which a detection is no false alarm, and with its own from which a vehicle is found."""
EXCUSED = 0.5
"""Share of a detection inside a vehicle that is hardly in sight, from which it is neither right nor wrong."""


@dataclass(frozen=True)
class Count:
    """What a detector reports from a score on.

    Attributes:
        alarms: detections that overlap no vehicle.
        found: vehicles.
    """

    alarms: int
    found: int

    def __add__(self, other: Count) -> Count:
        return Count(self.alarms + other.alarms, self.found + other.found)

    def __str__(self) -> str:
        return f'{self.alarms}, {self.found}'


def main() -> int:
    """Paint, detect, print the table."""
    parser = argparse.ArgumentParser('python -m benchmarks.clutter', description=__doc__.splitlines()[0])
    parser.add_argument('bundles', nargs='+', type=Path)
    parser.add_argument('--scenes', type=int, default=12)
    parser.add_argument('--first-seed', type=int, default=70_000, help='no recipe trains on scenes from here on')
    parser.add_argument('--density', type=float, default=1.3, help='of the clutter, 0 to 3')
    parser.add_argument('--size', nargs=2, type=int, default=(960, 540), metavar=('WIDTH', 'HEIGHT'))
    parser.add_argument('--precision', default='fp32')
    parser.add_argument('--threads', type=int, default=1)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.scenes)
    densities = (0.0, options.density)
    scenes = [list(painted(seeds, density, *options.size)) for density in densities]
    counts = []
    for folder in options.bundles:
        detector = detector_of(folder, options.precision, options.threads)
        counts += [count(detector, frames) for frames in scenes]
        detector.close()
    titles = [f'{folder}, clutter {density:g}' for folder in options.bundles for density in densities]
    vehicles = sum(len(frame.truth) for frame in scenes[0])
    print(f'{options.scenes} scenes, {vehicles} vehicles; false alarms, vehicles found:\n')
    print(f'| score from | {" | ".join(titles)} |\n|---|{"---|" * len(titles)}')
    for number, score in enumerate(SCORES):
        print(f'| {score:g} | {" | ".join(str(column[number]) for column in counts)} |')
    return 0


def painted(seeds: Iterable[int], density: float, width: int, height: int) -> Iterator[SceneFrame]:
    """The first frame of each scene; the density of clutter changes no vehicle."""
    for seed in seeds:
        yield Scene(seed, width, height, settings=replace(draw_settings(seed), clutter=density)).frame(0)


def detector_of(folder: Path, precision: str, threads: int) -> Detector:
    """A bundle's detector, down to the lowest score of the table."""
    bundle = load_bundle(folder)
    artifact = bundle.artifact('onnxruntime', precision)
    thresholds = replace(bundle.thresholds_of(artifact).down_to(min(SCORES)), suppression=ALL_CLASSES)
    return Detector(bundle, engines.load(bundle, artifact, EngineOptions(threads=threads)), thresholds)


def count(detector: Detector, frames: Sequence[SceneFrame]) -> list[Count]:
    """One for each of `SCORES`."""
    detected = [of_one_class(detector.detect(frame.image)[0]) for frame in frames]
    return [sum((judged(*pair, score) for pair in zip(detected, frames, strict=True)), Count(0, 0)) for score in SCORES]


def judged(detections: Detections, frame: SceneFrame, score: float) -> Count:
    """What is reported from a score on, all of one class, held against a frame's vehicles."""
    reported, truth = detections.select(detections.scores >= score), of_one_class(frame.truth)
    touches = iou(reported.boxes, truth.boxes).max(1, initial=0) >= TOUCHED
    excused = share_inside(reported.boxes, frame.ignored).max(1, initial=0) >= EXCUSED
    found = assign(reported, truth, FOUND) >= 0
    return Count(int((~touches & ~excused).sum()), int(found.sum()))


def of_one_class(detections: Detections) -> Detections:
    """The same boxes and scores without their classes."""
    return replace(detections, class_ids=np.zeros(len(detections), np.int32))


if __name__ == '__main__':
    raise SystemExit(main())
