"""Vehicles as a drone sees them, one builder a class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kd_perception.scene.vehicle_parts import (
    GLASS,
    TYRE,
    Brush,
    Color,
    Points,
    Slab,
    Vehicle,
    as_color,
    glass_color,
    pick_paint,
    rounded,
    scaled,
)

# Share of each paint on the road (BGR): most traffic is white, black, gray or silver.
CAR_PAINTS: tuple[tuple[float, Color], ...] = (
    (0.27, (232, 234, 234)),
    (0.20, (38, 34, 33)),
    (0.14, (98, 92, 88)),
    (0.14, (178, 174, 170)),
    (0.07, (84, 48, 34)),
    (0.04, (150, 88, 40)),
    (0.05, (44, 38, 168)),
    (0.03, (52, 30, 108)),
    (0.02, (62, 78, 42)),
    (0.02, (132, 168, 186)),
    (0.02, (40, 188, 224)),
)
VAN_PAINTS: tuple[tuple[float, Color], ...] = (
    (0.66, (236, 237, 236)),
    (0.12, (160, 156, 152)),
    (0.08, (70, 62, 58)),
    (0.05, (150, 80, 36)),
    (0.05, (46, 42, 176)),
    (0.04, (60, 180, 220)),
)
BUS_PAINTS: tuple[tuple[float, Color], ...] = (
    (0.34, (232, 234, 232)),
    (0.20, (64, 200, 112)),
    (0.14, (58, 196, 232)),
    (0.12, (52, 48, 186)),
    (0.12, (168, 96, 46)),
    (0.08, (196, 222, 198)),
)
CARGO_PAINTS: tuple[tuple[float, Color], ...] = (
    (0.48, (226, 228, 228)),
    (0.20, (150, 150, 146)),
    (0.12, (136, 84, 40)),
    (0.10, (70, 112, 70)),
    (0.10, (90, 110, 132)),
)
SHIRTS: tuple[Color, ...] = (
    (60, 50, 190),
    (190, 110, 40),
    (50, 190, 220),
    (235, 235, 235),
    (40, 36, 34),
    (70, 170, 70),
)


def make_vehicle(kind: str, rng: np.random.Generator, scale: float) -> Vehicle:
    """Paints one vehicle of a class.

    Args:
        kind: a name of CLASS_NAMES.
        rng: decides size, paint and details.
        scale: pixels per meter of the painted tops.
    """
    return _BUILDERS[kind](rng, scale)


@dataclass(frozen=True)
class _CarShape:
    """A kind of car.

    Attributes:
        share: of the cars.
        length, width, height: meters; a car is drawn about them.
        trunk: share of the length behind the cabin.
        rear_window: share of the length over which it slopes.
        has_lid: the trunk has one of its own.
        may_have_rails: on the roof.
    """

    share: float
    length: float
    width: float
    height: float
    trunk: float
    rear_window: float
    has_lid: bool = False
    may_have_rails: bool = False


CAR_SHAPES = (
    _CarShape(0.34, 4.65, 1.80, 1.45, 0.14, 0.13, has_lid=True),  # sedan
    _CarShape(0.28, 4.05, 1.74, 1.48, 0.02, 0.10),  # hatchback
    _CarShape(0.16, 4.70, 1.80, 1.48, 0.02, 0.06, may_have_rails=True),  # estate
    _CarShape(0.22, 4.60, 1.88, 1.68, 0.02, 0.06, may_have_rails=True),  # SUV
)


@dataclass(frozen=True)
class _CarPlan:
    """Where the parts of a car lie along its length, in meters from its middle, nose to tail, and how wide it is."""

    nose: float
    screen: float
    roof_front: float
    roof_rear: float
    cabin_rear: float
    tail: float
    width: float


def _car(rng: np.random.Generator, scale: float) -> Vehicle:
    shape = CAR_SHAPES[int(rng.choice(len(CAR_SHAPES), p=[shape.share for shape in CAR_SHAPES]))]
    length, width = shape.length * rng.uniform(0.95, 1.05), shape.width * rng.uniform(0.97, 1.03)
    paint, front_glass, other_glass = (
        pick_paint(CAR_PAINTS, rng),
        glass_color(rng),
        as_color(np.array(GLASS) * rng.uniform(0.7, 1.5)),
    )
    plan = _plan_car(shape, length, width, rng)
    body = rounded(plan.tail, plan.nose, width, 0.42, 0.30, 0.97)
    belt = rounded(plan.cabin_rear, plan.screen, width * 0.90, 0.30, 0.25, 0.97)
    roof = rounded(plan.roof_rear, plan.roof_front, width * 0.72, 0.16, 0.16, 0.97)

    lower = Brush(body, paint, scale)
    _paint_body(lower, plan, paint, has_lid=shape.has_lid)
    lower.fill(belt, other_glass)
    lower.fill(rounded(plan.roof_front - 0.3, plan.screen, width * 0.86, 0.24, 0.05, 0.96), front_glass)
    _paint_pillars(lower, plan, scaled(paint, 0.82), scaled(paint, 0.7))
    upper = Brush(roof, paint, scale)
    _paint_roof(upper, plan, rng, may_have_rails=shape.may_have_rails)

    belt_height = shape.height * 0.62
    slabs = (
        Slab(body, body, 0.15, belt_height, scaled(paint, 0.55), lower.finish()),
        Slab(belt, roof, belt_height, shape.height, scaled(other_glass, 0.9), upper.finish()),
    )
    return Vehicle(0, length, width, shape.height, slabs)


def _plan_car(shape: _CarShape, length: float, width: float, rng: np.random.Generator) -> _CarPlan:
    nose, tail = length / 2, -length / 2
    screen = nose - length * rng.uniform(0.255, 0.30)
    roof_front = screen - length * rng.uniform(0.13, 0.16)
    cabin_rear = tail + length * shape.trunk + 0.06
    return _CarPlan(nose, screen, roof_front, cabin_rear + length * shape.rear_window, cabin_rear, tail, width)


def _paint_body(body: Brush, plan: _CarPlan, paint: Color, *, has_lid: bool) -> None:
    """Lamps, the bonnet's edges, bumpers and the lid of the trunk."""
    nose, tail, width = plan.nose, plan.tail, plan.width
    body.shade_edges(0.5, 0.38)
    body.glow(nose - 0.7, 0.0, 0.5, 0.45, 26)
    for side in (-1, 1):
        body.rectangle(nose - 0.36, nose - 0.12, side * width * 0.30, side * width * 0.45, (175, 178, 175))
        body.rectangle(tail + 0.06, tail + 0.24, side * width * 0.30, side * width * 0.46, (40, 34, 120))
        edge = (plan.screen + 0.05, side * width * 0.34), (nose - 0.25, side * width * 0.26)
        body.line(*edge, 0.05, scaled(paint, 0.72))
    body.rectangle(nose - 0.10, nose, -width * 0.4, width * 0.4, scaled(paint, 0.45))
    body.rectangle(tail, tail + 0.07, -width * 0.42, width * 0.42, scaled(paint, 0.6))
    if has_lid:
        lid = plan.cabin_rear - 0.06
        body.line((lid, -width * 0.4), (lid, width * 0.4), 0.05, scaled(paint, 0.7))


