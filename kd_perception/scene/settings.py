"""What a scene is made of: place, camera, light and traffic, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LAYOUTS: tuple[str, ...] = ('street', 'crossing', 'parking', 'roundabout')


@dataclass(frozen=True)
class SceneSettings:
    """Everything that sets one scene apart from another.

    Attributes:
        layout: one of LAYOUTS.
        ground_sample_distance: meters per pixel on the ground at the image's center; 0.065 makes a car 70 px long.
        tilt: angle of the optical axis from straight down, degrees, 0 to 30.
        focal_ratio: focal length over image width; small is a wide lens from low down.
        heading: direction of the image's right side in the world, degrees.
        sun_azimuth: where the light comes from, degrees.
        shadow_length: meters of shadow per meter of height.
        shadow_depth: share of the light that a shadow takes, 0 to 1.
        exposure: gain on the finished image.
        contrast: slope around mid gray.
        cast: gains of blue, green and red.
        haze: share of gray veil, 0 to 1.
        blur: standard deviation of the lens blur, pixels.
        noise: standard deviation of the sensor noise, gray levels.
        traffic: share of lane space in use, 0 to 1.
        parked: share of parking space in use, 0 to 1.
        greenness: 0 is dry or built up, 1 is lush.
        mix: shares of the classes car, truck, bus, minibus, cyclist among moving vehicles.
        clutter: how much lies about that looks like a vehicle and is none: traffic islands, curbs, arrows, stairs, kiosks, roof
            boxes; 1 is a busy place, 0 none.
    """

    layout: str = 'crossing'
    ground_sample_distance: float = 0.11
    tilt: float = 0.0
    focal_ratio: float = 0.9
    heading: float = 0.0
    sun_azimuth: float = 215.0
    shadow_length: float = 0.7
    shadow_depth: float = 0.5
    exposure: float = 1.0
    contrast: float = 1.0
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    haze: float = 0.0
    blur: float = 0.5
    noise: float = 3.0
    traffic: float = 0.45
    parked: float = 0.6
    greenness: float = 0.6
    mix: tuple[float, float, float, float, float] = (0.68, 0.08, 0.07, 0.10, 0.07)
    clutter: float = 0.0

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f'layout is {self.layout!r}; choose one of {", ".join(LAYOUTS)}')
        if not 0.02 <= self.ground_sample_distance <= 1.0:
            raise ValueError(f'ground_sample_distance is {self.ground_sample_distance} m; it must be 0.02 to 1.0')
        if not 0.0 <= self.tilt <= 30.0:
            raise ValueError(f'tilt is {self.tilt} degrees; it must be 0 to 30')
        if not 0.0 <= self.clutter <= 3.0:
            raise ValueError(f'clutter is {self.clutter}; it must be 0 to 3')


def draw_settings(seed: int) -> SceneSettings:
    """Draws a scene's settings: cars of 12 to 70 px, any light, any layout."""
    rng = np.random.default_rng((seed, 0x5CE9E))
    sunny = rng.random() < 0.6
    car_length_px = float(np.exp(rng.uniform(np.log(12.0), np.log(70.0))))
    warmth, tint = rng.normal(0.0, 0.05), rng.normal(0.0, 0.02)
    mix = np.array((0.66, 0.09, 0.07, 0.11, 0.07)) * rng.uniform(0.5, 1.6, 5)
    mix /= mix.sum()
    return SceneSettings(
        layout=str(rng.choice(LAYOUTS, p=(0.34, 0.34, 0.18, 0.14))),
        ground_sample_distance=4.5 / car_length_px,
        tilt=float(rng.choice([rng.uniform(0.0, 3.0), rng.uniform(3.0, 28.0)], p=[0.55, 0.45])),
        focal_ratio=float(rng.uniform(0.75, 2.2)),
        heading=float(rng.choice([rng.normal(0.0, 4.0), rng.uniform(0.0, 360.0)], p=[0.4, 0.6])),
        sun_azimuth=float(rng.uniform(0.0, 360.0)),
        shadow_length=float(rng.uniform(0.3, 1.7)) if sunny else float(rng.uniform(0.1, 0.35)),
        shadow_depth=float(rng.uniform(0.35, 0.68)) if sunny else float(rng.uniform(0.15, 0.4)),
        exposure=float(rng.uniform(0.72, 1.28)),
        contrast=float(rng.uniform(0.82, 1.2)),
        cast=(float(1.0 - warmth), float(1.0 + tint), float(1.0 + warmth)),
        haze=float(rng.choice([0.0, rng.uniform(0.02, 0.18)])),
        blur=float(rng.uniform(0.35, 1.1)),
        noise=float(rng.uniform(1.0, 7.0)),
        traffic=float(rng.uniform(0.15, 0.8)),
        parked=float(rng.uniform(0.25, 0.95)),
        greenness=float(rng.uniform(0.0, 1.0)),
        mix=(float(mix[0]), float(mix[1]), float(mix[2]), float(mix[3]), float(mix[4])),
    )
