"""What a vehicle is made of: slabs with painted tops, in meters, nose along +x, and the brush that paints them."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

CLASS_NAMES: tuple[str, ...] = ('car', 'truck', 'bus', 'minibus', 'cyclist')
"""Class names; the index is the class id."""

Points = NDArray[np.float64]
Image = NDArray[np.uint8]
Color = tuple[int, int, int]

GLASS: Color = (52, 46, 40)
TYRE: Color = (28, 28, 28)


@dataclass(frozen=True)
class Sprite:
    """The painted top of a slab.

    Attributes:
        bgr: (h, w, 3) uint8 colors, painted a little beyond the outline so that interpolation never meets a void.
        alpha: (h, w) uint8 coverage.
        scale: pixels per meter along x and y; the vehicle's origin is the image's center.
    """

    bgr: Image
    alpha: Image
    scale: tuple[float, float]


@dataclass(frozen=True)
class Slab:
    """A convex piece between two heights, with sides of one color and, where `top` is given, a painted top."""

    lower: Points
    upper: Points
    bottom_height: float
    top_height: float
    side: Color
    top: Sprite | None = None


@dataclass(frozen=True)
class Vehicle:
    """One kind of vehicle in one paint.

    Attributes:
        class_id: index into CLASS_NAMES.
        length, width, height: meters.
        slabs: painted in order, lowest first.
        points: (K, 3) everything to project: the slabs' outlines, then three points that span each slab's top.
        slices: which of the points are each slab's outlines.
        frames: where each slab's three points begin: its origin, one meter ahead, one meter to the right.
        solid: how many of the points are outlines.
    """

    class_id: int
    length: float
    width: float
    height: float
    slabs: tuple[Slab, ...]
    points: Points = field(init=False)
    slices: tuple[tuple[int, int], ...] = field(init=False)
    frames: tuple[int, ...] = field(init=False)
    solid: int = field(init=False)

    def __post_init__(self) -> None:
        outlines = [np.concatenate([_at(s.lower, s.bottom_height), _at(s.upper, s.top_height)]) for s in self.slabs]
        ends = np.cumsum([len(o) for o in outlines]).tolist()
        spans = [_at(np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]), s.top_height) for s in self.slabs]
        object.__setattr__(self, 'points', np.concatenate(outlines + spans))
        object.__setattr__(self, 'slices', tuple(zip([0, *ends[:-1]], ends, strict=True)))
        object.__setattr__(self, 'frames', tuple(ends[-1] + 3 * i for i in range(len(self.slabs))))
        object.__setattr__(self, 'solid', ends[-1])


def _at(outline: Points, height: float) -> Points:
    return np.concatenate([outline, np.full((len(outline), 1), height)], axis=1)


def rounded(x0: float, x1: float, width: float, front: float, rear: float, taper: float = 1.0) -> Points:
    """A convex outline from x0 (rear) to x1 (nose): corner radii `front` and `rear`, nose width scaled by `taper`."""
    quarter = np.linspace(0.0, np.pi / 2, 4)
    half_rear, half_front = width / 2, width / 2 * taper
    nose = np.stack([x1 - front + front * np.cos(quarter), half_front - front + front * np.sin(quarter)], axis=1)
    tail = np.stack([x0 + rear - rear * np.sin(quarter), half_rear - rear + rear * np.cos(quarter)], axis=1)
    left = np.concatenate([nose, tail])
    return np.concatenate([left, left[::-1] * (1.0, -1.0)])


class Brush:
    """A sprite in the making; coordinates are meters."""

    def __init__(self, outline: Points, color: Color, scale: float) -> None:
        self._wanted = scale
        self._scale = scale = max(scale, 14.0)
        half = np.ceil(np.abs(outline).max(axis=0) * scale) + 3
        self._center = half - 0.5
        width, height = (int(2 * n) for n in half)
        self._bgr = np.full((height, width, 3), color, np.uint8)
        self._alpha = np.zeros((height, width), np.uint8)
        self._fixed = self._to_pixels(outline)
        cv2.fillConvexPoly(self._alpha, self._fixed, 255, cv2.LINE_AA, 4)

    def _to_pixels(self, points: Points) -> NDArray[np.int32]:
        return np.asarray(np.rint((points * self._scale + self._center) * 16), np.int32)

    def fill(self, points: Points, color: Color) -> None:
        """Fill a convex outline."""
        cv2.fillConvexPoly(self._bgr, self._to_pixels(points), color, cv2.LINE_AA, 4)

    def rectangle(self, x0: float, x1: float, y0: float, y1: float, color: Color) -> None:
        """Fill a rectangle along the axes."""
        self.fill(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), color)

    def line(self, start: tuple[float, float], end: tuple[float, float], width: float, color: Color) -> None:
        """Fill a straight line of a width."""
        a, b = np.array(start), np.array(end)
        across = np.array([a[1] - b[1], b[0] - a[0]]) / max(float(np.linalg.norm(b - a)), 1e-9) * width / 2
        self.fill(np.stack([a + across, b + across, b - across, a - across]), color)

    def shade_edges(self, depth: float, strength: float) -> None:
        """Rounds the top: darker towards the outline, over `depth` meters."""
        size = max(3, int(depth * self._scale) | 1)
        inside = cv2.blur(self._alpha, (size, size)).astype(np.float32) / 255.0
        light = 1.0 - strength * np.clip(1.0 - inside, 0.0, 0.5) * 2.0
        self._bgr = np.clip(self._bgr * light[..., None], 0, 255).astype(np.uint8)

    def glow(self, x: float, y: float, length: float, width: float, gain: float) -> None:
        """A soft highlight centered at (x, y)."""
        rows, columns = np.indices(self._alpha.shape, dtype=np.float32)
        along = (columns - self._center[0]) / self._scale - x
        across = (rows - self._center[1]) / self._scale - y
        bump = np.exp(-((along / length) ** 2) - (across / width) ** 2)[..., None]
        self._bgr = np.clip(self._bgr + bump * gain, 0, 255).astype(np.uint8)

    def finish(self) -> Sprite:
        """The sprite at the scale asked for; small ones are painted larger and shrunk, so that details melt evenly."""
        height, width = self._alpha.shape
        ratio = min(1.0, self._wanted / self._scale)
        size = (max(3, round(width * ratio)), max(3, round(height * ratio)))
        bgr = cv2.resize(self._bgr, size, interpolation=cv2.INTER_AREA)
        alpha = cv2.resize(self._alpha, size, interpolation=cv2.INTER_AREA)
        scale = (self._scale * size[0] / width, self._scale * size[1] / height)
        return Sprite(np.asarray(bgr, np.uint8), np.asarray(alpha, np.uint8), scale)


def pick_paint(paints: tuple[tuple[float, Color], ...], rng: np.random.Generator) -> Color:
    """One of the paints by its share, a little lighter, darker or tinted."""
    shares = np.array([share for share, _ in paints])
    base = np.array(paints[int(rng.choice(len(paints), p=shares / shares.sum()))][1], np.float64)
    return as_color(base * rng.uniform(0.86, 1.1) + rng.uniform(-6, 6, 3))


def as_color(bgr: NDArray[np.float64]) -> Color:
    """Whole numbers from 0 to 255."""
    blue, green, red = np.clip(np.round(bgr), 0, 255).astype(int).tolist()
    return blue, green, red


def scaled(color: Color, gain: float) -> Color:
    """A lighter or darker one."""
    return as_color(np.array(color, np.float64) * gain)


def glass_color(rng: np.random.Generator) -> Color:
    """Glass is dark, or bright where it mirrors the sky."""
    sky = np.array((168.0, 156.0, 138.0))
    share = rng.choice([rng.uniform(0.0, 0.15), rng.uniform(0.2, 0.75)], p=[0.65, 0.35])
    return as_color(np.array(GLASS) * (1 - share) + sky * share)
