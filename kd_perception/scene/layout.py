"""The plan of a place in metres: roads, blocks, trees, and where vehicles stand or drive (x right, y down)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

LANE = 3.3
STALL = (2.55, 5.0)


@dataclass(frozen=True)
class Road:
    """A road along a center line; offsets are meters to the right of it.

    Attributes:
        center: (N, 2) points, densely spaced.
        normals: (N, 2) unit vectors to the right.
        lanes: per direction.
        median: width of the strip between the directions, 0 for none.
        parking: width of the parking strip on each side, 0 for none.
        sidewalk: width of the pavement on each side.
        gaps: stretches of the center line (start, end in meters from its first point) without markings.
    """

    center: Points
    normals: Points
    lanes: int
    median: float
    parking: float
    sidewalk: float
    gaps: tuple[tuple[float, float], ...] = ()

    @property
    def half_width(self) -> float:
        """From the center line to the curb."""
        return self.median / 2 + self.lanes * LANE + self.parking

    def line(self, offset: float) -> Points:
        """The points at an offset to the right."""
        return self.center + self.normals * offset

    def strip(self, left: float, right: float) -> Points:
        """The outline between two offsets."""
        return np.concatenate([self.line(left), self.line(right)[::-1]])

    def lane_offset(self, lane: int) -> float:
        """The offset of the middle of a lane, 0 beside the median."""
        return self.median / 2 + (lane + 0.5) * LANE


@dataclass(frozen=True)
class Block:
    """A rectangle of land between roads; `use` is one of park, lot, buildings, plaza, field."""

    x0: float
    y0: float
    x1: float
    y1: float
    use: str


@dataclass(frozen=True)
class Building:
    """A roof outline (convex) and its height in meters; `style` picks the roof."""

    outline: Points
    height: float
    style: int


@dataclass(frozen=True)
class Tree:
    """A tree: middle, radius of the crown and kind."""

    x: float
    y: float
    radius: float
    kind: int


@dataclass(frozen=True)
class Spot:
    """Where a vehicle stands: class name, position and heading (radians)."""

    kind: str
    x: float
    y: float
    heading: float


@dataclass(frozen=True)
class Track:
    """A path that vehicles follow at one speed, coming round again at its end.

    Attributes:
        path: (N, 2) points.
        speed: meters per second.
        riders: class name and starting distance along the path of every vehicle.
    """

    path: Points
    speed: float
    riders: tuple[tuple[str, float], ...]


@dataclass
class Layout:
    """Everything on the ground of a square world of `half_size` meters around the origin."""

    half_size: float
    roads: list[Road] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    buildings: list[Building] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    stalls: list[Points] = field(default_factory=list)
    spots: list[Spot] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)
    circle: float = 0.0


def along(path: Points, distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Poses on a path: (N, 3) x, y, heading, the heading over a wheelbase so that corners are turned smoothly."""
    steps = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])

    def at(s: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([np.interp(s, steps, path[:, 0]), np.interp(s, steps, path[:, 1])], axis=-1)

    s = np.clip(distances, 1.5, max(1.5, float(steps[-1]) - 1.5))
    front, rear = at(s + 1.5), at(s - 1.5)
    middle, ahead = (front + rear) / 2, front - rear
    return np.concatenate([middle, np.arctan2(ahead[:, 1], ahead[:, 0])[:, None]], axis=1)


def path_length(path: Points) -> float:
    """Its length in meters."""
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


def turn(angle: float) -> NDArray[np.float64]:
    """Points as rows, times this, are turned by `angle`, radians, from x towards y."""
    return np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