def _paint_pillars(body: Brush, plan: _CarPlan, outer: Color, middle: Color) -> None:
    """Between the windows: at the windscreen, at the rear and in the middle."""
    width, center = plan.width, (plan.roof_front + plan.roof_rear) / 2
    for side in (-1, 1):
        for low, high in ((plan.screen - 0.12, plan.roof_front), (plan.cabin_rear + 0.12, plan.roof_rear)):
            body.line((low, side * width * 0.42), (high, side * width * 0.35), 0.10, outer)
        body.line((center, side * width * 0.45), (center, side * width * 0.35), 0.08, middle)


def _paint_roof(roof: Brush, plan: _CarPlan, rng: np.random.Generator, *, may_have_rails: bool) -> None:
    """Some have a window, some rails."""
    front, rear, width = plan.roof_front, plan.roof_rear, plan.width
    roof.shade_edges(0.3, 0.16)
    roof.glow((front + rear) / 2, rng.uniform(-0.3, 0.3), 0.8, 0.5, rng.uniform(10, 40))
    if rng.random() < 0.22:
        roof.rectangle(front - 0.95, front - 0.25, -width * 0.24, width * 0.24, scaled(GLASS, 0.8))
    if may_have_rails and rng.random() < 0.6:
        for side in (-1, 1):
            roof.line((rear + 0.1, side * width * 0.31), (front - 0.1, side * width * 0.31), 0.07, (60, 60, 60))


