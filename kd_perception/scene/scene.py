"""A scene: frames of a drone's flight over traffic with the exact box of every vehicle."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kd_perception.core.detections import Detections
from kd_perception.scene.camera import Camera, Matrix, project
from kd_perception.scene.ground import paint
from kd_perception.scene.layout import plan
from kd_perception.scene.settings import SceneSettings, draw_settings
from kd_perception.scene.traffic import Traffic
from kd_perception.scene.vehicles import Sprite, Vehicle

Image = NDArray[np.uint8]

_FRACTION_BITS = 4  # polygon corners are given to OpenCV in sixteenths of a pixel
_MIN_VISIBLE = 0.4
_MIN_SIDE = 3.0
_NOISE_SHIFTS = 64
_LONGEST = 19.0


@dataclass(frozen=True)
class SceneFrame:
    """One frame.

    Attributes:
        image: (height, width, 3) uint8 BGR.
        truth: a box with score 1 for every vehicle of which enough is in sight, in pixels of `image`.
        stamp: seconds since the first frame.
    """

    image: Image
    truth: Detections
    stamp: float


class Scene:
    """A drone's flight over streets; every frame is a pure function of the seed, the settings and its number.

    Args:
        seed: decides the place and, unless `settings` are given, the camera, the light and the traffic.
        width: of the frames, pixels.
        height: of the frames, pixels.
        fps: frames per second of flight.
        settings: what to show; drawn from the seed when None.

    Raises:
        ValueError: a size or rate that is not positive.

    Example:
        >>> frame = Scene(seed=3, width=320, height=240).frame(0)
        >>> frame.image.shape
        (240, 320, 3)
    """

    def __init__(
        self,
        seed: int = 0,
        width: int = 640,
        height: int = 480,
        fps: float = 30.0,
        settings: SceneSettings | None = None,
    ) -> None:
        if min(width, height) < 1 or fps <= 0:
            raise ValueError(f'a scene of {width}x{height} pixels at {fps} frames/s; all three must be positive')
        self.seed, self.width, self.height, self.fps = seed, width, height, fps
        self.settings = settings if settings is not None else draw_settings(seed)
        rng = np.random.default_rng(seed)
        self._camera = Camera(self.settings, width, height, rng)
        half_size = self._camera.half_size()
        layout = plan(self.settings, half_size, rng)
        scale = 1.0 / self.settings.ground_sample_distance
        self._traffic = Traffic(layout, 1.3 * scale, rng)
        self._ground = paint(layout, self.settings, scale, rng)
        # From the ground picture's pixel centres to metres.
        middle = half_size - 0.5 / scale
        self._to_metres = np.array([(1 / scale, 0, -middle), (0, 1 / scale, -middle), (0, 0, 1)])
        self._has_canopy = bool(self._ground.canopy.any())
        self._noise = self._make_noise(rng)
        angle = np.deg2rad(self.settings.sun_azimuth)
        self._shadow = -np.array([np.cos(angle), np.sin(angle)]) * self.settings.shadow_length
        self._dark = int(255 * (1.0 - self.settings.shadow_depth))

    def frame(self, k: int) -> SceneFrame:
        """Frame number `k`, 0 or more: the same bytes whenever and in whatever order it is asked for."""
        stamp = k / self.fps
        projection = self._camera.projection(stamp)
        ground = self._seen(self._ground.bgr, projection)
        canopy = self._seen(self._ground.canopy, projection) if self._has_canopy else None
        light = self._seen(self._ground.light, projection)
        shadows = np.full((self.height, self.width), 255, np.uint8)
        owners = np.zeros((self.height, self.width), np.uint16)
        image = ground.copy() if self._has_canopy else ground

        bodies = self._bodies(stamp, projection)
        for body in bodies:
            cv2.fillConvexPoly(shadows, body.shadow, self._dark, cv2.LINE_AA, _FRACTION_BITS)
        for index, body in enumerate(bodies, start=1):
            body.paint(image, owners, index)
        if canopy is not None:
            for body in bodies:
                _restore(image, ground, canopy, body.window)
            owners[canopy > 127] = 0
        boxes, class_ids = self._truth(bodies, owners)
        shaded = self._shade(image, light, shadows, owners, canopy)
        truth = Detections(boxes, np.ones(len(boxes), np.float32), class_ids)
        return SceneFrame(self._expose(shaded, k), truth, stamp)

    def _seen(self, picture: Image, projection: Matrix) -> Image:
        """The part of a ground picture that the camera sees."""
        matrix = projection[:, [0, 1, 3]] @ self._to_metres
        size = (self.width, self.height)
        return np.asarray(cv2.warpPerspective(picture, matrix, size, flags=cv2.INTER_LINEAR), np.uint8)

    def _bodies(self, stamp: float, projection: Matrix) -> list[_Body]:
        """The vehicles near the view, the farthest first."""
        poses = self._traffic.poses(stamp)
        centres = np.concatenate([poses[:, :2], np.zeros((len(poses), 1))], axis=1)
        places = project(projection, centres)
        depths = centres @ projection[2, :3] + projection[2, 3]
        margin = _LONGEST / 2 * self.settings.focal_ratio * self.width / np.maximum(depths, 1.0)
        inside = (places > -margin[:, None]) & (places < np.array([self.width, self.height]) + margin[:, None])
        near = np.flatnonzero(inside.all(axis=1) & (depths > 0))
        near = near[np.argsort(-depths[near], kind='stable')]
        return [
            _Body(self._traffic.vehicles[i], poses[i], projection, self._shadow, (self.width, self.height))
            for i in near
        ]

    def _truth(self, bodies: list[_Body], owners: NDArray[np.uint16]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        boxes: list[NDArray[np.float64]] = []
        class_ids: list[int] = []
        for index, body in enumerate(bodies, start=1):
            x0, y0, x1, y1 = body.window
            seen = np.asarray(owners[y0:y1, x0:x1] == index, np.uint8)
            if cv2.countNonZero(seen) < _MIN_VISIBLE * body.area:
                continue
            x, y, w, h = cv2.boundingRect(seen)
            low, high = np.array([x0 + x, y0 + y], np.float64), np.array([x0 + x + w, y0 + y + h], np.float64)
            box = np.concatenate([np.maximum(low, body.box[:2]), np.minimum(high, body.box[2:])])
            if (box[2:] - box[:2]).min() >= _MIN_SIDE:
                boxes.append(box)
                class_ids.append(body.vehicle.class_id)
        return np.array(boxes, np.float32).reshape(-1, 4), np.array(class_ids, np.int32)

    # Light and lens

    def _shade(
        self, image: Image, light: Image, shadows: Image, owners: NDArray[np.uint16], canopy: Image | None
    ) -> Image:
        """Darkens what lies in shadow; vehicles throw none on themselves, crowns catch none."""
        shadows = np.asarray(cv2.blur(shadows, (3, 3)), np.uint8)
        shadows[owners > 0] = 255
        both = cv2.min(light, shadows)
        if canopy is not None:
            both = cv2.max(both, canopy)
        return np.asarray(cv2.multiply(image, cv2.merge([both] * 3), scale=1 / 255), np.uint8)

    def _expose(self, image: Image, k: int) -> Image:
        """Lens blur, tone curve with a slow drift of exposure, and sensor noise."""
        s = self.settings
        if s.blur > 0.3:
            image = np.asarray(cv2.GaussianBlur(image, (5, 5), s.blur), np.uint8)
        drift = 1.0 + 0.02 * np.sin(k / self.fps * 0.7 + self.seed)
        levels = np.arange(256.0)[:, None] / 255.0
        tones = ((levels - 0.45) * s.contrast + 0.45) * s.exposure * drift * np.array(s.cast)
        tones = tones * (1.0 - s.haze) + 0.75 * s.haze
        curve = np.clip(np.round(tones * 255.0), 0, 255).astype(np.uint8).reshape(256, 1, 3)
        toned = cv2.LUT(image, curve)
        x, y = np.random.default_rng((self.seed, k)).integers(0, _NOISE_SHIFTS, 2)
        noise = self._noise[y : y + self.height, x : x + self.width]
        return np.asarray(cv2.addWeighted(toned, 1.0, noise, 1.0, -128.0), np.uint8)

    def _make_noise(self, rng: np.random.Generator) -> Image:
        """Sensor noise around 128, mostly of brightness, a little larger than a frame."""
        shape = (self.height + _NOISE_SHIFTS, self.width + _NOISE_SHIFTS)
        grey = rng.standard_normal(shape, np.float32) * (self.settings.noise * 0.85)
        coarse = rng.standard_normal((shape[0] // 2 + 1, shape[1] // 2 + 1, 3), np.float32) * (
            self.settings.noise * 0.6
        )
        colour = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_LINEAR)
        return np.clip(colour + (grey[..., None] + 128.5), 0, 255).astype(np.uint8)


class _Body:
    """One vehicle in one frame: its outlines in the image.

    Attributes:
        vehicle: what it is.
        box: exact bounds x0, y0, x1, y1 of its whole outline, pixels.
        area: of its whole outline, pixels.
        window: whole-pixel bounds of the outline inside the image.
        shadow: outline on the ground in fixed point.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        pose: NDArray[np.float64],
        projection: Matrix,
        sun: NDArray[np.float64],
        size: tuple[int, int],
    ) -> None:
        self.vehicle = vehicle
        cos, sin = np.cos(pose[2]), np.sin(pose[2])
        world = vehicle.points.copy()
        world[:, :2] = vehicle.points[:, :2] @ np.array([(cos, sin), (-sin, cos)]) + pose[:2]
        pixels = project(projection, world)
        self._outlines = [cv2.convexHull(pixels[a:b].astype(np.float32)) for a, b in vehicle.slices]
        self._frames = [pixels[i : i + 3] for i in vehicle.frames]
        outline = cv2.convexHull(np.concatenate(self._outlines))
        self.area = float(cv2.contourArea(outline))
        corners = outline.reshape(-1, 2).astype(np.float64)
        low, high = corners.min(axis=0) + 0.5, corners.max(axis=0) + 0.5
        self.box = np.concatenate([low, high])
        x0, y0 = np.maximum(np.floor(low).astype(int) - 1, 0).tolist()
        x1, y1 = np.minimum(np.ceil(high).astype(int) + 1, size).tolist()
        self.window = (x0, y0, max(x0, x1), max(y0, y1))
        cast = world[: vehicle.solid].copy()
        cast[:, :2] += sun * cast[:, 2:]
        cast[:, 2] = 0.0
        self.shadow = _fixed(cv2.convexHull(project(projection, cast).astype(np.float32)))

    def paint(self, image: Image, owners: NDArray[np.uint16], index: int) -> None:
        """Paints sides and tops into `image` and its index into `owners`."""
        x0, y0, x1, y1 = self.window
        if x0 >= x1 or y0 >= y1:
            return
        for slab, outline, frame in zip(self.vehicle.slabs, self._outlines, self._frames, strict=True):
            fixed = _fixed(outline)
            cv2.fillConvexPoly(image, fixed, slab.side, cv2.LINE_AA, _FRACTION_BITS)
            cv2.fillConvexPoly(owners, fixed, index, cv2.LINE_8, _FRACTION_BITS)
            if slab.top is not None:
                _paint_top(image[y0:y1, x0:x1], slab.top, frame - (x0, y0))


