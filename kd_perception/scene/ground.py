"""The ground as one picture: surfaces, markings, roofs and trees of a layout, painted once."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from kd_perception.scene.clutter import Clutter
from kd_perception.scene.layout import Building, Layout, Points, Road, turn
from kd_perception.scene.settings import SceneSettings

Image = NDArray[np.uint8]
Color = tuple[int, int, int]

GRASS, ASPHALT, PATCH, PAVING, SOIL, FIELD, LOT, ROOF = range(8)
_ROOFS: tuple[Color, ...] = (
    (72, 88, 158),
    (112, 112, 110),
    (168, 166, 160),
    (80, 78, 76),
    (196, 198, 196),
    (96, 100, 124),
)


# The overlay is one byte: up to 127 it is light (127 in the sun), above that it is the cover of crowns, which are lit.
_levels = np.arange(256)
OVERLAY_LIGHT: Image = np.clip(_levels * 255 // 127, 0, 255).astype(np.uint8)
OVERLAY_CANOPY: Image = np.clip((_levels - 127) * 255 // 128, 0, 255).astype(np.uint8)


def paint(layout: Layout, settings: SceneSettings, scale: float, rng: np.random.Generator) -> Image:
    """Paints a layout at `scale` pixels per meter.

    Returns:
        (S, S, 4) uint8, the world's origin in its middle: BGR without shadows, and the overlay that `OVERLAY_LIGHT`
        and `OVERLAY_CANOPY` read. One picture, because warping one of four channels is the quickest.
    """
    return _Painter(layout, settings, scale, rng).run()


class _Painter:
    def __init__(self, layout: Layout, settings: SceneSettings, scale: float, rng: np.random.Generator) -> None:
        self._layout = layout
        self._settings = settings
        self._scale = scale
        self._rng = rng
        self._size = int(2 * layout.half_size * scale)
        angle = np.deg2rad(settings.sun_azimuth)
        self._shadow = -np.array([np.cos(angle), np.sin(angle)]) * settings.shadow_length

    def run(self) -> Image:
        surfaces = self._surfaces()
        self._bgr = self._textured(surfaces)
        self._canopy = np.zeros((self._size, self._size), np.uint8)
        self._light = np.full((self._size, self._size), 255, np.uint8)
        for road in self._layout.roads:
            self._mark(road)
        self._mark_stalls()
        self._mark_circle()
        self._details()
        clutter = Clutter(self._layout, self._settings.clutter, self._shadow, self._draw, self._rng)
        clutter.on_roads()
        clutter.beside_roads()
        self._shadows()
        for building in self._layout.buildings:
            self._furnish_roof(building)
        clutter.on_roofs()
        self._plant()
        overlay = np.where(self._canopy > 0, 127 + (self._canopy >> 1), self._light >> 1).astype(np.uint8)
        return np.dstack([self._bgr, overlay])

    # Geometry

    def _pixels(self, points: Points) -> NDArray[np.int32]:
        return np.round((points * self._scale + self._size / 2 - 0.5) * 16).astype(np.int32)

    def _fill(self, image: Image, points: Points, value: int | Color, smooth: bool = True) -> None:
        cv2.fillPoly(image, [self._pixels(points)], value, cv2.LINE_AA if smooth else cv2.LINE_8, 4)

    def _draw(self, points: Points, value: Color) -> None:
        self._fill(self._bgr, points, value)

    # Surfaces

    def _surfaces(self) -> Image:
        """A map of what covers each pixel."""
        base = GRASS if self._rng.random() < 0.2 + 0.7 * self._settings.greenness else PAVING
        surfaces = np.full((self._size, self._size), base, np.uint8)
        uses = {'park': GRASS, 'lot': LOT, 'buildings': base, 'plaza': PAVING, 'field': FIELD}
        for b in self._layout.blocks:
            corners = np.array([(b.x0, b.y0), (b.x1, b.y0), (b.x1, b.y1), (b.x0, b.y1)])
            self._fill(surfaces, corners, uses[b.use], smooth=False)
        for road in self._layout.roads:
            edge = road.half_width + road.sidewalk
            self._fill(surfaces, road.strip(-edge, edge), PAVING, smooth=False)
        for road in self._layout.roads:
            self._fill(surfaces, road.strip(-road.half_width, road.half_width), ASPHALT, smooth=False)
        self._patches(surfaces)
        self._medians(surfaces)
        if self._layout.circle:
            for radius, surface in ((2.5, PAVING), (0.0, ASPHALT), (-8.0, GRASS)):
                self._fill(surfaces, _disc(self._layout.circle + radius), surface, smooth=False)
        for building in self._layout.buildings:
            self._fill(surfaces, building.outline, ROOF + building.style, smooth=False)
        return surfaces

    def _medians(self, surfaces: Image) -> None:
        for road in self._layout.roads:
            if road.median == 0.0:
                continue
            surface = GRASS if self._rng.random() < self._settings.greenness else PAVING
            for start, end in _solid(road):
                part = road.strip(-road.median / 2 + 0.3, road.median / 2 - 0.3)
                half = len(part) // 2
                a, b = int(start / 2), int(end / 2)
                outline = np.concatenate([part[:half][a:b], part[half:][::-1][a:b][::-1]])
                if len(outline) > 3:
                    self._fill(surfaces, outline, surface, smooth=False)

    def _patches(self, surfaces: Image) -> None:
        """Mended asphalt: long rectangles of another age."""
        for road in self._layout.roads:
            for _ in range(self._rng.poisson(len(road.center) / 12)):
                start = int(self._rng.integers(0, len(road.center) - 12))
                end = start + int(self._rng.integers(2, 11))
                left = self._rng.uniform(-road.half_width, road.half_width - 1.0)
                right = min(left + self._rng.uniform(0.6, 3.5), road.half_width)
                outline = np.concatenate([road.line(left)[start:end], road.line(right)[start:end][::-1]])
                self._fill(surfaces, outline, PATCH, smooth=False)

    def _palette(self) -> NDArray[np.float32]:
        rng, green = self._rng, self._settings.greenness
        asphalt = rng.uniform(88, 142)
        lush, dry = np.array((52.0, 104.0, 84.0)), np.array((96.0, 132.0, 142.0))
        grass = (dry + (lush - dry) * green) * rng.uniform(0.85, 1.15)
        rows: list[NDArray[np.float64]] = [
            grass,
            asphalt + rng.normal(0, 1.6, 3),
            asphalt * rng.uniform(0.72, 1.08) + rng.normal(0, 2, 3),
            rng.uniform(135, 195) + np.array((-6.0, 0.0, 5.0)) * rng.uniform(0, 2.5),
            np.array((84.0, 108.0, 130.0)) * rng.uniform(0.8, 1.2),
            np.array((88.0, 140.0, 150.0)) * rng.uniform(0.75, 1.15),
            asphalt * rng.uniform(0.85, 1.25) + rng.normal(0, 2, 3),
        ]
        rows += [np.array(roof) * rng.uniform(0.85, 1.15) for roof in _ROOFS]
        palette = np.zeros((256, 3), np.float32)
        palette[: len(rows)] = np.array(rows, np.float32)
        return palette

    def _textured(self, surfaces: Image) -> Image:
        """Colors every surface and gives it grain, blotches and slow drifts of tone."""
        grain, blotch, drift = (np.zeros(256, np.float32) for _ in range(3))
        grain[: ROOF + 6] = (0.10, 0.045, 0.05, 0.045, 0.09, 0.09, 0.05, *(0.035,) * 6)
        blotch[: ROOF + 6] = (0.055, 0.03, 0.035, 0.03, 0.06, 0.04, 0.035, *(0.04,) * 6)
        drift[: ROOF + 6] = (0.10, 0.06, 0.05, 0.06, 0.08, 0.06, 0.07, *(0.05,) * 6)
        size = self._size
        gain = self._noise(1.0) * cv2.LUT(surfaces, grain)
        gain += self._noise(max(3.0, 0.7 * self._scale)) * cv2.LUT(surfaces, blotch)
        gain += self._noise(max(6.0, 2.6 * self._scale)) * cv2.LUT(surfaces, blotch)
        gain += self._noise(max(12.0, 9.0 * self._scale)) * cv2.LUT(surfaces, drift)
        gain += 1.0
        palette = np.clip(np.round(self._palette()), 0, 255).astype(np.uint8).reshape(256, 1, 3)
        colors = cv2.LUT(cv2.merge([surfaces] * 3), palette)
        textured = cv2.multiply(colors, cv2.merge([gain] * 3), dtype=cv2.CV_8U)
        return np.asarray(textured, np.uint8).reshape(size, size, 3)

    def _noise(self, cell: float) -> NDArray[np.float32]:
        """Unit noise with a grain of `cell` pixels; the finest repeats."""
        if cell <= 1.0:
            tile = self._rng.standard_normal((397, 397), np.float32)
            times = self._size // 397 + 1
            return np.tile(tile, (times, times))[: self._size, : self._size]
        cells = int(self._size / cell) + 3
        coarse = self._rng.standard_normal((cells, cells), np.float32)
        return np.asarray(cv2.resize(coarse, (self._size, self._size), interpolation=cv2.INTER_CUBIC), np.float32)

    # Road markings

    def _mark(self, road: Road) -> None:
        white = int(self._rng.uniform(185, 232))
        paint: Color = (white, white, white)
        kerb = int(self._rng.uniform(150, 200))
        for start, end in _solid(road):
            for side in (-1, 1):
                self._stripe(road, side * (road.half_width + 0.1), start, end, 0.25, (kerb, kerb, kerb))
                self._tracks_of_tyres(road, side, start, end)
                if road.parking:
                    self._stripe(road, side * (road.half_width - road.parking), start, end, 0.14, paint)
                elif self._rng.random() < 0.5:
                    self._stripe(road, side * (road.half_width - 0.35), start, end, 0.14, paint)
                for lane in range(1, road.lanes):
                    offset = side * (road.median / 2 + lane * 3.3)
                    for at in np.arange(start, end - 3.0, 9.0):
                        self._stripe(road, offset, at, at + 3.0, 0.15, paint)
                if road.median:
                    self._stripe(road, side * road.median / 2, start, end, 0.15, paint)
            if not road.median:
                dashed = road.lanes == 1
                for at in np.arange(start, end - 3.0, 6.0):
                    self._stripe(road, 0.0, at, at + (3.0 if dashed else 6.0), 0.16, paint)
        for start, end in road.gaps:
            if not self._layout.circle:
                self._cross(road, start, 1, paint)
                self._cross(road, end, -1, paint)

    def _stripe(self, road: Road, offset: float, start: float, end: float, width: float, color: Color) -> None:
        indices = np.arange(start, end + 0.5, 2.0) / 2.0
        where = np.clip(indices, 0, len(road.center) - 1)
        whole = np.arange(len(road.center))
        edges = []
        for side in (-width / 2, width / 2):
            line = road.line(offset + side)
            edges.append(np.stack([np.interp(where, whole, line[:, 0]), np.interp(where, whole, line[:, 1])], axis=1))
        self._fill(self._bgr, np.concatenate([edges[0], edges[1][::-1]]), color)

    def _tracks_of_tyres(self, road: Road, side: int, start: float, end: float) -> None:
        """Two darker bands a lane, faint."""
        tone = float(self._rng.uniform(0.90, 0.98))
        mask = np.zeros((self._size, self._size), np.uint8)
        a, b = int(start / 2), int(end / 2) + 1
        for lane in range(road.lanes):
            for wheel in (-0.85, 0.85):
                offset = side * (road.lane_offset(lane) + wheel)
                line = self._pixels(road.line(offset)[a:b])
                cv2.polylines(mask, [line], False, 255, max(1, int(0.5 * self._scale)), cv2.LINE_AA, 4)
        x, y, w, h = cv2.boundingRect(mask)
        part, where = self._bgr[y : y + h, x : x + w], mask[y : y + h, x : x + w] > 0
        part[where] = (part[where] * tone).astype(np.uint8)

    def _cross(self, road: Road, at: float, direction: int, paint: Color) -> None:
        """A stop line on the arriving side and, mostly, a zebra crossing."""
        index = int(np.clip(round(at / 2), 0, len(road.center) - 1))
        origin, normal = road.center[index], road.normals[index]
        forward = np.array([normal[1], -normal[0]]) * direction
        half = road.half_width - road.parking

        def place(along: float, across: float) -> Points:
            return np.asarray(origin + forward * along + normal * across)

        side = 1 if direction > 0 else -1
        near, far = side * (road.median / 2 + 0.2), side * half
        line = np.stack([place(-0.6, near), place(-0.6, far), place(-0.2, far), place(-0.2, near)])
        self._fill(self._bgr, line, paint)
        if self._rng.random() < 0.75:
            for across in np.arange(-half + 0.3, half - 0.5, 1.0):
                bar = [place(0.6, across), place(3.4, across), place(3.4, across + 0.5), place(0.6, across + 0.5)]
                self._fill(self._bgr, np.stack(bar), paint)

    def _mark_stalls(self) -> None:
        white = int(self._rng.uniform(170, 225))
        for stall in self._layout.stalls:
            for a, b in ((0, 3), (1, 2)):
                along = np.array([0.06, 0.0])
                quad = np.stack([stall[a] - along, stall[a] + along, stall[b] + along, stall[b] - along])
                self._fill(self._bgr, quad, (white, white, white))

    def _mark_circle(self) -> None:
        if not self._layout.circle:
            return
        for radius in (self._layout.circle - 0.3, self._layout.circle - 7.7):
            line = self._pixels(_disc(radius))
            cv2.polylines(self._bgr, [line], True, (205, 208, 208), max(1, int(0.2 * self._scale)), cv2.LINE_AA, 4)

    # Details

    def _details(self) -> None:
        """Manhole covers, cracks and stains: what a detector must not take for vehicles."""
        for road in self._layout.roads:
            for _ in range(self._rng.poisson(len(road.center) / 8)):
                index = int(self._rng.integers(len(road.center)))
                place = road.center[index] + road.normals[index] * self._rng.uniform(-1, 1) * road.half_width
                tone = int(self._rng.uniform(62, 100))
                if self._rng.random() < 0.5:
                    self._fill(self._bgr, place + _disc(0.35, 10), (tone, tone, tone))
                else:
                    walk = place + np.cumsum(self._rng.normal(0, 0.6, (6, 2)), axis=0)
                    cv2.polylines(self._bgr, [self._pixels(walk)], False, (tone,) * 3, 1, cv2.LINE_AA, 4)
        half = self._layout.half_size
        for x, y, size, tone in self._rng.uniform(0, 1, (int(half * half / 900), 4)):
            place = np.array([(x * 2 - 1) * half, (y * 2 - 1) * half])
            box = np.array([(-1, -0.5), (1, -0.5), (1, 0.5), (-1, 0.5)]) * (0.3 + 0.7 * size)
            if not self._on_road(place):
                self._fill(self._bgr, place + box @ turn(tone * 6.3), (int(60 + 150 * tone),) * 3)

    def _on_road(self, place: NDArray[np.float64]) -> bool:
        return any(np.abs(road.center - place).sum(axis=1).min() < road.half_width + 3.0 for road in self._layout.roads)

    def _furnish_roof(self, building: Building) -> None:
        low, high = building.outline.min(axis=0), building.outline.max(axis=0)
        tone = np.array(_ROOFS[building.style], np.float64)
        self._fill(self._light, building.outline, 255)
        if building.style in (0, 5):
            self._pitched_roof(low, high, tone)
        else:
            for _ in range(int(self._rng.integers(1, 7))):
                place = self._rng.uniform(low + 1.5, high - 1.5)
                size = self._rng.uniform(0.3, 1.2, 2)
                bright = int(self._rng.uniform(90, 220))
                self._fill(
                    self._bgr,
                    _rectangle(place - size + self._shadow * 0.8, place + size + self._shadow * 0.8),
                    (60, 60, 60),
                )
                self._fill(self._bgr, _rectangle(place - size, place + size), (bright, bright, bright))
        border = self._pixels(building.outline)
        edge = tuple(int(c) for c in np.clip(tone * 1.25 + 15, 0, 255))
        cv2.polylines(self._bgr, [border], True, edge, max(1, int(0.4 * self._scale)), cv2.LINE_AA, 4)

    def _pitched_roof(self, low: NDArray[np.float64], high: NDArray[np.float64], tone: NDArray[np.float64]) -> None:
        """Two slopes along the longer side, the one away from the sun darker, with rows of tiles."""
        wide = high[0] - low[0] > high[1] - low[1]
        middle = (low + high) / 2
        lit = self._shadow[1 if wide else 0] > 0
        part_high = np.array([high[0], middle[1]]) if wide else np.array([middle[0], high[1]])
        part_low = np.array([low[0], middle[1]]) if wide else np.array([middle[0], low[1]])
        gains = (1.08, 0.78) if lit else (0.78, 1.08)
        for (a, b), gain in zip(((low, part_high), (part_low, high)), gains, strict=True):
            self._fill(self._bgr, _rectangle(a, b), tuple(int(c) for c in np.clip(tone * gain, 0, 255)))  # type: ignore[arg-type]
        axis = 1 if wide else 0
        for at in np.arange(low[axis] + 0.5, high[axis], max(0.5, 3.0 / self._scale)):
            a, b = low.copy(), high.copy()
            a[axis], b[axis] = at, at + 0.12
            self._fill(self._bgr, _rectangle(a, b), tuple(int(c) for c in tone * 0.82))  # type: ignore[arg-type]

    def _shadows(self) -> None:
        dark = int(255 * (1.0 - self._settings.shadow_depth))
        for building in self._layout.buildings:
            swept = np.concatenate([building.outline, building.outline + self._shadow * building.height])
            hull = cv2.convexHull(swept.astype(np.float32)).reshape(-1, 2).astype(np.float64)
            self._fill(self._light, hull, dark)
        for tree in self._layout.trees:
            middle = np.array([tree.x, tree.y]) + self._shadow * tree.radius * 1.5
            self._fill(self._light, middle + _disc(tree.radius * 0.92, 18), dark)
        self._light = np.asarray(cv2.blur(self._light, (3, 3)), np.uint8)

    # Trees

    def _plant(self) -> None:
        stamps = [self._crown(kind) for kind in range(5)]
        for tree in self._layout.trees:
            colors, cover = stamps[tree.kind]
            size = max(3, int(2.2 * tree.radius * self._scale))
            self._stamp(tree.x, tree.y, _resized(colors, size), _resized(cover, size))

    def _crown(self, kind: int) -> tuple[Image, Image]:
        """A crown seen from above: many leafy blobs, brighter towards the sun."""
        size, rng = 96, self._rng
        colors, cover = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.uint8)
        green = self._settings.greenness
        base = (
            np.array((44.0, 84.0, 62.0)) * (0.8 + 0.5 * rng.random())
            + np.array((8.0, 14.0, 40.0)) * (1 - green) * rng.random()
        )
        sun = -self._shadow / max(float(np.linalg.norm(self._shadow)), 1e-6)
        for layer in range(150):
            reach = (1.0 - layer / 190) * (0.82 if kind % 2 else 0.9)
            angle, distance = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random()) * reach * 0.42 * size
            offset = np.array([np.cos(angle), np.sin(angle)]) * distance
            light = 0.62 + 0.5 * layer / 150 + 0.5 * float(offset @ sun) / (0.42 * size) * 0.6 + rng.normal(0, 0.12)
            color = tuple(int(c) for c in np.clip(base * light, 0, 255))
            x, y = (np.round((offset + size / 2) * 16).astype(int)).tolist()
            radius = int(rng.uniform(0.03, 0.085) * size * 16)
            cv2.circle(colors, (x, y), radius, color, -1, cv2.LINE_AA, 4)
            cv2.circle(cover, (x, y), radius, 255, -1, cv2.LINE_AA, 4)
        return colors, cover

    def _stamp(self, x: float, y: float, colors: Image, cover: Image) -> None:
        size = len(cover)
        left, top = int(x * self._scale + self._size / 2 - size / 2), int(y * self._scale + self._size / 2 - size / 2)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + size, self._size), min(top + size, self._size)
        if x0 >= x1 or y0 >= y1:
            return
        inner = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        outer = (slice(y0, y1), slice(x0, x1))
        share = cover[inner].astype(np.float32) / 255.0
        self._bgr[outer] = cv2.blendLinear(self._bgr[outer], colors[inner], 1.0 - share, share)
        self._canopy[outer] = cv2.max(self._canopy[outer], cover[inner])
        self._light[outer] = cv2.max(self._light[outer], cover[inner])


def _solid(road: Road) -> list[tuple[float, float]]:
    """The stretches of a road between its gaps."""
    cuts = [0.0, *(edge for gap in sorted(road.gaps) for edge in gap), 2.0 * (len(road.center) - 1)]
    return [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=True) if b - a > 4.0]


def _resized(image: Image, size: int) -> Image:
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def _disc(radius: float, corners: int = 48) -> Points:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius)


def _rectangle(low: NDArray[np.float64], high: NDArray[np.float64]) -> Points:
    return np.array([(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])])