def _minibus(rng: np.random.Generator, scale: float) -> Vehicle:
    length, width, height = rng.uniform(5.2, 6.9), rng.uniform(1.95, 2.1), rng.uniform(2.2, 2.7)
    paint, glass = pick_paint(VAN_PAINTS, rng), glass_color(rng)
    nose, tail = length / 2, -length / 2
    body = rounded(tail, nose, width, 0.45, 0.12, 0.94)
    screen = nose - rng.uniform(0.55, 0.8)
    box = rounded(tail, screen, width * 0.97, 0.3, 0.12, 0.95)
    roof = rounded(tail + 0.06, screen - rng.uniform(0.55, 0.8), width * 0.88, 0.14, 0.12, 0.97)

    bonnet = Brush(body, paint, scale)
    bonnet.shade_edges(0.4, 0.3)
    for side in (-1, 1):
        bonnet.rectangle(nose - 0.34, nose - 0.1, side * width * 0.29, side * width * 0.44, (180, 183, 180))
    bonnet.rectangle(nose - 0.1, nose, -width * 0.4, width * 0.4, scaled(paint, 0.45))
    bonnet.fill(box, glass)

    top = Brush(roof, paint, scale)
    top.shade_edges(0.3, 0.2)
    top.glow(0.0, rng.uniform(-0.4, 0.4), length * 0.3, 0.5, rng.uniform(6, 24))
    if rng.random() < 0.6:
        for x in np.arange(tail + 0.8, screen - 1.2, 0.75):
            top.line((x, -width * 0.38), (x, width * 0.38), 0.04, scaled(paint, 0.86))
    if rng.random() < 0.55:
        x = rng.uniform(-length * 0.2, length * 0.15)
        top.rectangle(x - 0.4, x + 0.4, -0.35, 0.35, (58, 58, 58))
    slabs = (
        Slab(body, body, 0.2, 1.1, scaled(paint, 0.6), bonnet.finish()),
        Slab(box, roof, 1.1, height * 0.85, scaled(paint, 0.42)),
        Slab(roof, roof, height * 0.85, height, scaled(paint, 0.66), top.finish()),
    )
    return Vehicle(3, length, width, height, slabs)


def _bus(rng: np.random.Generator, scale: float) -> Vehicle:
    length = float(rng.choice([rng.uniform(10.5, 12.5), rng.uniform(16.5, 18.5)], p=[0.72, 0.28]))
    width, height = 2.55, rng.uniform(2.95, 3.3)
    paint, roof_paint = pick_paint(BUS_PAINTS, rng), (228, 230, 230)
    if rng.random() < 0.6:
        roof_paint = scaled(paint, 1.05)
    nose, tail = length / 2, -length / 2
    body = rounded(tail, nose, width, 0.25, 0.18, 0.98)
    roof = rounded(tail + 0.05, nose - 0.08, width * 0.96, 0.25, 0.18, 0.98)

    top = Brush(roof, roof_paint, scale)
    top.shade_edges(0.35, 0.22)
    top.glow(0.0, rng.uniform(-0.5, 0.5), length * 0.4, 0.5, rng.uniform(6, 22))
    top.rectangle(nose - 0.35, nose, -width * 0.44, width * 0.44, scaled(GLASS, 1.1))
    if rng.random() < 0.4:
        top.rectangle(tail + length * 0.35, tail + length * 0.6, -width * 0.5, width * 0.5, pick_paint(BUS_PAINTS, rng))
    for x in np.linspace(tail + 1.5, nose - 2.0, int(rng.integers(2, 6))):
        size, gray = rng.uniform(0.35, 0.9), int(rng.integers(70, 215))
        top.rectangle(x - size, x + size, -0.5, 0.5, (gray, gray, gray))
        top.rectangle(x - size * 0.7, x + size * 0.7, -0.3, 0.3, (gray - 25, gray - 25, gray - 25))
    for side in (-1, 1):
        top.line((tail + 0.3, side * width * 0.41), (nose - 0.5, side * width * 0.41), 0.06, scaled(roof_paint, 0.78))
    if length > 15:
        for x in np.linspace(-0.7, 0.7, 6):
            top.line((x, -width * 0.5), (x, width * 0.5), 0.14, (64, 64, 64))
    slabs = (
        Slab(body, body, 0.25, 1.2, scaled(paint, 0.6)),
        Slab(body, body, 1.2, height * 0.8, scaled(GLASS, 0.9)),
        Slab(body, roof, height * 0.8, height, scaled(paint, 0.7), top.finish()),
    )
    return Vehicle(2, length, width, height, slabs)


