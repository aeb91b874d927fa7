"""Draws the plan of a place: where roads run, what lies between them, where trees and vehicles stand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from kd_perception.scene.layout import (
    LANE,
    STALL,
    Block,
    Building,
    Layout,
    Points,
    Road,
    Spot,
    Track,
    Tree,
    along,
    path_length,
)
from kd_perception.scene.settings import SceneSettings
from kd_perception.scene.vehicle_parts import CLASS_NAMES

_LENGTHS = {'car': 4.8, 'truck': 16.6, 'bus': 18.6, 'minibus': 7.0, 'cyclist': 1.9}


def plan(settings: SceneSettings, half_size: float, rng: np.random.Generator) -> Layout:
    """Plans a world of the settings' layout; the same generator state gives the same plan."""
    return _Planner(settings, half_size, rng).run()


class _Planner:
    def __init__(self, settings: SceneSettings, half_size: float, rng: np.random.Generator) -> None:
        self._settings = settings
        self._rng = rng
        self._reach = half_size + 25.0
        self._layout = Layout(half_size)
        self._moving_mix = np.array(settings.mix) / sum(settings.mix)

    def run(self) -> Layout:
        getattr(self, f'_plan_{self._settings.layout}')()
        for block in self._layout.blocks:
            self._furnish(block)
        return self._layout

    # Layouts

    def _plan_street(self) -> None:
        wave = float(self._rng.choice([0.0, self._rng.uniform(2.0, 9.0)]))
        self._long_roads(wave, self._rng.uniform(65.0, 130.0))

    def _plan_parking(self) -> None:
        self._long_roads(0.0, self._rng.uniform(75.0, 110.0), use='lot')

    def _plan_crossing(self) -> None:
        spacing = self._rng.uniform(85.0, 150.0)
        across = [self._road(x, vertical=True) for x in self._offsets(spacing)]
        along = [self._road(y, vertical=False) for y in self._offsets(spacing * self._rng.uniform(0.7, 1.1))]
        self._join(along, across)

    def _plan_roundabout(self) -> None:
        self._layout.circle = radius = self._rng.uniform(15.0, 19.0)
        along = [self._road(0.0, vertical=False, lanes=1, median=0.0)]
        across = [self._road(0.0, vertical=True, lanes=1, median=0.0)]
        self._join(along, across, gap=radius + 5.0)
        self._circle_traffic(radius)

    def _long_roads(self, wave: float, spacing: float, use: str | None = None) -> None:
        offsets = self._offsets(spacing)
        roads = [self._road(y, vertical=False, wave=wave) for y in offsets]
        for road in roads:
            self._drive(road)
            self._park_beside(road)
            self._line_with_trees(road)
        edges = [-self._reach, *offsets, self._reach]
        margins = [0.0, *(road.half_width + road.sidewalk + wave for road in roads), 0.0]
        for y0, y1, m0, m1 in zip(edges, edges[1:], margins, margins[1:], strict=False):
            self._split_block(-self._reach, y0 + m0, self._reach, y1 - m1, use)
        self._layout.roads.extend(roads)

    def _join(self, along: list[Road], across: list[Road], gap: float | None = None) -> None:
        """Lays a grid: traffic flows along, waits across."""
        xs, ys = [float(r.center[0, 0]) for r in across], [float(r.center[0, 1]) for r in along]
        along = [self._interrupted(r, [x + self._reach for x in xs], across, gap) for r in along]
        across = [self._interrupted(r, [self._reach - y for y in ys], along, gap) for r in across]
        for road in along + across:
            self._park_beside(road)
            self._line_with_trees(road)
        if gap is None:
            for road in along:
                self._drive(road)
        for road in across:
            self._wait(road)
        for i, (x0, x1) in enumerate(zip([-self._reach, *xs], [*xs, self._reach], strict=True)):
            for j, (y0, y1) in enumerate(zip([-self._reach, *ys], [*ys, self._reach], strict=True)):
                left = _margin(across, i - 1)
                right = _margin(across, i)
                top, bottom = _margin(along, j - 1), _margin(along, j)
                self._split_block(x0 + left, y0 + top, x1 - right, y1 - bottom, None)
        self._layout.roads.extend(along + across)

    # Roads

    def _offsets(self, spacing: float) -> list[float]:
        count = int((self._layout.half_size - 10.0) // spacing)
        return [k * spacing + self._rng.uniform(-8.0, 8.0) for k in range(-count, count + 1)]

    def _road(
        self, offset: float, vertical: bool, wave: float = 0.0, lanes: int | None = None, median: float | None = None
    ) -> Road:
        s = np.arange(-self._reach, self._reach + 2.0, 2.0)
        sway = wave * np.sin(s / max(30.0, wave * 9.0) + self._rng.uniform(0, 6.3))
        center = np.stack([s, offset + sway], axis=1)
        if vertical:
            center = np.stack([np.full_like(s, offset), -s], axis=1)
        step = np.gradient(center, axis=0)
        step /= np.linalg.norm(step, axis=1, keepdims=True)
        if lanes is None:
            lanes = int(self._rng.choice([1, 2, 3], p=(0.45, 0.4, 0.15)))
        if median is None:
            median = float(self._rng.choice([0.0, 2.5, 5.0], p=(0.6, 0.2, 0.2))) if lanes > 1 else 0.0
        return Road(
            center=center,
            normals=np.stack([-step[:, 1], step[:, 0]], axis=1),
            lanes=lanes,
            median=median,
            parking=float(self._rng.choice([0.0, 2.3])),
            sidewalk=float(self._rng.uniform(1.5, 4.5)),
        )

    def _interrupted(self, road: Road, middles: list[float], others: list[Road], gap: float | None) -> Road:
        gaps = tuple(
            (m - reach, m + reach)
            for m, other in zip(middles, others, strict=True)
            for reach in [gap if gap is not None else other.half_width + 5.0]
        )
        return Road(road.center, road.normals, road.lanes, road.median, road.parking, road.sidewalk, gaps)

    # Traffic

    def _drive(self, road: Road) -> None:
        """Fills every lane with moving vehicles, and a cycle track along each curb."""
        for direction in (1, -1):
            speed = self._rng.uniform(6.0, 14.0)
            for lane in range(road.lanes):
                path = road.line(direction * road.lane_offset(lane))[::direction]
                self._layout.tracks.append(Track(path, speed * self._rng.uniform(0.9, 1.2), self._riders(path)))
            path = road.line(direction * (road.half_width + min(0.8, road.sidewalk / 2)))[::direction]
            self._layout.tracks.append(Track(path, self._rng.uniform(3.5, 6.0), self._cyclists(path)))

    def _riders(self, path: Points) -> tuple[tuple[str, float], ...]:
        riders: list[tuple[str, float]] = []
        length, at = path_length(path), self._rng.uniform(0.0, 20.0)
        mean_gap = 4.0 + 30.0 * (1.0 - self._settings.traffic) ** 2
        while True:
            kind = self._kind()
            at += _LENGTHS[kind] / 2
            if at + _LENGTHS[kind] / 2 + 2.0 > length:
                return tuple(riders)
            riders.append((kind, at))
            at += _LENGTHS[kind] / 2 + 2.5 + self._rng.exponential(mean_gap)

    def _cyclists(self, path: Points) -> tuple[tuple[str, float], ...]:
        share = float(self._moving_mix[4])
        count = self._rng.poisson(path_length(path) * self._settings.traffic * share / 7.0)
        return tuple(('cyclist', float(s)) for s in np.sort(self._rng.uniform(0, path_length(path), count)))

    def _wait(self, road: Road) -> None:
        """Queues before every gap of the road, in both directions."""
        for direction in (1, -1):
            for lane in range(road.lanes):
                path = road.line(direction * road.lane_offset(lane))[::direction]
                total = path_length(path)
                stops = [g[0] if direction > 0 else total - g[1] for g in road.gaps]
                for stop in stops:
                    self._queue(
                        path, stop - self._rng.uniform(0.6, 1.5), max([0.0, *(s + 22 for s in stops if s < stop)])
                    )

    def _queue(self, path: Points, head: float, end: float) -> None:
        for _ in range(self._rng.poisson(6 * self._settings.traffic)):
            kind = self._kind()
            head -= _LENGTHS[kind] / 2
            if head - _LENGTHS[kind] / 2 < end:
                return
            x, y, heading = along(path, np.array([head]))[0]
            self._layout.spots.append(Spot(kind, x, y, heading + self._rng.normal(0, 0.02)))
            head -= _LENGTHS[kind] / 2 + self._rng.uniform(0.8, 3.0)

    def _kind(self) -> str:
        """A vehicle of the carriageway; cyclists keep to their track."""
        shares = self._moving_mix[:4] / self._moving_mix[:4].sum()
        return CLASS_NAMES[int(self._rng.choice(4, p=shares))]

    def _park_beside(self, road: Road) -> None:
        if road.parking == 0.0:
            return
        for direction in (1, -1):
            path = road.line(direction * (road.half_width - road.parking / 2 + 0.05))[::direction]
            total = path_length(path)
            blocked = [g if direction > 0 else (total - g[1], total - g[0]) for g in road.gaps]
            at = 4.0
            while at < total - 4.0:
                kind = str(self._rng.choice(['car', 'minibus', 'truck'], p=(0.9, 0.08, 0.02)))
                step = 5.6 if kind == 'car' else 8.0 if kind == 'minibus' else 17.5
                free = all(not (a - 4 - step / 2 < at < b + 4 + step / 2) for a, b in blocked)
                if free and self._rng.random() < self._settings.parked:
                    x, y, heading = along(path, np.array([at]))[0]
                    self._layout.spots.append(Spot(kind, x, y, heading + self._rng.normal(0, 0.025)))
                at += step if kind == 'car' else step + 1.0

    def _circle_traffic(self, radius: float) -> None:
        """Both through flows go round their own half of the circle; the roads across wait."""
        middle = radius - 4.0
        road_y = LANE / 2
        for turn in (1.0, -1.0):
            enter = np.arcsin(road_y / middle)
            angles = np.linspace(np.pi - enter, enter, 24)
            arc = np.stack([middle * np.cos(angles), middle * np.sin(angles)], axis=1)
            reach = np.arange(middle + 6.0, self._reach, 2.0)
            lead = np.stack([-reach[::-1], np.full_like(reach, road_y)], axis=1)
            path = np.concatenate([lead, arc, lead[::-1] * (-1.0, 1.0)]) * turn
            self._layout.tracks.append(Track(path, self._rng.uniform(5.0, 8.0), self._riders(path)))

    # Land

    def _split_block(self, x0: float, y0: float, x1: float, y1: float, use: str | None) -> None:
        """Cuts land into blocks of at most about 70 m, each with a use."""
        if x1 - x0 < 6.0 or y1 - y0 < 6.0:
            return
        columns, rows = max(1, round((x1 - x0) / 65.0)), max(1, round((y1 - y0) / 65.0))
        green = self._settings.greenness
        shares = np.array((0.15 + 0.5 * green, 0.22, 0.45, 0.25 * (1.2 - green), 0.15 * green + 0.02))
        xs, ys = np.linspace(x0, x1, columns + 1), np.linspace(y0, y1, rows + 1)
        for a, b in pairwise(xs):
            for c, d in pairwise(ys):
                drawn = str(self._rng.choice(['park', 'lot', 'buildings', 'plaza', 'field'], p=shares / shares.sum()))
                kept = use if use is not None and self._rng.random() < 0.75 else drawn
                self._layout.blocks.append(Block(float(a), float(c), float(b), float(d), kept))

    def _furnish(self, block: Block) -> None:
        width, height = block.x1 - block.x0, block.y1 - block.y0
        if self._layout.circle and min(abs(block.x0), abs(block.x1)) + min(abs(block.y0), abs(block.y1)) < 30.0:
            self._scatter_trees(block, 0.001)
        elif block.use == 'lot' and min(width, height) > 14.0:
            self._furnish_lot(block)
        elif block.use == 'buildings' and min(width, height) > 12.0:
            self._furnish_buildings(block)
        elif block.use == 'park':
            self._scatter_trees(block, 0.006 + 0.012 * self._settings.greenness)
        else:
            self._scatter_trees(block, 0.0008)

    def _furnish_lot(self, block: Block) -> None:
        """Rows of stalls, two back to back between aisles of 6 m."""
        stall_width, stall_length = STALL
        y = block.y0 + 1.5
        row = 0
        while y + stall_length < block.y1 - 1.0:
            for x in np.arange(block.x0 + 2.0, block.x1 - 2.0 - stall_width, stall_width):
                corners = [(x, y), (x + stall_width, y), (x + stall_width, y + stall_length), (x, y + stall_length)]
                self._layout.stalls.append(np.array(corners))
                if self._rng.random() < self._settings.parked:
                    heading = self._rng.choice([-1.0, 1.0]) * np.pi / 2 + self._rng.normal(0, 0.03)
                    middle = (
                        x + stall_width / 2 + self._rng.normal(0, 0.12),
                        y + stall_length / 2 + self._rng.normal(0, 0.2),
                    )
                    kind = 'car' if self._rng.random() < 0.95 else 'minibus'
                    self._layout.spots.append(Spot(kind, float(middle[0]), float(middle[1]), float(heading)))
                if self._rng.random() < 0.02 * self._settings.greenness:
                    self._layout.trees.append(Tree(x, y + stall_length, float(self._rng.uniform(1.5, 3.0)), row % 5))
            y += stall_length + (6.0 if row % 2 == 0 else 0.3)
            row += 1

    def _furnish_buildings(self, block: Block) -> None:
        x = block.x0 + self._rng.uniform(3.0, 6.0)
        while x < block.x1 - 10.0:
            width = min(self._rng.uniform(9.0, 26.0), block.x1 - 3.0 - x)
            y = block.y0 + self._rng.uniform(3.0, 6.0)
            while y < block.y1 - 10.0 and width > 7.0:
                depth = min(self._rng.uniform(9.0, 22.0), block.y1 - 3.0 - y)
                if depth > 7.0 and self._rng.random() < 0.8:
                    outline = np.array([(x, y), (x + width, y), (x + width, y + depth), (x, y + depth)])
                    self._layout.buildings.append(
                        Building(outline, float(self._rng.uniform(3.0, 13.0)), int(self._rng.integers(6)))
                    )
                y += depth + self._rng.uniform(4.0, 14.0)
            x += width + self._rng.uniform(4.0, 14.0)
        self._scatter_trees(block, 0.002)

    def _scatter_trees(self, block: Block, density: float) -> None:
        count = self._rng.poisson((block.x1 - block.x0) * (block.y1 - block.y0) * density)
        for x, y, size, kind in self._rng.uniform(0, 1, (count, 4)):
            radius = 1.3 + 3.4 * size**1.5
            at_x = block.x0 + (block.x1 - block.x0) * x
            at_y = block.y0 + (block.y1 - block.y0) * y
            if not any(_inside(b.outline, at_x, at_y, radius) for b in self._layout.buildings):
                self._layout.trees.append(Tree(at_x, at_y, radius, int(kind * 5)))

    def _line_with_trees(self, road: Road) -> None:
        """A row of trees behind the curb; their crowns may reach over parked vehicles."""
        if self._rng.random() > 0.25 + 0.5 * self._settings.greenness:
            return
        spacing, radius = self._rng.uniform(8.0, 18.0), self._rng.uniform(1.4, 4.6)
        for direction in (1, -1):
            path = road.line(direction * (road.half_width + min(road.sidewalk, 1.6)))
            for at in np.arange(5.0, path_length(path), spacing):
                if self._rng.random() < 0.75 and all(not (a - 4 < at < b + 4) for a, b in road.gaps):
                    x, y, _ = along(path, np.array([at + self._rng.normal(0, 0.6)]))[0]
                    self._layout.trees.append(
                        Tree(
                            float(x), float(y), float(radius * self._rng.uniform(0.7, 1.2)), int(self._rng.integers(5))
                        )
                    )


def _margin(roads: list[Road], index: int) -> float:
    return roads[index].half_width + roads[index].sidewalk if 0 <= index < len(roads) else 0.0


def _inside(outline: Points, x: float, y: float, margin: float) -> bool:
    (x0, y0), (x1, y1) = outline.min(axis=0) - margin, outline.max(axis=0) + margin
    return bool(x0 < x < x1 and y0 < y < y1)
