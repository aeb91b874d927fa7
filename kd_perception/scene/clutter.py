"""What looks like a vehicle from above and is none: traffic islands, curbs, arrows, hatching, stairs, roof boxes, shadows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kd_perception.scene.layout import Layout, Points, Road, turn
from kd_perception.scene.vehicle_parts import Color, as_color, rounded, scaled

Fill = Callable[[Points, Color], None]
"""Fills an outline, in meters, with a color."""
Vector = NDArray[np.float64]

ROAD_METERS = 14.0
"""Of road, for one piece of clutter at density 1."""
GROUND_SIDE = 22.0
"""One piece at density 1 for a square of ground of so many meters."""
_SIGNAL: tuple[Color, ...] = (
    (50, 45, 190),
    (170, 90, 40),
    (70, 150, 60),
    (40, 170, 225),
    (205, 205, 205),
    (70, 70, 74),
)


class Clutter:
    """Scatters clutter over a layout.

    Args:
        layout: where roads and buildings are.
        density: 1 is a busy place, 0 leaves everything as it is.
        shadow: where the sun throws the shadow of one meter of height, meters.
        fill: paints.
        rng: nothing is drawn from it at density 0.
    """

    def __init__(self, layout: Layout, density: float, shadow: Vector, fill: Fill, rng: np.random.Generator) -> None:
        self._layout = layout
        self._density = density
        self._shadow = shadow
        self._fill = fill
        self._rng = rng

    def on_roads(self) -> None:
        """Islands, curbs, arrows, hatching, colored lanes and shadows on asphalt."""
        if not self._density:
            return
        kinds = (self._island, self._kerb, self._arrow, self._hatching, self._lane_patch, self._shade)
        for road in self._layout.roads:
            for _ in range(self._rng.poisson(self._density * 2 * len(road.center) / ROAD_METERS)):
                place, heading = self._place_on(road)
                kinds[int(self._rng.choice(len(kinds), p=(0.3, 0.15, 0.2, 0.12, 0.11, 0.12)))](place, heading)

    def beside_roads(self) -> None:
        """Stairs, kiosks, banners and benches off the roads."""
        if not self._density:
            return
        kinds = (self._stairs, self._kiosk, self._banner, self._shade)
        half = self._layout.half_size
        for _ in range(self._rng.poisson(self._density * (2 * half / GROUND_SIDE) ** 2)):
            place = self._rng.uniform(-half, half, 2)
            kind = kinds[int(self._rng.choice(len(kinds), p=(0.25, 0.3, 0.25, 0.2)))]
            heading = float(self._rng.choice([0.0, np.pi / 2, self._rng.uniform(0, np.pi)]))
            if not self._near_road(place):
                kind(place, heading)

    def on_roofs(self) -> None:
        """Boxes and skylights of a car's size, awnings along the edges."""
        if not self._density:
            return
        for building in self._layout.buildings:
            low, high = building.outline.min(axis=0), building.outline.max(axis=0)
            for _ in range(self._rng.poisson(1.5 * self._density)):
                place = self._rng.uniform(low + 2.5, np.maximum(high - 2.5, low + 2.6))
                self._roof_box(place, float(self._rng.choice([0.0, np.pi / 2])))
            if self._rng.random() < 0.3 * self._density:
                edge = np.array([self._rng.uniform(*sorted((low[0], high[0]))), self._rng.choice([low[1], high[1]])])
                self._banner(edge, 0.0)

    # Places

    def _place_on(self, road: Road) -> tuple[Vector, float]:
        index = int(self._rng.integers(1, len(road.center) - 1))
        lane_edges = road.median / 2 + 3.3 * np.arange(road.lanes + 1)
        across = float(self._rng.choice([-1, 1]) * (self._rng.choice(lane_edges) + self._rng.normal(0.0, 0.9)))
        across = float(np.clip(across, -road.half_width, road.half_width))
        ahead = road.center[index + 1] - road.center[index - 1]
        return road.center[index] + road.normals[index] * across, float(np.arctan2(ahead[1], ahead[0]))

    def _near_road(self, place: Vector) -> bool:
        return any(
            np.linalg.norm(road.center - place, axis=1).min() < road.half_width + 1.0 for road in self._layout.roads
        )

    def _paint(self, outline: Points, place: Vector, heading: float, color: Color) -> None:
        self._fill(outline @ turn(heading) + place, color)

    def _bar(self, place: Vector, heading: float, x: tuple[float, float], y: tuple[float, float], c: Color) -> None:
        self._paint(np.array([(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])]), place, heading, c)

    def _gray(self, low: float, high: float) -> Color:
        return as_color(self._rng.uniform(low, high) + self._rng.normal(0, 4, 3))

    def _white(self) -> Color:
        return self._gray(175, 235)

    # On roads

    def _island(self, place: Vector, heading: float) -> None:
        """A light curb around paving, grass or paint, of a car's length or a bus's."""
        length, width = (
            self._rng.choice([self._rng.uniform(2.5, 7.0), self._rng.uniform(7.0, 18.0)]),
            self._rng.uniform(1.0, 3.2),
        )
        front = min(self._rng.uniform(0.15, 0.49) * width, 0.49 * width)
        taper = self._rng.uniform(0.4, 1.0)
        edge = self._rng.uniform(0.15, 0.45)
        outer = rounded(-length / 2, length / 2, width, front * taper, front, taper)
        inner_width = max(width - 2 * edge, 0.3)
        corner = min(front, 0.45 * inner_width)
        inner = rounded(-length / 2 + edge, length / 2 - edge, inner_width, corner * taper, corner, taper)
        filling = [
            self._gray(95, 200),
            as_color(np.array((60.0, 112.0, 95.0)) * self._rng.uniform(0.7, 1.3)),
            self._gray(70, 110),
        ]
        self._paint(outer, place, heading, self._gray(140, 235))
        self._paint(inner, place, heading, filling[int(self._rng.integers(3))])
        if self._rng.random() < 0.35:
            tone = self._gray(120, 235)
            for x in np.arange(-length / 2 + 1.0, length / 2 - 1.0, self._rng.uniform(0.8, 3.0)):
                self._bar(place, heading, (x, x + 0.35), (-inner_width * 0.4 * taper, inner_width * 0.4 * taper), tone)

    def _kerb(self, place: Vector, heading: float) -> None:
        length, width = self._rng.uniform(3.0, 22.0), self._rng.uniform(0.15, 0.5)
        self._bar(place, heading, (-length / 2, length / 2), (-width / 2, width / 2), self._gray(140, 225))
        self._bar(place, heading, (-length / 2, length / 2), (width / 2, width / 2 + 0.2), self._gray(50, 80))

    def _arrow(self, place: Vector, heading: float) -> None:
        heading += float(self._rng.choice([0.0, np.pi]))
        length, white = self._rng.uniform(2.5, 5.5), self._white()
        self._bar(place, heading, (-length / 2, length / 2 - 1.0), (-0.1, 0.1), white)
        head = np.array([(length / 2 - 1.2, -0.45), (length / 2, 0.0), (length / 2 - 1.2, 0.45)])
        self._paint(head, place, heading, white)
        if self._rng.random() < 0.4:
            self._bar(place, heading, (-0.3, 0.0), (-1.0, 0.0), white)

    def _hatching(self, place: Vector, heading: float) -> None:
        length, width, white = self._rng.uniform(4.0, 14.0), self._rng.uniform(1.5, 3.5), self._white()
        slant, step = self._rng.uniform(0.4, 1.2), self._rng.uniform(0.9, 1.8)
        tapers = self._rng.random() < 0.6
        for x in np.arange(-length / 2, length / 2, step):
            share = (x + length / 2) / length if tapers else 1.0
            half = width / 2 * max(share, 0.1)
            bar = np.array([(x, -half), (x + 0.4, -half), (x + 0.4 + slant, half), (x + slant, half)])
            self._paint(bar, place, heading, white)

    def _lane_patch(self, place: Vector, heading: float) -> None:
        """Asphalt of another color, as bus lanes and mended ground have it."""
        length, width = self._rng.uniform(3.5, 16.0), self._rng.uniform(1.6, 3.2)
        base = np.array(_SIGNAL[int(self._rng.integers(len(_SIGNAL)))], np.float64)
        color = as_color(base * 0.45 + self._rng.uniform(40, 85))
        self._bar(place, heading, (-length / 2, length / 2), (-width / 2, width / 2), color)

    def _shade(self, place: Vector, heading: float) -> None:
        """The shadow of something out of sight: a sign, a lamp, a balloon."""
        tone = self._gray(38, 62)
        length, width = self._rng.uniform(1.5, 6.0), self._rng.uniform(0.8, 2.4)
        corner = self._rng.uniform(0.1, 0.45) * width
        self._paint(rounded(-length / 2, length / 2, width, corner, corner), place, heading, tone)
        if self._rng.random() < 0.7:
            self._bar(place, heading, (length / 2 - 0.1, length / 2 + self._rng.uniform(2, 9)), (-0.1, 0.1), tone)

    # Off roads

    def _stairs(self, place: Vector, heading: float) -> None:
        """Steps down to an underpass between two walls."""
        length, width, light = self._rng.uniform(4.0, 11.0), self._rng.uniform(2.2, 5.0), self._gray(130, 215)
        self._bar(place, heading, (-length / 2, length / 2), (-width / 2, width / 2), light)
        self._bar(
            place, heading, (-length / 2 + 0.3, length / 2), (-width / 2 + 0.3, width / 2 - 0.3), self._gray(50, 90)
        )
        step = self._gray(100, 170)
        for x in np.arange(-length / 2 + 0.6, length / 2 - 0.4, self._rng.uniform(0.5, 0.9)):
            self._bar(place, heading, (x, x + 0.25), (-width / 2 + 0.35, width / 2 - 0.35), step)

    def _kiosk(self, place: Vector, heading: float) -> None:
        """A flat box with its shadow: a kiosk, a bus shelter, a rubbish container."""
        length, width, height = self._rng.uniform(1.5, 7.0), self._rng.uniform(1.1, 3.0), self._rng.uniform(1.0, 3.0)
        color = scaled(_SIGNAL[int(self._rng.integers(len(_SIGNAL)))], float(self._rng.uniform(0.6, 1.2)))
        if self._rng.random() < 0.5:
            color = self._gray(70, 230)
        self._box(place, heading, length, width, height, color)
        if self._rng.random() < 0.5:
            self._bar(place, heading, (-length / 2, length / 2), (-0.12, 0.12), scaled(color, 0.75))

    def _banner(self, place: Vector, heading: float) -> None:
        length, width = self._rng.uniform(2.0, 9.0), self._rng.uniform(0.5, 1.8)
        color = scaled(_SIGNAL[int(self._rng.integers(len(_SIGNAL)))], float(self._rng.uniform(0.7, 1.25)))
        self._box(place, heading, length, width, 1.0, color)
        light = self._white()
        for x in np.arange(-length * 0.4, length * 0.35, 0.8):
            if self._rng.random() < 0.6:
                self._bar(place, heading, (x, x + 0.45), (-width * 0.22, width * 0.22), light)

    def _roof_box(self, place: Vector, heading: float) -> None:
        length, width = self._rng.uniform(1.5, 6.0), self._rng.uniform(0.9, 2.6)
        color = self._gray(60, 235)
        self._box(place, heading, length, width, self._rng.uniform(0.4, 1.6), color)
        if self._rng.random() < 0.5:
            self._bar(place, heading, (-length * 0.35, length * 0.35), (-width * 0.3, width * 0.3), self._gray(40, 200))

    def _box(self, place: Vector, heading: float, length: float, width: float, height: float, color: Color) -> None:
        for at, tone in ((place + self._shadow * height, (48, 50, 52)), (place, color)):
            self._bar(at, heading, (-length / 2, length / 2), (-width / 2, width / 2), tone)
