"""What the scene tests share."""

import copy
from collections.abc import Callable

import numpy as np
import pytest

from kd_perception.scene import Scene


class _SomeTraffic:
    """A choice of a scene's vehicles, where they would be anyway."""

    def __init__(self, scene: Scene, indices: list[int]) -> None:
        self._all = scene._traffic
        self._indices = indices
        self.vehicles = [self._all.vehicles[i] for i in indices]

    def poses(self, seconds: float) -> np.ndarray:
        return self._all.poses(seconds)[self._indices]


@pytest.fixture
def with_vehicles() -> Callable[[Scene, list[int]], Scene]:
    """Makes a copy of a scene that shows only the vehicles of the given indices, on the same ground."""

    def choose(scene: Scene, indices: list[int]) -> Scene:
        fewer = copy.copy(scene)
        fewer._traffic = _SomeTraffic(scene, indices)
        return fewer

    return choose
