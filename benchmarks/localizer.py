"""`python -m benchmarks.localizer`: how far positions are from the truth on synthetic flights, and what they cost."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import cv2
import numpy as np

from kd_perception.localization.camera import PinholeCamera
from kd_perception.localization.localizer import Localizer, LocalizerSettings, Location
from kd_perception.localization.transforms import Transform
from kd_perception.scene import Scene
from kd_perception.scene.space import SceneSpace

SEEDS = range(12)
FRAMES = (0,)
WIDTH, HEIGHT = 640, 480
OBJECTS = 50
ROUNDS = 201
BOX_DEVIATION = 1.5
"""Standard deviation that the boxes of a detector are given, pixels on each side."""
LOCALIZER = Localizer(LocalizerSettings(max_range=1000.0))
VIEWS = {'nadir (tilt 0 to 3 degrees)': (0.0, 3.0), 'oblique (tilt 10 to 30 degrees)': (10.0, 30.0)}


def main() -> None:
    """Print errors in meters and as a share of the range, then the times."""
    cv2.setNumThreads(1)
    print(
        '| view | mode | boxes | located | median range, m | median error, m | of the range, % | 90 % of them below, % |'
    )
    print('|---|---|---|---|---|---|---|---|')
    for view, tilts in VIEWS.items():
        scenes = [_scene(seed, tilts) for seed in SEEDS]
        for boxes in ('exact', f'± {BOX_DEVIATION} px'):
            for mode in ('depth', 'ground'):
                _print_errors(view, mode, boxes, scenes)
    _print_times()


def _scene(seed: int, tilts: tuple[float, float]) -> Scene:
    settings = Scene(seed, WIDTH, HEIGHT).settings
    return Scene(seed, WIDTH, HEIGHT, settings=replace(settings, tilt=float(np.interp(seed, (0, SEEDS[-1]), tilts))))


def _print_errors(view: str, mode: str, boxes: str, scenes: list[Scene]) -> None:
    rows, count = [], 0
    for scene in scenes:
        for k in FRAMES:
            errors, ranges, total = errors_of(scene, k, mode, 0.0 if boxes == 'exact' else BOX_DEVIATION)
            rows.append(np.stack([errors, ranges], axis=1))
            count += total
    errors, ranges = np.concatenate(rows).T
    shares = errors / ranges
    print(
        f'| {view} | {mode} | {boxes} | {len(errors)} of {count} | {np.median(ranges):.0f} | {np.median(errors):.2f} '
        f'| {100 * np.median(shares):.2f} | {100 * np.percentile(shares, 90):.2f} |'
    )


def errors_of(scene: Scene, k: int, mode: str, deviation: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Errors (N,) and ranges (N,) in meters of what was located in a frame, and how many objects there were.

    With depth the truth is the vehicle's center, on the ground the point below it. The depth image has noise of 1 % of the
    depth, in millimeters, and a tenth of it is missing.
    """
    space, truth = scene.space(k), scene.frame(k).truth
    rng = np.random.default_rng((scene.seed, k))
    boxes = truth.boxes + rng.normal(0.0, deviation, truth.boxes.shape)
    camera, pose = camera_of(space)
    if mode == 'depth':
        answers = LOCALIZER.by_depth(boxes, _noisy(space.depth, rng), camera, pose)
        centers = space.centers
    else:
        answers = LOCALIZER.on_ground(boxes, camera, pose)
        centers = space.centers * (1.0, 1.0, 0.0)
    found = [(a.position, c) for a, c in zip(answers, centers, strict=True) if isinstance(a, Location)]
    positions, places = np.array(found).reshape(-1, 2, 3).transpose(1, 0, 2)
    return np.linalg.norm(positions - places, axis=1), np.linalg.norm(places - space.position, axis=1), len(truth)


def camera_of(space: SceneSpace) -> tuple[PinholeCamera, Transform]:
    """The camera of a scene, and where it is in the map."""
    camera = PinholeCamera.calibrated(space.intrinsics.ravel().tolist(), (), '', WIDTH, HEIGHT)
    return camera, Transform(space.rotation, space.position)


def _noisy(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Meters as a float image with noise and holes."""
    noisy = depth * rng.normal(1.0, 0.01, depth.shape).astype(np.float32)
    noisy[rng.random(depth.shape) < 0.1] = np.nan
    return noisy


def _print_times() -> None:
    """One frame of VGA with as many boxes as OBJECTS, of 20 to 200 pixels; one thread."""
    space = _scene(0, (10.0, 30.0)).space(0)
    camera, pose = camera_of(space)
    rng = np.random.default_rng(0)
    sides, corners = rng.uniform(20, 200, (OBJECTS, 2)), rng.uniform(0, 1, (OBJECTS, 2))
    corners *= np.array([WIDTH, HEIGHT]) - sides
    boxes = np.concatenate([corners, corners + sides], axis=1)
    print(f'\n| {WIDTH} × {HEIGHT} | boxes | median, ms | 90 % below, ms |')
    print('|---|---|---|---|')
    for count in (10, OBJECTS):
        for mode in ('depth', 'ground'):
            times = []
            for _ in range(ROUNDS):
                begin = time.perf_counter()
                if mode == 'depth':
                    LOCALIZER.by_depth(boxes[:count], space.depth, camera, pose)
                else:
                    LOCALIZER.on_ground(boxes[:count], camera, pose)
                times.append(1e3 * (time.perf_counter() - begin))
            print(f'| {mode} | {count} | {statistics.median(times):.2f} | {np.percentile(times, 90):.2f} |')


if __name__ == '__main__':
    main()
