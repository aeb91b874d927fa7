"""Scenes: the same bytes every time, plausible variety, and boxes that hold exactly the painted vehicles."""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kd_perception.scene import CLASS_NAMES, LAYOUTS, Scene, SceneSettings, draw_settings

WithVehicles = Callable[[Scene, list[int]], Scene]

# Without blur, noise and shadows, a frame with vehicles differs from one without only where a vehicle is painted.
CLEAN = SceneSettings(ground_sample_distance=0.14, blur=0.0, noise=0.0, shadow_depth=0.0, parked=0.7, traffic=0.5)


def change(scene: Scene, bare: Scene, k: int) -> np.ndarray:
    """How much vehicles changed each pixel of a frame."""
    return np.abs(scene.frame(k).image.astype(int) - bare.frame(k).image).max(axis=2)


def vehicle_count(scene: Scene) -> int:
    return len(scene._traffic.vehicles)


@pytest.mark.parametrize('seed', [0, 5])
def test_a_frame_is_a_pure_function_of_seed_and_number(seed: int) -> None:
    first, second = Scene(seed, 320, 240), Scene(seed, 320, 240)
    forward = [first.frame(k) for k in (0, 7, 400)]
    backward = [second.frame(k) for k in (400, 7, 0)][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert a.image.tobytes() == b.image.tobytes()
        assert a.truth == b.truth
        assert a.stamp == b.stamp


def test_seeds_differ() -> None:
    assert not np.array_equal(Scene(1, 160, 120).frame(0).image, Scene(2, 160, 120).frame(0).image)


def test_traffic_moves_and_the_drone_drifts() -> None:
    scene = Scene(3, 320, 240)
    assert not np.array_equal(scene.frame(0).image, scene.frame(15).image)


@pytest.mark.parametrize(('width', 'height'), [(640, 480), (161, 97), (97, 161), (33, 21)])
@pytest.mark.parametrize('seed', [1, 2, 9])
def test_frames_have_the_size_asked_for_and_boxes_lie_inside(seed: int, width: int, height: int) -> None:
    frame = Scene(seed, width, height).frame(12)
    assert frame.image.shape == (height, width, 3)
    assert frame.image.dtype == np.uint8
    boxes = frame.truth.boxes
    assert (boxes >= 0).all()
    assert (boxes <= [width, height, width, height]).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 3).all()
    assert (frame.truth.scores == 1).all()


@pytest.mark.parametrize(
    ('seed', 'layout', 'tilt', 'heading'),
    [
        (1, 'street', 0.0, 0.0),
        (2, 'crossing', 0.0, 33.0),
        (3, 'parking', 15.0, 10.0),
        (4, 'roundabout', 25.0, 70.0),
    ],
)
def test_a_box_holds_exactly_the_painted_vehicle(
    seed: int, layout: str, tilt: float, heading: float, with_vehicles: WithVehicles
) -> None:
    settings = replace(CLEAN, layout=layout, tilt=tilt, heading=heading)
    scene = Scene(seed, 400, 300, settings=settings)
    bare = with_vehicles(scene, [])
    checked = 0
    for index in range(0, vehicle_count(scene), 2):
        alone = with_vehicles(scene, [index])
        truth = alone.frame(45).truth
        if len(truth) == 1:
            rows, columns = np.nonzero(change(alone, bare, 45) > 6)
            bounds = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(truth.boxes[0] - bounds).max() <= 2.0, f'vehicle {index}: painted {bounds}, box {truth.boxes}'
            checked += 1
    assert checked >= 4


def test_every_class_appears() -> None:
    seen: set[int] = set()
    for seed in range(12):
        scene = Scene(seed, 320, 240)
        seen |= {class_id for k in (0, 200) for class_id in scene.frame(k).truth.class_ids.tolist()}
        if len(seen) == len(CLASS_NAMES):
            break
    assert seen == set(range(len(CLASS_NAMES)))


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_has_traffic(layout: str) -> None:
    scene = Scene(11, 640, 480, settings=SceneSettings(layout=layout))
    assert sum(len(scene.frame(k).truth) for k in (0, 100, 300)) >= 6


def test_a_vehicle_loses_its_box_when_crowns_hide_most_of_it(with_vehicles: WithVehicles) -> None:
    shaded = Scene(5, 400, 300, settings=replace(CLEAN, layout='street', greenness=1.0, parked=1.0))
    felled = copy.copy(shaded)
    felled._ground = np.dstack([shaded._ground[..., :3], np.minimum(shaded._ground[..., 3], 127)])
    bare_shaded, bare_felled = with_vehicles(shaded, []), with_vehicles(felled, [])
    kept, dropped = [], []
    for index in range(vehicle_count(shaded)):
        boxes = with_vehicles(felled, [index]).frame(0).truth.boxes
        if len(boxes) == 1 and boxes.min() > 2 and boxes[0, 2] < 398 and boxes[0, 3] < 298:
            alone = with_vehicles(shaded, [index])
            whole = change(with_vehicles(felled, [index]), bare_felled, 0).sum()
            share = change(alone, bare_shaded, 0).sum() / whole
            shown = alone.frame(0)
            (kept if len(shown.truth) else dropped).append(share)
            assert len(shown.truth) + len(shown.ignored) == (share > 0)
            if len(shown.ignored):
                assert np.abs(shown.ignored - boxes).max() <= 1.0, 'whoever sees a hidden vehicle may see it whole'
    assert kept
    assert dropped
    assert min(kept) > 0.3
    assert max(dropped) < 0.65


def test_a_vehicle_that_leaves_the_image_is_an_object_then_ignored_then_gone(with_vehicles: WithVehicles) -> None:
    scene = Scene(1, 200, 150, settings=replace(CLEAN, layout='street'))
    for index in range(0, vehicle_count(scene), 3):
        alone, states = with_vehicles(scene, [index]), ['gone']
        for k in range(0, 240, 4):
            shown = alone.frame(k)
            assert len(shown.truth) + len(shown.ignored) <= 1
            assert (shown.ignored >= 0).all()
            assert (shown.ignored <= [200, 150, 200, 150]).all()
            state = 'object' if len(shown.truth) else 'ignored' if len(shown.ignored) else 'gone'
            states += [state] if state != states[-1] else []
        if states[-3:] == ['object', 'ignored', 'gone']:
            return
    pytest.fail('no vehicle left the image')


def test_drawn_settings_span_small_and_large_vehicles() -> None:
    lengths = [4.5 / draw_settings(seed).ground_sample_distance for seed in range(60)]
    assert min(lengths) < 18
    assert max(lengths) > 55
    assert {draw_settings(seed).layout for seed in range(60)} == set(LAYOUTS)


@pytest.mark.parametrize(
    ('wrong', 'word'),
    [
        ({'layout': 'beach'}, 'layout'),
        ({'ground_sample_distance': 0.0}, 'ground_sample_distance'),
        ({'tilt': 60.0}, 'tilt'),
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        SceneSettings(**wrong)


@pytest.mark.parametrize(('width', 'height', 'fps'), [(0, 480, 30.0), (640, -1, 30.0), (640, 480, 0.0)])
def test_sizes_and_rates_must_be_positive(width: int, height: int, fps: float) -> None:
    with pytest.raises(ValueError, match='positive'):
        Scene(0, width, height, fps)