def _truck(rng: np.random.Generator, scale: float) -> Vehicle:
    length = float(
        rng.choice([rng.uniform(6.2, 8.5), rng.uniform(8.5, 11.5), rng.uniform(14.0, 16.5)], p=[0.5, 0.3, 0.2])
    )
    width, cab_length = rng.uniform(2.2, 2.55), rng.uniform(1.7, 2.2)
    paint, cargo = pick_paint(VAN_PAINTS, rng), pick_paint(CARGO_PAINTS, rng)
    cab_height = rng.uniform(2.3, 3.1)
    nose, tail = length / 2, -length / 2
    cab_rear = nose - cab_length
    cab = rounded(cab_rear, nose, width * 0.95, 0.22, 0.08, 0.96)
    roof = rounded(cab_rear + 0.1, nose - 0.5, width * 0.86, 0.2, 0.08, 0.95)
    bed = rounded(tail, cab_rear - rng.uniform(0.15, 0.7), width, 0.03, 0.03)
    frame = rounded(tail + 0.3, cab_rear + 0.2, width * 0.4, 0.02, 0.02)

    top = Brush(roof, paint, scale)
    top.shade_edges(0.3, 0.25)
    top.glow(nose - 1.3, 0.0, 0.5, 0.6, rng.uniform(4, 22))
    if rng.random() < 0.5:
        top.rectangle(cab_rear + 0.2, cab_rear + 0.7, -width * 0.3, width * 0.3, scaled(paint, 0.8))

    closed = rng.random() < 0.75
    load = Brush(bed, cargo, scale)
    load.shade_edges(0.25, 0.15)
    if closed:
        load.glow(-1.0, rng.uniform(-0.5, 0.5), length * 0.4, 0.8, rng.uniform(0, 18))
        for x in np.arange(tail + 0.6, cab_rear - 0.5, rng.uniform(0.6, 1.4)):
            load.line((x, -width * 0.5), (x, width * 0.5), 0.04, scaled(cargo, 0.87))
    else:
        inner = rounded(tail + 0.15, float(bed[:, 0].max()) - 0.15, width - 0.3, 0.02, 0.02)
        _paint_gravel(load, inner, (tail + 0.6, cab_rear - 1.2), rng)
    bed_height = rng.uniform(2.9, 3.8) if closed else rng.uniform(1.5, 2.1)
    slabs = (
        Slab(frame, frame, 0.4, 0.9, TYRE),
        Slab(cab, cab, 0.3, cab_height * 0.55, scaled(paint, 0.6)),
        Slab(cab, roof, cab_height * 0.55, cab_height, scaled(GLASS, 1.1), top.finish()),
        Slab(bed, bed, 0.7, bed_height, scaled(cargo, 0.6), load.finish()),
    )
    return Vehicle(1, length, width, max(cab_height, bed_height), slabs)


def _paint_gravel(load: Brush, inner: Points, heaps: tuple[float, float], rng: np.random.Generator) -> None:
    """What an open truck carries, in heaps between two places along its length."""
    load.fill(inner, as_color(np.array((70.0, 84.0, 98.0)) * rng.uniform(0.6, 1.7)))
    for _ in range(4):
        x, y = rng.uniform(*heaps), rng.uniform(-0.6, 0.6)
        load.glow(x, y, rng.uniform(0.3, 0.9), 0.4, rng.uniform(-30, 45))


def _cyclist(rng: np.random.Generator, scale: float) -> Vehicle:
    length, width = 1.8, 0.62
    shirt = SHIRTS[int(rng.integers(len(SHIRTS)))]
    wheel = rounded(-0.88, 0.88, 0.10, 0.05, 0.05)
    handlebar = rounded(0.38, 0.50, width, 0.05, 0.05)
    trunk = rounded(-0.34, 0.30, 0.50, 0.2, 0.22)
    head = rounded(0.06, 0.34, 0.26, 0.12, 0.12)
    torso = Brush(trunk, shirt, scale)
    torso.shade_edges(0.25, 0.4)
    helmet = Brush(head, SHIRTS[int(rng.integers(len(SHIRTS)))] if rng.random() < 0.5 else (38, 52, 70), scale)
    helmet.shade_edges(0.15, 0.3)
    slabs = (
        Slab(wheel, wheel, 0.0, 0.65, TYRE),
        Slab(handlebar, handlebar, 0.95, 1.0, TYRE),
        Slab(trunk, trunk, 0.9, 1.45, scaled(shirt, 0.6), torso.finish()),
        Slab(head, head, 1.45, 1.7, (60, 70, 90), helmet.finish()),
    )
    return Vehicle(4, length, width, 1.7, slabs)


_BUILDERS: dict[str, Callable[[np.random.Generator, float], Vehicle]] = {
    'car': _car,
    'truck': _truck,
    'bus': _bus,
    'minibus': _minibus,
    'cyclist': _cyclist,
}