def _paint_top(part: Image, top: Sprite, frame: Matrix) -> None:
    """Blends a sprite into a part of an image; `frame` is where the pixels of (0, 0), (1 m, 0) and (0, 1 m) lie."""
    height, width = top.alpha.shape
    axes = np.stack([(frame[1] - frame[0]) / top.scale[0], (frame[2] - frame[0]) / top.scale[1]], axis=1)
    matrix = np.concatenate([axes, (frame[0] - axes @ ((width - 1) / 2, (height - 1) / 2))[:, None]], axis=1)
    size = (part.shape[1], part.shape[0])
    colours = cv2.warpAffine(top.bgr, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpAffine(top.alpha, matrix, size, flags=cv2.INTER_LINEAR).astype(np.float32)
    cover *= 1 / 255
    part[:] = cv2.blendLinear(part, colours, 1.0 - cover, cover)


def _restore(image: Image, ground: Image, canopy: Image, window: tuple[int, int, int, int]) -> None:
    """Puts crowns back over what was painted in a window."""
    x0, y0, x1, y1 = window
    over = canopy[y0:y1, x0:x1]
    if over.any():
        share = over.astype(np.float32) / 255.0
        image[y0:y1, x0:x1] = cv2.blendLinear(image[y0:y1, x0:x1], ground[y0:y1, x0:x1], 1.0 - share, share)


def _fixed(points: NDArray[np.float32]) -> NDArray[np.int32]:
    return np.round(points * (1 << _FRACTION_BITS)).astype(np.int32)
