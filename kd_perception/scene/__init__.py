"""Synthetic flights of a drone over traffic, with exact boxes: for the demo, the tests and training."""

from kd_perception.scene.scene import Scene, SceneFrame
from kd_perception.scene.settings import LAYOUTS, SceneSettings, draw_settings
from kd_perception.scene.vehicle_parts import CLASS_NAMES

__all__ = ['CLASS_NAMES', 'LAYOUTS', 'Scene', 'SceneFrame', 'SceneSettings', 'draw_settings']
