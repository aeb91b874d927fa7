"""The vehicles of a layout: which they are and where they are at any time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kd_perception.scene.layout import Layout, along, path_length
from kd_perception.scene.vehicle_parts import Vehicle
from kd_perception.scene.vehicles import make_vehicle

# How many different vehicles of each class a scene knows.
_VARIETY = {'car': 24, 'truck': 5, 'bus': 4, 'minibus': 7, 'cyclist': 5}


class Traffic:
    """Parked and moving vehicles; `vehicles[i]` has the pose `poses(t)[i]`."""

    def __init__(self, layout: Layout, scale: float, rng: np.random.Generator) -> None:
        self._park = {kind: [make_vehicle(kind, rng, scale) for _ in range(count)] for kind, count in _VARIETY.items()}
        self.vehicles: list[Vehicle] = [self._choose(spot.kind, rng) for spot in layout.spots]
        self._standing = np.array([(s.x, s.y, s.heading) for s in layout.spots], np.float64).reshape(-1, 3)
        self._moving = [
            (track.path, path_length(track.path), track.speed, np.array([s for _, s in track.riders]))
            for track in layout.tracks
            if track.riders
        ]
        for track in layout.tracks:
            self.vehicles += [self._choose(kind, rng) for kind, _ in track.riders]

    def _choose(self, kind: str, rng: np.random.Generator) -> Vehicle:
        return self._park[kind][int(rng.integers(len(self._park[kind])))]

    def poses(self, seconds: float) -> NDArray[np.float64]:
        """Poses (N, 3) at a time: x, y in meters and heading in radians."""
        moving = [along(path, (starts + speed * seconds) % length) for path, length, speed, starts in self._moving]
        return np.concatenate([self._standing, *moving])
